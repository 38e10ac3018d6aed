//! Memory that comes in order lands where it belongs; a wrong guess changes nothing but pages that nothing came for.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use memory::{Memory, RamBlock, RamSpec};

use super::{AHEAD, Input};
use crate::channel::Channel;
use crate::wire::{PAGE, ram};

fn head(page: u64) -> u64 {
    page | ram::PAGE | ram::CONTINUE
}

fn block() -> Arc<RamBlock> {
    Memory::new().create_ram(RamSpec::anonymous("r", 64 * PAGE)).unwrap()
}

fn contents(page: u64) -> Vec<u8> {
    (0..PAGE).map(|at| (page / PAGE * 7 + at) as u8 | 1).collect()
}

/// What `bytes`, which begin with the contents of page 0, do to a block: pages that are filled, those that are spoiled, and what is left.
/// With `begun` the head of page 0 was read before; otherwise it is sent as well.
fn read(block: &RamBlock, begun: bool, bytes: Vec<u8>, ahead: usize) -> (u64, Vec<u64>, Vec<u8>) {
    let bytes = if begun { bytes } else { [&head(0).to_be_bytes()[..], &bytes].concat() };
    let (mut from, to) = UnixStream::pair().unwrap();
    let sender = std::thread::spawn(move || from.write_all(&bytes));
    let mut input = Input::new(Arc::new(Channel::new(to.into()).unwrap()));
    let mut spoiled = Vec::new();
    let spoil = |range: std::ops::Range<u64>| spoiled.extend(range.step_by(PAGE as usize));
    let ahead = || ahead + usize::from(!begun);
    let filled = input.pages(block, 0, begun, ahead, head, spoil);
    let mut rest = Vec::new();
    input.read_to_end(&mut rest).unwrap();
    sender.join().unwrap().unwrap();
    (filled.unwrap(), spoiled, rest)
}

fn has(block: &RamBlock, page: u64) -> bool {
    let mut bytes = vec![0; PAGE as usize];
    block.read(page, &mut bytes).unwrap();
    bytes == contents(page)
}

#[test]
fn pages_that_come_in_order_are_filled_as_far_as_is_allowed() {
    for begun in [true, false] {
        let block = block();
        let mut bytes = contents(0);
        for page in (1..=3).map(|page| page * PAGE) {
            bytes.extend(head(page).to_be_bytes());
            bytes.extend(contents(page));
        }
        let all = bytes.len();
        let (filled, spoiled, rest) = read(&block, begun, bytes, 2);
        // A read may bring less than all that is sent.
        assert!((1..=3).contains(&filled), "{filled}");
        assert!((0..filled).all(|page| has(&block, page * PAGE)));
        assert!(spoiled.is_empty(), "{spoiled:?}");
        assert_eq!(rest.len(), all - filled as usize * (PAGE as usize + 8) + 8);
    }
}

#[test]
fn a_page_whose_head_is_guessed_may_be_something_else_or_be_there_already() {
    let block = block();
    let other = [((5 * PAGE) | ram::PAGE).to_be_bytes().to_vec(), contents(5 * PAGE)].concat();
    let (mut from, to) = UnixStream::pair().unwrap();
    from.write_all(&other).unwrap();
    let mut input = Input::new(Arc::new(Channel::new(to.into()).unwrap()));
    let mut spoiled = Vec::new();
    let filled = input.pages(&block, 0, false, || 2, head, |range| spoiled.extend(range)).unwrap();
    assert_eq!((filled, spoiled.first()), (0, Some(&0)));
    // Now all of it is in the buffer, where nothing is guessed.
    let filled = input.pages(&block, 5 * PAGE, false, || panic!("asked"), head, |_| panic!("spoiled"));
    assert_eq!(filled.unwrap(), 0);
    let mut came = vec![0; other.len()];
    input.read_exact(&mut came).unwrap();
    assert_eq!(came, other);
}

#[test]
fn what_belongs_elsewhere_comes_next_as_it_was_sent() {
    for other in [0u64, 40 * PAGE, 2 * PAGE] {
        let block = block();
        let mut behind = Vec::new();
        // Not the page that is guessed, at the first head or at a later one, and then much else.
        for page in [other, 5 * PAGE, 6 * PAGE] {
            behind.extend((page | ram::PAGE).to_be_bytes());
            behind.extend(contents(page));
        }
        behind.extend(vec![0xee; 100_000]);
        let bytes = [contents(0), head(PAGE).to_be_bytes().to_vec(), contents(PAGE), behind.clone()].concat();
        let begun = other != 0;
        let (filled, spoiled, rest) = read(&block, begun, bytes.clone(), AHEAD - 1);
        assert!((1..=2).contains(&filled), "{filled}");
        assert!((0..filled).all(|page| has(&block, page * PAGE)));
        assert_eq!(rest, bytes[filled as usize * (PAGE as usize + 8) - 8..]);
        assert!(spoiled.iter().all(|page| *page >= filled * PAGE), "{spoiled:?}");
        // What was not named was not touched.
        let untouched = (filled..64).map(|page| page * PAGE).filter(|page| !spoiled.contains(page));
        assert!(untouched.clone().count() > 0);
        assert!(untouched.into_iter().all(|page| block.is_zero(page, PAGE as usize)));
    }
}
