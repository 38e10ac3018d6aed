//! What a keyboard hears of what is typed, and when.

use qapi::types::QKeyCode::{A, Alt, B, Ctrl, Delete};

use super::*;
use crate::testing::{Rig, config};

type Heard = Mutex<Vec<(QKeyCode, bool)>>;

#[derive(Default)]
struct Ear(Heard);

impl Keyboard for Ear {
    fn key(&self, key: QKeyCode, down: bool) {
        self.0.lock().unwrap().push((key, down));
    }
}

impl Ear {
    fn heard(&self) -> Vec<(QKeyCode, bool)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// A machine that runs, with a clock that the test moves and an ear in place of its keyboard.
fn listening() -> (Rig, Arc<Input>, Arc<Ear>) {
    let mut without = config("q35");
    without.options.push(("i8042".into(), "off".into()));
    let rig = Rig::build(without).unwrap();
    rig.main.handle().virtual_clock().set_manual();
    rig.machine.finish().unwrap();
    rig.machine.start();
    let (input, ear) = (Input::of(&rig.machine), Arc::new(Ear::default()));
    let weak: Weak<dyn Keyboard> = Arc::downgrade(&(Arc::clone(&ear) as Arc<dyn Keyboard>));
    input.add(weak, "mouse");
    (rig, input, ear)
}

/// Guest time goes on.
fn pass(rig: &Rig, ms: i64) {
    let clock = rig.main.handle().virtual_clock();
    clock.advance_to(rig.main.handle().now_ns(Clock::Virtual) + ms * NS_PER_MS);
}

#[test]
fn keys_go_down_in_order_and_up_in_the_other_one_with_time_between() {
    let (rig, input, ear) = listening();
    input.send_keys(&rig.machine, &[Ctrl, Alt, Delete], 100).unwrap();
    // What is sent meanwhile waits for all of it.
    input.send_keys(&rig.machine, &[A], 50).unwrap();
    assert_eq!(ear.heard(), [(Ctrl, true)]);
    for (ms, heard) in [
        (99, vec![]),
        (1, vec![(Alt, true)]),
        (100, vec![(Delete, true)]),
        (100, vec![(Delete, false)]),
        (100, vec![(Alt, false)]),
        (100, vec![(Ctrl, false)]),
        (99, vec![]),
        (1, vec![(A, true)]),
        (49, vec![]),
        (1, vec![(A, false)]),
        (1000, vec![]),
    ] {
        pass(&rig, ms);
        assert_eq!(ear.heard(), heard);
    }
    input.send_keys(&rig.machine, &[B], 1).unwrap();
    assert_eq!(ear.heard(), [(B, true)], "nothing is waited for any more");
}

#[test]
fn a_machine_that_stands_still_hears_nothing() {
    let (rig, input, ear) = listening();
    input.send_keys(&rig.machine, &[A], 100).unwrap();
    rig.machine.stop();
    input.send_keys(&rig.machine, &[B], 100).unwrap();
    assert_eq!(ear.heard(), [(A, true)]);
    rig.machine.cont().unwrap();
    pass(&rig, 1000);
    assert_eq!(ear.heard(), [(A, false)]);
}

#[test]
fn what_is_too_much_is_refused_as_a_whole() {
    let (rig, input, ear) = listening();
    assert!(input.send_keys(&rig.machine, &[A; 257], 1).is_err());
    assert_eq!(ear.heard(), []);
    input.send_keys(&rig.machine, &[A; 256], 1).unwrap();
    // Two of its entries are done.
    let error = input.send_keys(&rig.machine, &[B], 1).unwrap_err();
    assert_eq!(error.desc(), "Too many keys wait to be sent");
    pass(&rig, 1);
    input.send_keys(&rig.machine, &[B], 1).unwrap();
    pass(&rig, 10_000);
    let heard = ear.heard();
    assert_eq!(heard.len(), 514);
    assert_eq!(heard[512..], [(B, true), (B, false)]);
}

#[test]
fn mice_are_numbered_with_keyboards_and_leave_with_them() {
    let (_rig, input, ear) = listening();
    let mouse = |name: &str, index, current| MouseInfo { name: name.into(), index, current, absolute: false };
    let weak: Weak<dyn Keyboard> = Arc::downgrade(&(Arc::clone(&ear) as Arc<dyn Keyboard>));
    let second = input.add(weak, "other");
    assert_eq!(input.mice(), [mouse("mouse", 2, true), mouse("other", 4, false)]);
    input.remove(second);
    assert_eq!(input.mice(), [mouse("mouse", 2, true)]);
}
