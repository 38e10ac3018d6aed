//! The state of a vCPU that has guests of its own: the kernel's structure, a header that says how long it is and up to two pages.

#![expect(unsafe_code, reason = "the kernel's structure is a union")]

use std::mem::size_of;

use kvm_bindings::kvm_nested_state;
use kvm_ioctls::KvmNestedStateBuffer;
use vmstate::{LoadError, Result};

const HEADER: usize = size_of::<kvm_nested_state>();
const LONGEST: usize = size_of::<KvmNestedStateBuffer>();

/// As long as its header says.
pub(super) fn bytes(state: &KvmNestedStateBuffer) -> Vec<u8> {
    let len = (state.size as usize).clamp(HEADER, LONGEST);
    // SAFETY: the structure is made of zeroes and then filled by the kernel, so that all of its bytes are there; it is plain integers
    // without padding, and `len` is no more than its size.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(state).cast::<u8>(), len) }.to_vec()
}

/// For the kernel, which judges what is in it; `None` for nothing.
pub(super) fn state(bytes: &[u8], can: bool) -> Result<Option<Box<KvmNestedStateBuffer>>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    if !can || bytes.len() < HEADER || bytes.len() > LONGEST {
        return Err(LoadError::invalid("this nested state cannot be loaded"));
    }
    let mut state = Box::new(KvmNestedStateBuffer::empty());
    // SAFETY: no more bytes than the structure has, and any bytes are valid integers.
    unsafe {
        std::ptr::copy_nonoverlapping(
            bytes.as_ptr(),
            std::ptr::from_mut(&mut *state).cast::<u8>(),
            bytes.len(),
        );
    }
    // Not more than arrived, whatever it says.
    state.size = bytes.len() as u32;
    Ok(Some(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_as_long_as_it_says_and_cannot_say_too_much() {
        let mut before = KvmNestedStateBuffer::empty();
        before.flags = 0x100;
        before.size = 200;
        let mut saved = bytes(&before);
        assert_eq!(saved.len(), 200);
        saved[199] = 7;
        // Says 2^32 - 1.
        saved[4..8].fill(0xff);
        let after = state(&saved, true).unwrap().unwrap();
        assert_eq!((after.flags, after.size, bytes(&after)[199]), (0x100, 200, 7));
        assert!(state(&[], false).unwrap().is_none());
        for (len, can) in [(200, false), (HEADER - 1, true), (LONGEST + 1, true)] {
            assert!(state(&vec![0; len], can).is_err(), "{len}");
        }
    }
}
