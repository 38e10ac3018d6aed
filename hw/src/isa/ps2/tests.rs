//! Keyboard and mouse against what QEMU's say.

use qapi::Enum;
use qapi::types::QKeyCode;

use super::codes::{Held, Set, bytes, of_number};
use super::*;

/// What `keys`, pressed in order and released in the opposite one, say in 16 bytes.
fn typed(keys: &[QKeyCode], set: Set, translated: bool) -> Vec<u8> {
    let (mut held, mut out) = (Held::default(), Vec::new());
    let down = keys.iter().map(|key| (*key, true));
    for (key, down) in down.chain(keys.iter().rev().map(|key| (*key, false))) {
        out.extend(bytes(key, down, held, set, translated));
        held.note(key, down);
    }
    out.truncate(QUEUE);
    out
}

#[test]
fn every_key_says_in_every_set_what_it_says_in_qemu() {
    let modes =
        [(Set::One, false), (Set::Two, false), (Set::Three, false), (Set::Two, true), (Set::Three, true)];
    let mut single = 0;
    for line in include_str!("qemu.txt").lines().filter(|line| !line.starts_with('#')) {
        let mut cells = line.split('|').map(str::trim);
        let names = cells.next().unwrap();
        let keys: Vec<_> = names.split('-').map(|name| QKeyCode::from_name(name).unwrap()).collect();
        single += usize::from(keys.len() == 1);
        for (cell, (set, translated)) in cells.zip(modes).filter(|(cell, _)| *cell != "?") {
            let wanted: Vec<u8> =
                cell.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
            assert_eq!(typed(&keys, set, translated), wanted, "{names} in {set:?}, translated: {translated}");
        }
    }
    assert_eq!(single, QKeyCode::NAMES.len() - 1, "all but `unmapped`");
}

#[test]
fn numbers_are_codes_of_set_1_with_a_bit_for_extended_ones() {
    assert_eq!(of_number(0x1e), Some(QKeyCode::A));
    assert_eq!((of_number(0x1c), of_number(0x9c)), (Some(QKeyCode::Ret), Some(QKeyCode::KpEnter)));
    assert_eq!((of_number(0x54), of_number(0xb7)), (Some(QKeyCode::Sysrq), Some(QKeyCode::Print)));
    for none in [i64::MIN, -1, 0, 0x80, 0xff, 0x100, 0xe01c, i64::MAX] {
        assert_eq!(of_number(none), None, "{none:#x}");
    }
}

/// All that waits.
fn keyboard_says(keyboard: &mut Keyboard) -> Vec<u8> {
    std::iter::from_fn(|| keyboard.read()).collect()
}

fn told(keyboard: &mut Keyboard, bytes: &[u8]) -> Vec<u8> {
    let mut said = Vec::new();
    for byte in bytes {
        keyboard.write(*byte);
        said.extend(keyboard_says(keyboard));
    }
    said
}

#[test]
fn commands_of_the_keyboard_are_answered_as_by_qemu() {
    let mut keyboard = Keyboard::default();
    for (command, answer) in [
        (&[0xff][..], &[0xfa, 0xaa][..]),
        (&[0xf2], &[0xfa, 0xab, 0x83]),
        (&[0xee], &[0xee]),
        (&[0xf0, 0], &[0xfa, 0xfa, 2]),
        (&[0xf0, 1, 0xf0, 0], &[0xfa, 0xfa, 0xfa, 0xfa, 1]),
        (&[0xf0, 3, 0xf0, 0], &[0xfa, 0xfa, 0xfa, 0xfa, 3]),
        (&[0xf0, 5], &[0xfa, 0xfe]),
        (&[0xed, 7], &[0xfa, 0xfa]),
        (&[0xed, 0xf4], &[0xfa, 0xfa]),
        (&[0xf3, 0x20], &[0xfa, 0xfa]),
        (&[0xf4], &[0xfa]),
        (&[0xf5], &[0xfa]),
        (&[0xf6], &[0xfa]),
        (&[0xf7, 0xf8, 0xf9, 0xfb, 0x12, 0xfd, 0x12], &[0xfe; 7]),
        (&[0xfa, 0xfc, 0x12], &[0xfa; 3]),
        (&[0xef, 0xf1, 0x12], &[0xfe; 3]),
        // Back to set 2.
        (&[0xf0, 1, 0xff, 0xf0, 0], &[0xfa, 0xfa, 0xfa, 0xaa, 0xfa, 0xfa, 2]),
    ] {
        assert_eq!(told(&mut keyboard, command), answer, "{command:02x?}");
    }
    keyboard.set_translated(true);
    assert_eq!(told(&mut keyboard, &[0xf2]), [0xfa, 0xab, 0x41]);
    for (set, told_as) in [(1, 0x43), (2, 0x41), (3, 0x3f)] {
        assert_eq!(told(&mut keyboard, &[0xf0, set, 0xf0, 0]), [0xfa, 0xfa, 0xfa, 0xfa, told_as]);
    }
}

