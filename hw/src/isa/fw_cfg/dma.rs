//! DMA requests: a structure in guest RAM says what is to be copied where, and gets the outcome.

use memory::{AddressSpace, FlatView};
use vm_memory::{Bytes, GuestAddress};

use super::FwCfg;
use super::contents::Item;

const ERROR: u32 = 1 << 0;
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
const WRITE: u32 = 1 << 4;
/// Bytes that are copied at once.
const PIECE: u64 = 64 << 10;
/// Zeros that a guest gets for what lies behind the end of an item; whoever asks for more has made a mistake.
const FILL_MAX: u64 = 64 << 20;

/// What the structure says: control, length, address, big-endian.
struct Request {
    control: u32,
    length: u64,
    address: u64,
}

impl Request {
    fn read(view: &FlatView, at: u64) -> Option<Self> {
        let mut bytes = [0; 16];
        view.guest_memory().read_slice(&mut bytes, GuestAddress(at)).ok()?;
        let whole = u128::from_be_bytes(bytes);
        Some(Self {
            control: (whole >> 96) as u32,
            length: u64::from((whole >> 64) as u32),
            address: whole as u64,
        })
    }
}

/// Serves the request at `at`.
pub(super) fn run(device: &FwCfg, memory: &AddressSpace, at: u64) {
    let view = memory.view();
    let failed = match Request::read(&view, at) {
        Some(request) => serve(device, &view, &request).is_none(),
        None => true,
    };
    let control = if failed { ERROR } else { 0 };
    // A guest that has put its request nowhere cannot be told.
    let _ = view.guest_memory().write_slice(&control.to_be_bytes(), GuestAddress(at));
}

/// `None`: something about it cannot be done.
fn serve(device: &FwCfg, view: &FlatView, request: &Request) -> Option<()> {
    let Request { control, length, address } = *request;
    if control & SELECT != 0 {
        device.select((control >> 16) as u16);
    }
    if control & READ != 0 {
        read(device, view, length, address)
    } else if control & WRITE != 0 {
        write(device, view, length, address)
    } else {
        if control & SKIP != 0 {
            advance(device, length);
        }
        Some(())
    }
}

/// The item, and how far into it and how much of `length` is there; the rest is behind its end. The place moves on by that.
fn advance(device: &FwCfg, length: u64) -> (Option<Item>, u64, u64) {
    let mut state = device.lock();
    let offset = state.offset;
    let Some(item) = state.current().map(|item| item.clone()) else { return (None, 0, 0) };
    let there = item.contents.len().saturating_sub(offset).min(length);
    state.offset += there;
    (Some(item), offset, there)
}

fn read(device: &FwCfg, view: &FlatView, length: u64, address: u64) -> Option<()> {
    let (item, offset, there) = advance(device, length);
    let mut buffer = vec![0; PIECE.min(length) as usize];
    let mut copy = |from: u64, end: u64, contents: Option<&Item>| {
        let mut done = from;
        while done < end {
            let piece = &mut buffer[..(end - done).min(PIECE) as usize];
            match contents {
                Some(item) => item.contents.read(offset + done, piece).then_some(())?,
                None => piece.fill(0),
            }
            let to = GuestAddress(address.checked_add(done)?);
            view.guest_memory().write_slice(piece, to).ok()?;
            done += piece.len() as u64;
        }
        Some(())
    };
    if let Some(item) = &item {
        copy(0, there, Some(item))?;
    }
    if length - there > FILL_MAX {
        return None;
    }
    copy(there, length, None)
}

/// All of it, or nothing.
fn write(device: &FwCfg, view: &FlatView, length: u64, address: u64) -> Option<()> {
    if length == 0 {
        return Some(());
    }
    let offset = {
        let mut state = device.lock();
        let offset = state.offset;
        let item = state.current()?;
        item.written.as_ref()?;
        item.contents.len().checked_sub(offset).filter(|&left| left >= length)?;
        offset
    };
    let mut data = vec![0; length as usize];
    view.guest_memory().read_slice(&mut data, GuestAddress(address)).ok()?;
    let (bytes, written) = {
        let mut state = device.lock();
        // Another vCPU may have chosen something else meanwhile.
        let outcome = state.current()?.write(offset, &data)?;
        state.offset = offset + length;
        outcome
    };
    written(&bytes);
    Some(())
}
