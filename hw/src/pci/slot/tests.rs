use proptest::prelude::*;

use super::*;

/// What pciehp writes when it listens: everything on, power indicator on.
const LISTENING: u16 = BUTTON | PRESENCE_CHANGED | COMPLETED | INTERRUPTS | ATTENTION_OFF | 1 << 8;

#[test]
fn capabilities_are_qemus() {
    assert_eq!(capabilities(3, true, true), 0x001a_007b);
    assert_eq!(capabilities(0, false, true), 0x0002_001b);
    assert_eq!(capabilities(0, true, false), 0x0002_0079);
    assert_eq!(capabilities(9000, true, true), 0x1942_007b);
}

#[test]
fn an_empty_slot_has_no_power() {
    let mut slot = Slot::new(true);
    assert_eq!((slot.control, slot.status), (0x07c0, 0));
    slot.put_in(false);
    slot.reset(true);
    assert_eq!((slot.control, slot.status), (0x03c0, PRESENT));
}

#[test]
fn the_guest_lets_go_by_switching_power_and_indicator_off() {
    let mut slot = Slot::new(true);
    slot.put_in(false);
    slot.reset(true);
    assert!(!slot.write_control(LISTENING));
    slot.write_status(slot.status);
    slot.press_button();
    assert!(slot.interrupts());
    slot.write_status(BUTTON);
    assert!(!slot.interrupts());
    assert!(!slot.write_control(LISTENING & !INDICATOR | INDICATOR_BLINKS));
    assert!(slot.is_busy());
    assert!(!slot.write_control(LISTENING | POWER_OFF), "the indicator is on still");
    assert!(slot.write_control(LISTENING | POWER_OFF | INDICATOR_OFF));
    assert_eq!(slot.status & (PRESENT | PRESENCE_CHANGED), PRESENCE_CHANGED);
    assert!(!slot.write_control(LISTENING | POWER_OFF | INDICATOR_OFF), "once only");
}

#[test]
fn a_plugged_device_is_announced_by_button_and_presence() {
    let mut slot = Slot::new(true);
    slot.write_control(LISTENING | POWER_OFF);
    slot.write_status(slot.status);
    slot.put_in(true);
    assert_eq!(slot.status, PRESENT | PRESENCE_CHANGED | BUTTON);
    assert!(slot.interrupts());
    assert!(!slot.has_power());
    slot.write_control(LISTENING);
    assert!(slot.has_power());
}

#[test]
fn a_guest_that_clears_what_it_has_not_seen_loses_nothing() {
    let mut slot = Slot::new(true);
    slot.put_in(true);
    slot.write_status(u16::MAX);
    assert_eq!(slot.status, PRESENT | PRESENCE_CHANGED | BUTTON);
    slot.write_status(PRESENCE_CHANGED);
    assert_eq!(slot.status, PRESENT | BUTTON);
}

#[test]
fn without_a_power_controller_nothing_is_ever_switched_off() {
    let mut slot = Slot::new(false);
    slot.put_in(false);
    assert!(!slot.write_control(u16::MAX));
    assert!(slot.has_power() && !slot.is_off());
}

proptest! {
    /// Whatever a guest writes: what is in the slot is given up at most once, and only while it is in there.
    #[test]
    fn nothing_is_given_up_twice(steps in prop::collection::vec((0u8..5, any::<u16>()), 0..200)) {
        let mut slot = Slot::new(true);
        let mut present = false;
        for (kind, value) in steps {
            match kind {
                0 => {
                    slot.put_in(true);
                    present = true;
                }
                1 => slot.press_button(),
                2 => slot.write_status(value),
                3 => slot.reset(present),
                _ => {
                    let gone = slot.write_control(value);
                    prop_assert!(!gone || present);
                    prop_assert!(slot.status & COMPLETED != 0);
                    present &= !gone;
                }
            }
            prop_assert_eq!(slot.status & PRESENT != 0, present);
        }
    }
}