#[test]
fn what_was_not_understood_is_said_again() {
    let mut keyboard = Keyboard::default();
    assert_eq!(told(&mut keyboard, &[0xee, 0xfe, 0xfe]), [0xee; 3]);
    // An answer that was read in part goes on from nowhere.
    keyboard.write(0xf2);
    assert_eq!(keyboard.read(), Some(0xfa));
    assert_eq!(told(&mut keyboard, &[0xfe]), [0xfa]);
    // It is not the keyboard's own plea that is repeated.
    assert_eq!(told(&mut keyboard, &[0xee, 0x12, 0xfe]), [0xee, 0xfe, 0xee]);
}

#[test]
fn answers_come_before_keys_and_sixteen_bytes_of_these_wait() {
    let mut keyboard = Keyboard::default();
    keyboard.set_translated(true);
    let strokes = |keyboard: &mut Keyboard, count: usize| {
        for _ in 0..count {
            keyboard.key(QKeyCode::A, true);
            keyboard.key(QKeyCode::A, false);
        }
    };
    strokes(&mut keyboard, 12);
    // Only the answer to the last command is left.
    (0..40).for_each(|_| keyboard.write(0xee));
    assert_eq!(keyboard_says(&mut keyboard), [&[0xee][..], &[0x1e, 0x9e].repeat(8)].concat());
    for (command, keys) in [(0xf4, 2), (0xed, 2), (0xf5, 0), (0xf6, 0), (0xff, 0)] {
        told(&mut keyboard, &[0xff]);
        strokes(&mut keyboard, 1);
        keyboard.write(command);
        let said = keyboard_says(&mut keyboard);
        assert_eq!(said.iter().filter(|byte| **byte & 0x7f == 0x1e).count(), keys, "{command:02x}");
    }
    told(&mut keyboard, &[0xf5]);
    strokes(&mut keyboard, 1);
    assert!(!keyboard.is_pending(), "it was told not to tell of keys");
}

/// All that waits.
fn mouse_says(mouse: &mut Mouse) -> Vec<u8> {
    std::iter::from_fn(|| mouse.read()).collect()
}

#[test]
fn commands_of_the_mouse_are_answered_as_by_qemu() {
    let mut mouse = Mouse::default();
    let knock = |rates: [u8; 3]| rates.map(|rate| [0xf3, rate]).concat();
    for (command, answer) in [
        (&[0xff][..], &[0xfa, 0xaa, 0][..]),
        (&[0xf2], &[0xfa, 0]),
        (&[0xe9], &[0xfa, 0, 2, 100]),
        (
            &[0xf3, 10, 0xe8, 3, 0xe7, 0xf4, 0xf0, 0xe9],
            &[0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0x70, 3, 10],
        ),
        (&[0xeb], &[0xfa, 8, 0, 0]),
        (&[0xe6, 0xf5, 0xea, 0xe9], &[0xfa, 0xfa, 0xfa, 0xfa, 0, 3, 10]),
        (&[0xf6, 0xe9], &[0xfa, 0xfa, 0, 2, 100]),
        // Whatever it is told, but what ends that.
        (&[0xee, 0x55, 0xf2, 0xec, 0xf2], &[0xfa, 0x55, 0xf2, 0xfa, 0xfa, 0]),
        (&[0xee, 0xff, 0xf2], &[0xfa, 0xfa, 0xaa, 0, 0xfa, 0]),
        (&[0, 0x55, 0xe1, 0xfe], &[]),
        (&knock([200, 100, 80]), &[0xfa; 6]),
        (&[0xf6, 0xf2, 0xeb], &[0xfa, 0xfa, 3, 0xfa, 8, 0, 0, 0]),
        (&knock([200, 200, 80]), &[0xfa; 6]),
        (&[0xf2], &[0xfa, 4]),
        (&[0xff, 0xf3, 80, 0xf2], &[0xfa, 0xaa, 0, 0xfa, 0xfa, 0xfa, 0]),
    ] {
        let mut said = Vec::new();
        for byte in command {
            mouse.write(*byte);
            said.extend(mouse_says(&mut mouse));
        }
        assert_eq!(said, answer, "{command:02x?}");
    }
}

#[test]
fn sixteen_bytes_of_the_mouse_wait_and_no_answer_is_cut() {
    let mut mouse = Mouse::default();
    (0..40).for_each(|_| mouse.write(0xf2));
    assert_eq!(mouse_says(&mut mouse), [0xfa, 0].repeat(8));
    (0..15).for_each(|_| mouse.write(0xf4));
    mouse.write(0xf2);
    assert_eq!(mouse_says(&mut mouse), [0xfa; 15]);
    (0..4).for_each(|_| mouse.write(0xff));
    assert_eq!(mouse_says(&mut mouse), [0xfa, 0xaa, 0], "a reset forgets what was there");
}
