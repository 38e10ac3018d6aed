//! Sizes that are refused. What rings find is tested with the rest of the log, in `kvm::tests::dirty_log`.

use super::super::KvmAccel;
use super::*;
use crate::kvm::tests::kvm_with;

#[test]
fn a_size_is_a_power_of_two_in_32_bits() {
    let parsed = |value| parse(value).map_err(|error| error.desc().to_owned());
    assert_eq!((parsed("0"), parsed("4096"), parsed("0x1000")), (Ok(0), Ok(4096), Ok(4096)));
    for value in ["3", "1000", "4294967295"] {
        assert_eq!(parsed(value), Err("dirty-ring-size must be a power of two.".to_owned()), "{value}");
    }
    for value in ["abc", "1k"] {
        assert_eq!(parsed(value), Err("Parameter 'dirty-ring-size' expects uint64".to_owned()), "{value}");
    }
    for value in ["-1", "4294967296", "8589934592"] {
        assert_eq!(parsed(value), Err("Parameter 'dirty-ring-size' expects uint32_t".to_owned()), "{value}");
    }
}

#[test]
fn a_size_that_the_kernel_does_not_take_is_refused() {
    if kvm_with(&[("dirty-ring-size", "4096")]).is_none_or(|accel| accel.dirty_ring == 0) {
        return;
    }
    let refused = |value: &str| {
        let options = [("dirty-ring-size".to_owned(), value.to_owned())];
        KvmAccel::open(&options).map(|_| ()).unwrap_err().desc().to_owned()
    };
    for value in ["1", "2", "32"] {
        assert_eq!(
            refused(value),
            "Enabling of KVM dirty ring failed: Invalid argument. Suggested minimum value is 1024.\n\
             failed to initialize kvm: Input/output error"
        );
    }
    assert_eq!(
        refused("131072"),
        "KVM dirty ring size 131072 too big (maximum is 65536).  Please use a smaller value.\n\
         failed to initialize kvm: Invalid argument"
    );
}

/// A ring in a file, and the kernel's end of it.
struct Kernel {
    ring: Ring,
    end: Ring,
    /// Entries filled and entries reset so far, as the kernel counts.
    filled: u32,
    reset: u32,
}

const COUNT: u32 = 1024;

impl Kernel {
    fn new() -> Self {
        let len = u64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_SIZE + u64::from(COUNT * ENTRY_SIZE);
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        let map = || Ring::map(&file, COUNT).unwrap();
        Self { ring: map(), end: map(), filled: 0, reset: 0 }
    }

    /// The guest writes to a page.
    fn write(&mut self, page: u64) {
        let (flags, entry) = self.end.entry(self.filled);
        let entry = entry.cast_mut();
        // SAFETY: the entry is inside the mapping of `end`, and this thread is the only one.
        unsafe { ((*entry).slot, (*entry).offset) = (3, page) };
        flags.store(DIRTY, Ordering::Release);
        self.filled += 1;
    }

    /// `KVM_RESET_DIRTY_RINGS`.
    fn reset(&mut self) {
        while self.end.entry(self.reset).0.load(Ordering::Acquire) & RESET != 0 {
            self.end.entry(self.reset).0.store(0, Ordering::Release);
            self.reset += 1;
        }
    }

    /// What is read, and whether something was lost.
    fn read(&mut self) -> (Vec<u64>, bool) {
        let mut found = Vec::new();
        let lost = self.ring.read(&mut found);
        self.reset();
        assert!(self.reset <= self.filled, "nothing is reset that was not filled");
        (found.into_iter().map(|(slot, page)| (slot == 3).then_some(page).unwrap()).collect(), lost)
    }
}

#[test]
fn a_ring_is_read_around_its_end_again_and_again() {
    let mut kernel = Kernel::new();
    assert_eq!(kernel.read(), (vec![], false));
    for round in 0..10 {
        let pages: Vec<u64> = (0..700).map(|page| round * 1000 + page).collect();
        pages.iter().for_each(|page| kernel.write(*page));
        assert_eq!(kernel.read(), (pages, false));
        assert_eq!((kernel.reset, kernel.read()), (kernel.filled, (vec![], false)));
    }
}

#[test]
fn a_ring_that_overflows_says_so_and_is_in_step_again() {
    for excess in [0, 1, 5, 600, 1023, 1024, 3000] {
        let mut kernel = Kernel::new();
        (0..u64::from(COUNT + excess)).for_each(|page| kernel.write(page));
        let (read, lost) = kernel.read();
        assert_eq!((read.len(), lost), (COUNT as usize, true), "{excess}");
        // As a vCPU does whose ring is full and empty.
        while kernel.filled - kernel.reset >= COUNT - 64 {
            assert_eq!(kernel.read(), (vec![], false));
            kernel.ring.skip(COUNT - KEPT_FREE);
            kernel.reset();
            assert!(kernel.reset <= kernel.filled);
        }
        for round in 1..20 {
            let pages: Vec<u64> = (0..50).map(|page| round * 100_000 + page).collect();
            pages.iter().for_each(|page| kernel.write(*page));
            assert_eq!(kernel.read(), (pages, false), "{excess}: {round}");
        }
        assert_eq!(kernel.reset, kernel.filled);
    }
}
