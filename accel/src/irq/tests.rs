//! Claims about the interrupt controller outside the kernel.

use super::*;

fn heard() -> (Arc<UserIrqChip>, UserIrq, Arc<Mutex<Vec<Interrupt>>>) {
    let chip = UserIrqChip::new();
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&log);
    chip.listen(move |interrupt| sink.lock().unwrap().push(interrupt));
    (Arc::clone(&chip), UserIrq(chip), log)
}

#[test]
fn only_changes_of_existing_lines_are_reported() {
    let (chip, irq, log) = heard();
    irq.set_gsi(5, true);
    irq.set_gsi(5, true);
    irq.set_gsi(GSI_COUNT, true);
    irq.set_gsi(u32::MAX, true);
    assert!(chip.level(5) && !chip.level(GSI_COUNT));
    irq.set_gsi(5, false);
    let line = |level| Interrupt::Line { gsi: 5, level };
    assert_eq!(*log.lock().unwrap(), [line(true), line(false)]);
}

#[test]
fn a_route_delivers_its_latest_message() {
    let (_chip, irq, log) = heard();
    let message = |data| MsiMessage { address: 0xfee0_0000, data };
    let route = Arc::new(irq).msi_route(message(1)).unwrap();
    route.trigger();
    route.update(message(2)).unwrap();
    route.trigger();
    assert!(route.connect(&Arc::new(EventFd::new(0).unwrap())).is_err());
    assert_eq!(*log.lock().unwrap(), [Interrupt::Msi(message(1)), Interrupt::Msi(message(2))]);
}

#[test]
fn a_listener_may_look_at_levels() {
    let chip = UserIrqChip::new();
    let seen = Arc::new(Mutex::new(None));
    let (sink, inner) = (Arc::clone(&seen), Arc::downgrade(&chip));
    chip.listen(move |_| *sink.lock().unwrap() = inner.upgrade().map(|chip| chip.level(3)));
    UserIrq(Arc::clone(&chip)).set_gsi(3, true);
    assert_eq!(*seen.lock().unwrap(), Some(true));
}

#[test]
fn a_line_counts_when_it_rises() {
    let (_chip, irq, _log) = heard();
    for (gsi, level) in [(5, true), (5, true), (5, false), (5, true), (23, true), (3, false), (24, true)] {
        irq.set_gsi(gsi, level);
    }
    let [LineStatistics { controller, raised }] = &irq.statistics()[..] else { panic!("one controller") };
    let counted: Vec<_> = raised.iter().enumerate().filter(|(_, count)| **count > 0).collect();
    assert_eq!((*controller, counted), (UserIrqChip::NAME, vec![(5, &2), (23, &1)]));
}
