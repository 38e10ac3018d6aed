//! The pattern and the default methods that write and verify it.

use super::*;
use crate::testing::Machine;

#[test]
fn the_pattern_is_linear_and_differs_by_address_and_generation() {
    assert_eq!(pattern(0x1008, 5), pattern(0x1000, 5).wrapping_add(pattern_step()));
    assert_ne!(pattern(0x1000, 5), pattern(0x1000, 6));
    // Memory moved by a block or a page is told apart.
    assert_ne!(pattern(0x20_0000, 5), pattern(0x40_0000, 5));
    assert_ne!(pattern(0x1000, 5), 0);
}

#[test]
fn patterns_that_were_written_verify_to_the_last_word() {
    let mut machine = Machine::default();
    machine.pattern_write(0x10_0008, 3 * 4096 + 16, 9);
    assert_eq!(machine.pattern_verify(0x10_0008, 3 * 4096 + 16, 9), 0);
    assert_eq!(machine.pattern_verify(0x10_0008, 3 * 4096 + 16, 8), 3 * 512 + 2);
    assert_eq!(machine.pattern_verify(0x10_0000, 16, 9), 1);
    machine.memory.write(0x10_0008 + 3 * 4096 + 8, &[0]);
    assert_eq!(machine.pattern_verify(0x10_0008, 3 * 4096 + 16, 9), 1);
}
