//! Whether memory is all zeroes.

use vm_memory::VolatileMemory as _;

use super::block::RamBlock;

/// Words looked at between two decisions.
const STRIDE: usize = 16;

impl RamBlock {
    /// Whether `len` bytes at `offset`, a multiple of 128, hold only zeroes; not if they cannot be looked at. The guest may write them
    /// at the same time: whoever asks has the dirty log tell.
    #[doc(alias = "buffer_is_zero")]
    pub fn is_zero(&self, offset: u64, len: usize) -> bool {
        debug_assert_eq!(len % (STRIDE * 8), 0, "whole strides");
        let Some(slice) = self.slice(offset, len) else { return false };
        let Ok(words) = slice.get_array_ref::<u64>(0, len / 8) else { return false };
        // Most memory that is not zero says so at one of its ends.
        if words.len() < STRIDE || words.load(0) != 0 || words.load(words.len() - 1) != 0 {
            return false;
        }
        (0..words.len())
            .step_by(STRIDE)
            .all(|at| (at..at + STRIDE).fold(0, |any, i| any | words.load(i)) == 0)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Memory, RamSpec};

    #[test]
    fn one_byte_anywhere_is_seen() {
        let block = Memory::new().create_ram(RamSpec::anonymous("r", 8192)).unwrap();
        assert!(block.is_zero(0, 4096) && block.is_zero(4096, 4096));
        for at in [0, 1, 100, 2048, 4095] {
            block.write(at, &[1]).unwrap();
            assert!(!block.is_zero(0, 4096) && block.is_zero(4096, 4096), "{at}");
            block.write(at, &[0]).unwrap();
        }
        assert!(block.is_zero(0, 4096));
        assert!(!block.is_zero(8192, 4096), "there is nothing");
    }
}
