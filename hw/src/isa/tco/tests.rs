//! The registers as the datasheet has them, the timer in ticks, and what two timeouts come to.

use qapi::types::{RunState, WatchdogAction};

use super::*;
use crate::isa::south_bridge::RCBA_BASE;
use crate::testing::{Rig, carry, config};

const BASE: u64 = 0x660;
const STS1: u64 = BASE + 4;
const STS2: u64 = BASE + 6;
const CNT1: u64 = BASE + 8;
const TMR: u64 = BASE + 0x12;
const GCS_AT: u64 = RCBA_BASE as u64 + GCS;

/// A machine of which the registers are where firmware puts them, and which runs.
fn rig(globals: &[(&'static str, &'static str)]) -> Rig {
    let rig = Rig::build_with(config("q35"), |machine| {
        machine.mainloop().virtual_clock().set_manual();
        for (property, value) in globals {
            machine.globals().add_compat(&[("ICH9-LPC", property, value)]);
        }
        Ok(())
    });
    let rig = rig.unwrap();
    rig.machine.finish().unwrap();
    rig.machine.start();
    place(&rig);
    rig.events();
    rig
}

fn place(rig: &Rig) {
    rig.config_write(31, 0, 0x40, 0x601);
    rig.config_write(31, 0, 0x44, 0x80);
    rig.config_write(31, 0, 0xf0, RCBA_BASE | 1);
}

fn outw(rig: &Rig, port: u64, value: u16) {
    let _ = rig.machine.io_space().write_uint(port, 2, value.into());
}

fn gcs(rig: &Rig) -> u64 {
    rig.machine.system_space().read_uint(GCS_AT, 4).0
}

fn set_gcs(rig: &Rig, value: u64) {
    let _ = rig.machine.system_space().write_uint(GCS_AT, 4, value);
}

/// Lets `ticks` pass.
fn pass(rig: &mut Rig, ticks: i64) {
    let clock = rig.machine.mainloop().virtual_clock();
    clock.advance_to(clock.now_ns() + ticks * TICK);
    rig.turn();
    rig.turn();
}

fn start(rig: &Rig, ticks: u16) {
    outw(rig, TMR, ticks);
    rig.outb(BASE, 1);
}

/// Two timeouts of a timer of four ticks, with nothing that holds the watchdog back.
fn expire(rig: &mut Rig, action: WatchdogAction) -> Vec<String> {
    rig.machine.set_actions(|actions| actions.watchdog = action);
    set_gcs(rig, 0);
    start(rig, 4);
    pass(rig, 4);
    assert_eq!((rig.read(STS1, 2), rig.read(STS2, 2)), (8, 0));
    assert_eq!(rig.events(), [""; 0]);
    pass(rig, 4);
    rig.events()
}

#[test]
fn registers_keep_what_the_datasheet_says() {
    let rig = rig(&[]);
    let words: Vec<u64> = (0..0x14).step_by(2).map(|at| rig.read(BASE + at, 2)).collect();
    assert_eq!(words, [0, 0, 0, 0, 0, 8, 0, 0, 3, 4]);
    assert_eq!((gcs(&rig), rig.read(0x630, 4), rig.read(0x634, 4)), (0x20, 0, 0));
    outw(&rig, BASE + 2, 0x1234);
    assert_eq!((rig.read(BASE + 2, 1), rig.read(BASE + 3, 1), rig.read(STS1, 2)), (0x34, 0x12, 6));
    outw(&rig, STS1, 2);
    assert_eq!(rig.read(STS1, 2), 4, "ones clear");
    rig.outb(BASE + 3, 0);
    outw(&rig, STS1, 0xffff);
    assert_eq!(rig.read(STS1, 2), 0);
    rig.outb(BASE + 0xd, 0x77);
    assert_eq!(rig.read(BASE + 0xc, 2), 0x7700);
    outw(&rig, CNT1, 0x1800);
    outw(&rig, CNT1, 0x0800);
    assert_eq!(rig.read(CNT1, 2), 0x1800, "locked");
    rig.outl(0x630, 0xffff_ffff);
    assert_eq!((rig.read(0x630, 4), rig.read(0x634, 4)), (0xffff_ffff, 0));
    let _ = rig.machine.system_space().write_uint(GCS_AT + 1, 1, 0xaa);
    assert_eq!((gcs(&rig), rig.machine.system_space().read_uint(GCS_AT - 4, 8).0), (0xaa20, 0xaa20 << 32));
}

#[test]
fn the_timer_counts_ticks_and_stands_still_where_it_is_told_to() {
    let mut rig = rig(&[]);
    pass(&mut rig, 100);
    assert_eq!((rig.read(BASE, 2), rig.read(STS1, 2)), (0, 0), "nobody started it");
    start(&rig, 1);
    pass(&mut rig, 100);
    assert_eq!(rig.read(STS1, 2), 0, "too short to start");
    start(&rig, 8);
    assert_eq!(rig.read(BASE, 2), 8);
    pass(&mut rig, 3);
    assert_eq!(rig.read(BASE, 2), 5);
    rig.outb(BASE, 0);
    assert_eq!(rig.read(BASE, 2), 8, "anything reloads");
    outw(&rig, CNT1, HALT);
    pass(&mut rig, 100);
    assert_eq!((rig.read(BASE, 2), rig.read(STS1, 2)), (8, 0));
    outw(&rig, CNT1, 0);
    pass(&mut rig, 7);
    assert_eq!((rig.read(BASE, 2), rig.read(STS1, 2)), (1, 0));
    pass(&mut rig, 1);
    assert_eq!((rig.read(BASE, 2), rig.read(STS1, 2)), (8, 8));
}

