//! Whether memory is all zeroes.

#![expect(
    unsafe_code,
    reason = "guest memory is read by wide instructions, which volatile loads do not give"
)]

use std::ops::Range;

use super::block::RamBlock;

/// Bytes looked at between two decisions.
const STRIDE: usize = 128;

impl RamBlock {
    /// Whether `len` bytes at `offset`, a multiple of 128, hold only zeroes; not if they cannot be looked at. The guest may write them
    /// at the same time: whoever asks has the dirty log tell.
    #[doc(alias = "buffer_is_zero")]
    pub fn is_zero(&self, offset: u64, len: usize) -> bool {
        self.alike(offset..offset + len as u64, len).1
    }

    /// The end of the first pages in `range`, of `page` bytes (a multiple of 128), that hold only zeroes or of which none does, and whether
    /// they do. What cannot be looked at does not.
    pub fn alike(&self, range: Range<u64>, page: usize) -> (u64, bool) {
        debug_assert_eq!(page % STRIDE, 0, "whole strides");
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let Some(slice) = self.slice(range.start, len).filter(|_| page > 0 && len >= page) else {
            return (range.end, false);
        };
        let guard = slice.ptr_guard();
        // SAFETY: the slice has `len` bytes, and stays accessible while it is there.
        let zero = |at: usize| unsafe { all_zero(guard.as_ptr().add(at), page) };
        let first = zero(0);
        let pages = (page..=len - page).step_by(page).take_while(|at| zero(*at) == first).count();
        (range.start + ((1 + pages) * page) as u64, first)
    }
}

/// Whether `len` bytes at `start`, whole strides and not none, are zero.
///
/// # Safety
/// They can be read. Others may write them meanwhile.
unsafe fn all_zero(start: *const u8, len: usize) -> bool {
    let word = |at: usize| {
        // SAFETY: inside of what can be read.
        unsafe { start.add(at).cast::<u64>().read_volatile() }
    };
    // Most memory that is not zero says so at once. (To look at its end as well would cost the processor the order in which it fetches
    // ahead, a quarter of the speed.)
    if word(0) != 0 {
        return false;
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: as promised here, and the processor has the instructions.
        return unsafe { all_zero_avx2(start, len) };
    }
    (0..len).step_by(STRIDE).all(|at| (at..at + STRIDE).step_by(8).fold(0, |any, at| any | word(at)) == 0)
}

/// As [`all_zero`]. Loads of assembly are nothing that the compiler takes for its own, so that a guest which writes is no data race.
///
/// # Safety
/// As there; the processor has AVX2.
#[cfg(target_arch = "x86_64")]
unsafe fn all_zero_avx2(start: *const u8, len: usize) -> bool {
    let end = start.wrapping_add(len);
    let mut at = start;
    // SAFETY: reads whole strides from `at` to `end` and writes nothing. The upper halves of the registers are clear afterwards, as other
    // code expects them.
    unsafe {
        std::arch::asm!(
            "2:",
            // Two pages ahead, where the processor does not go by itself. What is not there is not fetched.
            "prefetcht0 [{at} + 8192]",
            "prefetcht0 [{at} + 8256]",
            "vmovdqu ymm0, [{at}]",
            "vmovdqu ymm1, [{at} + 64]",
            "vpor ymm0, ymm0, [{at} + 32]",
            "vpor ymm1, ymm1, [{at} + 96]",
            "vpor ymm0, ymm0, ymm1",
            "vptest ymm0, ymm0",
            "jnz 3f",
            "add {at}, 128",
            "cmp {at}, {end}",
            "jb 2b",
            "3:",
            "vzeroupper",
            at = inout(reg) at,
            end = in(reg) end,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
            out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options(readonly, nostack)
        );
    }
    at == end
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

    #[test]
    fn pages_of_a_kind_are_told_in_one() {
        let block = Memory::new().create_ram(RamSpec::anonymous("r", 8 * 4096)).unwrap();
        for page in [2, 3, 6] {
            block.write(page * 4096 + 100, &[1]).unwrap();
        }
        let alike = |from: u64, to: u64| {
            let (end, zero) = block.alike(from * 4096..to * 4096, 4096);
            (end / 4096, zero)
        };
        assert_eq!(
            [alike(0, 8), alike(2, 8), alike(4, 8), alike(6, 8), alike(7, 8)],
            [(2, true), (4, false), (6, true), (7, false), (8, true)]
        );
        assert_eq!([alike(0, 1), alike(2, 3)], [(1, true), (3, false)]);
        assert_eq!(alike(7, 9), (9, false), "there is less");
    }

    #[test]
    fn memory_need_not_begin_at_a_page() {
        let mut bytes = [0u8; 4096 + 8];
        let bytes = &mut bytes[8..];
        for at in (0..4096).step_by(37) {
            // SAFETY: the array is as long.
            assert!(unsafe { super::all_zero(bytes.as_ptr(), 4096) });
            bytes[at] = 0x80;
            // SAFETY: as above.
            assert!(!unsafe { super::all_zero(bytes.as_ptr(), 4096) }, "{at}");
            bytes[at] = 0;
        }
    }
}
