use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use super::Userfault;
use crate::{Backing, Memory, RamBlock, RamSpec};

const PAGE: u64 = 4096;
const SIZE: u64 = 64 * PAGE;

/// Nothing where the host has no userfaultfd, or does not let this user have it, which fails in CI.
fn open() -> Option<Userfault> {
    match Userfault::open() {
        Ok(userfault) => Some(userfault),
        Err(error) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "no userfaultfd: {error}");
            eprintln!("skipped: no userfaultfd: {error}");
            None
        }
    }
}

fn block(backing: Backing) -> Arc<RamBlock> {
    Memory::new().create_ram(RamSpec::anonymous("r", SIZE).backing(backing)).unwrap()
}

/// Waits until somebody touches a page; its offset.
fn touched(userfault: &Userfault) -> u64 {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        if let Some(fault) = userfault.take().unwrap() {
            return fault.offset;
        }
        poll(&mut [PollFd::new(userfault, PollFlags::IN)], None).unwrap();
    }
}

#[test]
fn whoever_touches_a_page_waits_for_it_and_sees_what_was_put_there() {
    for backing in [Backing::Anonymous, Backing::AnonymousShared] {
        let Some(userfault) = open() else { return };
        let block = block(backing);
        block.set_huge_pages(false);
        userfault.check(&block).unwrap();
        userfault.watch(&block, 0..SIZE).unwrap();
        assert!(block.is_arriving());
        assert_eq!(block.reader().next_data(0..SIZE), 0..SIZE, "what is not there yet is not zero");
        let (there, reader) = (Arc::clone(&block), Arc::new(AtomicU8::new(0)));
        let seen = Arc::clone(&reader);
        let thread = thread::spawn(move || {
            let mut byte = [0];
            there.read(5 * PAGE + 100, &mut byte).unwrap();
            seen.store(byte[0], Ordering::SeqCst);
            // The kernel reads on behalf of this program.
            there.reader().read(6 * PAGE, &mut byte).unwrap();
            byte[0]
        });
        assert_eq!(touched(&userfault), 5 * PAGE);
        assert!(userfault.put(&block, 5 * PAGE, &[7; PAGE as usize]).unwrap());
        assert_eq!(touched(&userfault), 6 * PAGE);
        assert_eq!(reader.load(Ordering::SeqCst), 7);
        assert!(userfault.put_zeroes(&block, 6 * PAGE, PAGE).unwrap());
        assert_eq!(thread.join().unwrap(), 0);
        // What is there stays.
        assert!(!userfault.put(&block, 5 * PAGE, &[8; PAGE as usize]).unwrap());
        assert!(!userfault.put_zeroes(&block, 5 * PAGE, PAGE).unwrap());
        let mut byte = [0];
        block.read(5 * PAGE, &mut byte).unwrap();
        assert_eq!(byte, [7]);
    }
}

#[test]
fn when_the_watch_ends_whoever_waits_goes_on() {
    let Some(userfault) = open() else { return };
    let block = block(Backing::Anonymous);
    userfault.watch(&block, PAGE..SIZE).unwrap();
    let there = Arc::clone(&block);
    let thread = thread::spawn(move || {
        let mut byte = [1];
        there.read(PAGE, &mut byte).unwrap();
        byte[0]
    });
    assert_eq!(touched(&userfault), PAGE);
    userfault.end();
    assert_eq!(thread.join().unwrap(), 0);
    assert!(!block.is_arriving());
    userfault.put(&block, 2 * PAGE, &[1; PAGE as usize]).unwrap_err();
}

#[test]
fn what_is_outside_of_a_block_or_of_what_is_watched_is_refused() {
    let Some(userfault) = open() else { return };
    let block = block(Backing::Anonymous);
    userfault.watch(&block, 0..SIZE + PAGE).unwrap_err();
    userfault.watch(&block, 0..0).unwrap_err();
    userfault.put(&block, SIZE, &[0; PAGE as usize]).unwrap_err();
    userfault.put_zeroes(&block, u64::MAX, PAGE).unwrap_err();
    userfault.put_zeroes(&block, 0, PAGE).unwrap_err();
    assert!(!block.is_arriving());
}

#[test]
fn memory_of_a_file_on_a_disk_cannot_arrive_page_by_page() {
    use std::os::fd::AsFd as _;
    let Some(userfault) = open() else { return };
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    let tmpfs = super::is_tmpfs(&file);
    let copy = file.as_fd().try_clone_to_owned().unwrap().into();
    let backing = crate::FileBacking { file: copy, offset: 0, shared: true, readonly_fd: false };
    let checked = userfault.check(&block(Backing::File(backing)));
    if tmpfs {
        checked.unwrap();
    } else {
        assert_eq!(checked.unwrap_err(), "Host backend files need to be TMPFS or HUGETLBFS only");
    }
}