#[test]
fn a_guest_that_comes_back_between_the_timeouts_is_left_alone() {
    let mut rig = rig(&[]);
    set_gcs(&rig, 0);
    start(&rig, 4);
    for _ in 0..3 {
        pass(&mut rig, 6);
        assert_eq!((rig.read(STS1, 2), rig.read(STS2, 2)), (8, 0));
        rig.outb(BASE, 1);
    }
    assert_eq!(rig.events(), [""; 0]);
}

#[test]
fn each_action_is_what_it_says() {
    let told = |action: &str| format!("WATCHDOG {{\"action\": \"{action}\"}}");
    let mut machine = rig(&[]);
    let reset = "RESET {\"guest\": true, \"reason\": \"guest-reset\"}".to_owned();
    assert_eq!(expire(&mut machine, WatchdogAction::Reset), [told("reset"), reset]);
    place(&machine);
    assert_eq!((machine.read(STS1, 2), machine.read(STS2, 2), gcs(&machine)), (0, 6, 0x20));
    outw(&machine, STS2, 6);
    assert_eq!(machine.read(STS2, 2), 0);

    let mut machine = rig(&[]);
    assert_eq!(expire(&mut machine, WatchdogAction::Pause), [told("pause"), "STOP".to_owned()]);
    assert_eq!(machine.machine.run_state(), RunState::Watchdog);
    machine.machine.cont().unwrap();
    assert_eq!(machine.machine.run_state(), RunState::Running);

    assert_eq!(expire(&mut rig(&[]), WatchdogAction::Shutdown), [told("shutdown"), "POWERDOWN".to_owned()]);
    for (action, name) in [
        (WatchdogAction::None, "none"),
        (WatchdogAction::Debug, "debug"),
        (WatchdogAction::InjectNmi, "inject-nmi"),
        (WatchdogAction::Poweroff, "poweroff"),
    ] {
        let mut machine = rig(&[]);
        assert_eq!(expire(&mut machine, action), [told(name)]);
        assert_eq!(machine.machine.mainloop().is_quitting(), action == WatchdogAction::Poweroff);
        pass(&mut machine, 100);
        assert_eq!(machine.events(), [""; 0], "it does not start over");
    }
}

#[test]
fn what_holds_it_back_does() {
    let mut machine = rig(&[]);
    start(&machine, 4);
    pass(&mut machine, 4);
    pass(&mut machine, 4);
    assert_eq!((machine.read(STS2, 2), machine.read(BASE, 2)), (6, 4), "NO_REBOOT; it starts over");
    assert_eq!(machine.events(), [""; 0]);
    let mut machine = rig(&[("noreboot", "on")]);
    assert_eq!(expire(&mut machine, WatchdogAction::Reset), [""; 0]);
    assert_eq!(machine.read(STS2, 2), 6);
    let machine = rig(&[("enable_tco", "off")]);
    assert_eq!((machine.read(BASE, 2), gcs(&machine)), (0xffff, 0), "neither is there");
}

#[test]
fn a_running_timer_arrives_with_what_is_left_of_it() {
    let (mut from, to) = (rig(&[]), rig(&[]));
    set_gcs(&from, 0);
    start(&from, 4);
    pass(&mut from, 5);
    let mut to = to;
    to.machine.mainloop().virtual_clock().advance_to(from.machine.mainloop().now_ns(Clock::Virtual));
    carry::carry(&from.machine, &to.machine);
    assert_eq!((to.read(BASE, 2), to.read(STS1, 2), gcs(&to)), (3, 8, 0));
    to.events();
    pass(&mut to, 3);
    assert_eq!(to.events().first().map(String::as_str), Some("WATCHDOG {\"action\": \"reset\"}"));
    // One that the guest never touched says nothing.
    let (from, to) = (rig(&[]), rig(&[]));
    start(&to, 4);
    carry::load(&to.machine, &carry::save(&from.machine)).unwrap();
    assert_eq!((to.read(TMR, 2), to.read(BASE, 2)), (4, 0));
}

#[test]
fn spoilt_state_is_survived() {
    let (machine, other) = (rig(&[]), rig(&[]));
    start(&machine, 4);
    let mut whole = carry::save(&machine.machine);
    whole.retain(|(path, ..)| path.ends_with("/ICH9LPC"));
    let [(_, version, bytes)] = &whole[..] else { panic!("one watchdog") };
    let sections = carry::sections(&other.machine);
    let (_, section) = sections.iter().find(|(path, _)| path.ends_with("/ICH9LPC")).unwrap();
    // The subsection is last.
    for at in bytes.len() - 40..bytes.len() {
        for mask in [1, 0x80, 0xff] {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= mask;
            let _ = section.load(&mut vmstate::Decoder::new(&spoilt[..]), *version);
            assert!(other.read(BASE, 2) <= 0xffff);
        }
    }
}
