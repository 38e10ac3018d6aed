//! Claims about telnet.

use super::{State, step};

fn strip(data: &[u8]) -> (Vec<u8>, u32) {
    let (mut state, mut breaks) = (State::Data, 0);
    let kept = data.iter().copied().filter(|byte| step(&mut state, *byte, &mut breaks)).collect();
    (kept, breaks)
}

#[test]
fn commands_are_taken_out_and_a_doubled_255_is_one() {
    assert_eq!(strip(b"a\xff\xfd\x01b\xff\xffc"), (b"ab\xffc".to_vec(), 0));
    assert_eq!(strip(b"\xff\xfa\x18\x00xterm\xff\xf0ls\xff\xf1"), (b"ls".to_vec(), 0));
}

#[test]
fn brk_is_a_break() {
    assert_eq!(strip(b"a\xff\xf3b"), (b"ab".to_vec(), 1));
}
