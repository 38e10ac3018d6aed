//! After each step: all there is to see, against the model.

use std::ops::Range;

use memory::MemTx;
use vm_memory::{Bytes as _, GuestAddress};

use super::super::super::protection::Protection;
use super::device::Device;
use super::host;
use super::naive::{Answer, Naive, Story};
use super::picture::{Piece, Slots, View, Views};
use super::steps::{Act, Life, Shape};
use super::users::Told;
use super::world::World;
use crate::mem::memslots::Policy;

/// Compares everything. `before` is the model before the step, `after` is it now.
pub(super) fn step(
    act: &Act,
    answer: &Answer,
    story: &Story,
    before: &Naive,
    after: &Naive,
    world: &mut World,
) {
    assert_eq!(*answer, story.answer, "{act:?}");
    // Before anything is read, which brings pages.
    pages(act, story, after, world);
    stopped(act, story, world);
    order(act, story, before, after, world);
    devices(act, after, world);
    // To read all of the program's mappings takes a while.
    if story.undone || world.steps.is_multiple_of(8) {
        mappings(act, after, world);
    }
    let shown = story.trail.last().expect("what the address spaces look like now");
    views(act, story, shown, world);
    users(act, after, world);
    maps(act, after, shown, world);
    slots(act, after, &shown[0], world);
    if let Act::Peek(number, range) = act {
        peek(*number, range, after, world);
    }
    reads(act, after, world);
}

/// What was given up is gone from the host.
fn pages(act: &Act, story: &Story, after: &Naive, world: &World) {
    for (number, blocks) in &story.freed {
        let (size, live) = (after.devices[*number].shape.block, world.live[*number].as_ref().unwrap());
        let unit = live.unit.lock().unwrap();
        let device = &after.devices[*number];
        let again = |block: usize| {
            device.plugged[block]
                || device.preparing.as_ref().is_some_and(|(blocks, _)| blocks.contains(&block))
        };
        for block in blocks.clone().filter(|block| !again(*block)).map(|block| block as u64) {
            let range = block * size..(block + 1) * size;
            assert!(!world.pages.keeps(unit.block(), &range), "{act:?}: the host still has block {block}");
        }
    }
}

/// Devices with DMA whose map is incomplete were told so, once, and are stopped. No other was.
fn stopped(act: &Act, story: &Story, world: &mut World) {
    for number in 0..world.mappers.len() {
        let Some((server, _, mapper)) = &world.mappers[number].there else { continue };
        let stopped = story.stopped.contains(&number);
        assert_eq!(
            (mapper.fault().is_some(), *server.incomplete.lock().unwrap()),
            (stopped, stopped.into()),
            "{act:?}"
        );
        if stopped {
            world.detach(number);
        }
    }
}

/// Maximal runs of blocks that changed to `value`, in bytes.
fn changed(before: &Device, after: &Device, value: bool) -> Vec<Range<u64>> {
    let size = after.shape.block;
    let mut runs: Vec<Range<u64>> = Vec::new();
    for at in
        (0..after.plugged.len()).filter(|at| before.plugged[*at] != value && after.plugged[*at] == value)
    {
        let block = at as u64 * size..(at as u64 + 1) * size;
        match runs.last_mut() {
            Some(last) if last.end == block.start => last.end = block.end,
            _ => runs.push(block),
        }
    }
    runs
}

fn cut(runs: &[Range<u64>], to: &Range<u64>) -> Vec<Range<u64>> {
    let cut = runs.iter().map(|run| run.start.max(to.start)..run.end.min(to.end));
    cut.filter(|run| run.start < run.end).collect()
}

/// Who was told what, and when.
fn order(act: &Act, story: &Story, before: &Naive, after: &Naive, world: &World) {
    let told = world.log.take();
    let asks: Vec<_> = told.iter().filter(|t| matches!(t, Told::Asked { .. } | Told::Lost { .. })).collect();
    match act {
        Act::Serve(..) | Act::Reset if !story.undone => {}
        // Who comes and who goes is checked by what he holds then.
        Act::Serve(..) | Act::Reset | Act::Listen(..) | Act::Unlisten(_) | Act::Remove(_) => return,
        _ => return assert!(asks.is_empty(), "{act:?}: nobody is concerned"),
    }
    let mut expected = 0;
    for (user, seat) in before.users.iter().enumerate() {
        let Some((number, part)) = &seat.registered else { continue };
        let (was, is) = (&before.devices[*number], &after.devices[*number]);
        let (came, went) = (cut(&changed(was, is, true), part), cut(&changed(was, is, false), part));
        let heard = |asked: bool| -> Vec<Range<u64>> {
            let ranges = asks.iter().filter_map(|told| match told {
                Told::Asked { user: u, range, .. } if asked && *u == user => Some(range.clone()),
                Told::Lost { user: u, range, .. } if !asked && *u == user => Some(range.clone()),
                _ => None,
            });
            ranges.collect()
        };
        assert_eq!(
            (heard(true), heard(false)),
            (came.clone(), went.clone()),
            "{act:?}: user {user} hears each run once"
        );
        expected += came.len() + went.len();
    }
    assert_eq!(asks.len(), expected, "{act:?}: nobody else hears anything");
    for told in &told {
        match told {
            Told::Asked { user, pages, open, .. } => {
                let (number, _) = before.users[*user].registered.as_ref().unwrap();
                let Shape { prealloc, protection, .. } = before.devices[*number].shape;
                assert!(*pages || !prealloc, "{act:?}: pages are ready before users are asked");
                assert!(
                    !*open || protection != Protection::Block,
                    "{act:?}: nobody gets in before users are asked"
                );
            }
            Told::Lost { user, range, byte } => {
                let (number, _) = before.users[*user].registered.as_ref().unwrap();
                let device = &before.devices[*number];
                let expected = if range.start.is_multiple_of(device.shape.block) {
                    device.content[(range.start / device.shape.block) as usize]
                } else {
                    0
                };
                assert_eq!(*byte, Some(expected), "{act:?}: pages are there until users know");
            }
            Told::Mapping { .. } | Told::Slot { .. } => {}
        }
    }
    // A reset goes device by device, so this holds for one request only.
    if matches!(act, Act::Serve(..)) {
        let last = |is: fn(&Told) -> bool| told.iter().rposition(is);
        let first = |is: fn(&Told) -> bool| told.iter().position(is);
        let lost = first(|t| matches!(t, Told::Lost { .. }));
        let unmapped = last(|t| matches!(t, Told::Slot { add: false } | Told::Mapping { populate: false }));
        assert!(lost.is_none() || unmapped < lost, "{act:?}: slots go before users are told");
        let asked = last(|t| matches!(t, Told::Asked { .. }));
        let mapped = first(|t| matches!(t, Told::Mapping { populate: true }));
        assert!(mapped.is_none() || asked < mapped, "{act:?}: users are asked before the memory is mapped");
    }
}

/// Bitmap, sizes, configuration space, parts.
fn devices(act: &Act, after: &Naive, world: &World) {
    for (device, live) in after.devices.iter().zip(&world.live) {
        assert_eq!(device.present, live.is_some());
        let Some(live) = live else { continue };
        let unit = live.unit.lock().unwrap();
        let (block, blocks) = (device.shape.block, unit.blocks());
        assert_eq!((unit.size(), unit.usable()), (device.size(), device.usable), "{act:?}");
        let config = unit.config(7);
        let word = |at: usize| u64::from_le_bytes(config[at..at + 8].try_into().unwrap());
        let expected =
            [block, 7, device.addr, device.shape.region(), device.usable, device.size(), device.requested];
        assert_eq!([0, 8, 16, 24, 32, 40, 48].map(word), expected, "{act:?}");
        let mut plugged = vec![false; device.plugged.len()];
        blocks.replay_populated(0..device.shape.region(), |run| {
            plugged[(run.start / block) as usize..(run.end / block) as usize].fill(true);
        });
        assert_eq!(plugged, device.plugged, "{act:?}");
        let mut others = vec![true; device.plugged.len()];
        blocks.replay_discarded(0..device.shape.region(), |run| {
            others[(run.start / block) as usize..(run.end / block) as usize].fill(false);
        });
        assert_eq!(others, device.plugged, "{act:?}");
        let slots = unit.slot_use();
        let (parts, mapped) = (device.shape.part_count(), device.mapped_parts());
        assert_eq!(
            (slots.parts, slots.mapped, slots.part_size),
            (parts, mapped, device.shape.part()),
            "{act:?}"
        );
    }
}

/// What is unplugged and protected cannot be touched in the host mapping, everything else can.
fn mappings(act: &Act, after: &Naive, world: &World) {
    let readable = host::readable();
    let can_read = |at: u64| {
        let next = readable.partition_point(|range| range.end <= at);
        readable.get(next).is_some_and(|range| range.contains(&at))
    };
    for (device, live) in after.devices.iter().zip(&world.live) {
        let Some(live) = live else { continue };
        let start = live.unit.lock().unwrap().block().host_address() as u64;
        for at in 0..device.plugged.len() {
            let (first, size, open) =
                (start + at as u64 * device.shape.block, device.shape.block, device.is_open(at));
            assert_eq!([first, first + size - 1].map(can_read), [open; 2], "{act:?}: block {at}");
        }
    }
}

/// What both address spaces show, and that whoever follows them heard of what changed and of nothing else.
fn views(act: &Act, story: &Story, shown: &Views, world: &World) {
    for (space, view) in shown.iter().enumerate() {
        let shown = world.spaces[space].view();
        let pieces = shown
            .ranges()
            .iter()
            .map(|r| (r.addr, r.size() as u64, r.name().to_owned(), r.offset, r.unmergeable));
        let expected = view.iter().map(|p: &Piece| (p.addr, p.size, p.name(), p.offset, p.unmergeable));
        assert_eq!(pieces.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{act:?}: space {space}");
        let known: Vec<_> = view.iter().map(|p| (p.addr, p.size)).collect();
        assert_eq!(world.ledgers[space].shown(), known, "{act:?}: space {space}");
        let trace = story.trail.windows(2).flat_map(|pair| difference(&pair[0][space], &pair[1][space]));
        assert_eq!(world.ledgers[space].take_trace(), trace.collect::<Vec<_>>(), "{act:?}: space {space}");
    }
}

/// What a listener hears when one view follows the other.
fn difference(old: &View, new: &View) -> Vec<(bool, u64, u64)> {
    let gone = old.iter().filter(|piece| !new.contains(piece)).map(|piece| (false, piece.addr, piece.size));
    let come = new.iter().filter(|piece| !old.contains(piece)).map(|piece| (true, piece.addr, piece.size));
    gone.chain(come).collect()
}

/// What each user believes to be plugged.
fn users(act: &Act, after: &Naive, world: &World) {
    for (seat, user) in world.users.iter().zip(&after.users) {
        let Some((number, part)) = &user.registered else {
            assert!(seat.there.is_none(), "{act:?}");
            continue;
        };
        let device = &after.devices[*number];
        let nothing = Device { plugged: vec![false; device.plugged.len()], ..device.clone() };
        let (there, ..) = seat.there.as_ref().unwrap();
        assert_eq!(
            there.holds.lock().unwrap().runs(),
            cut(&changed(&nothing, device, true), part),
            "{act:?}"
        );
    }
}

/// The map of each device with DMA: the plugged blocks of what it sees, and how many mappings that takes.
fn maps(act: &Act, after: &Naive, shown: &Views, world: &World) {
    for (seat, mapper) in world.mappers.iter().zip(&after.mappers) {
        let Some((space, max)) = mapper.attached else {
            assert!(seat.there.is_none(), "{act:?}");
            continue;
        };
        let (server, _, mapper) = seat.there.as_ref().unwrap();
        let map = server.map.lock().unwrap().clone();
        assert_eq!(map, after.map_of(&shown[space]), "{act:?}");
        assert_eq!(mapper.mappings(), map.len() as u64, "{act:?}");
        assert!(max.is_none_or(|max| mapper.mappings() <= max), "{act:?}");
    }
}

/// The plan's numbers, what back ends have, and that nobody is ever without a slot.
fn slots(act: &Act, after: &Naive, view: &View, world: &World) {
    let info = world.plan.info();
    let (parts, mapped) = after.part_counts();
    assert_eq!((info.used, info.reserved, info.free), (mapped, parts - mapped, 2048 - parts), "{act:?}");
    let users: Vec<_> =
        info.users.iter().map(|u| Slots { limit: u.limit, used: u.used, reserved: u.reserved }).collect();
    assert_eq!(users, after.slot_users(view), "{act:?}");
    for slots in &users {
        assert!(slots.used + slots.reserved <= slots.limit, "{act:?}: a promise is broken: {slots:?}");
    }
    let given: Vec<_> =
        view.iter().filter(|piece| is_given(after, piece)).map(|p| (p.addr, p.size)).collect();
    for (number, backend) in world.backends.iter().enumerate() {
        assert_eq!(backend.is_some(), after.backends.iter().any(|(n, _)| *n == number), "{act:?}");
        if let Some(backend) = backend {
            assert_eq!(backend.has(), given, "{act:?}: back end {number}");
        }
    }
}

/// Whether a back end has a piece: of devices that protect what is unplugged, or map only what is plugged, once something of it is plugged.
fn is_given(naive: &Naive, piece: &Piece) -> bool {
    let Some(device) = piece.device.map(|number| &naive.devices[number]) else { return true };
    let follows =
        device.shape.protection != Protection::Off || device.shape.policy() == Some(Policy::WhilePlugged);
    !follows || device.is_used(&(piece.offset..piece.offset + piece.size))
}

/// What a read over several blocks gives.
fn peek(number: usize, range: &Range<u64>, after: &Naive, world: &World) {
    let device = &after.devices[number];
    let size = device.shape.block;
    let mut bytes = vec![0xee; (range.end - range.start) as usize];
    let ok = world.spaces[0].read(Life::addr(number) + range.start, &mut bytes).is_ok();
    let (mut expected, reach) = (vec![0; bytes.len()], device.reach());
    for block in range.start / size..range.end.div_ceil(size) {
        // All that one piece of memory shows of the access is refused if part of it is.
        for at in [block * size, (block + 1) * size - 1] {
            if ok && range.contains(&at) {
                expected[(at - range.start) as usize] = device.content[block as usize];
            }
        }
        if !ok && reach[block as usize] == Some(true) {
            let part = range.start.max(block * size)..range.end.min((block + 1) * size);
            let part = (part.start - range.start) as usize..(part.end - range.start) as usize;
            bytes[part].fill(0);
        }
    }
    assert!(bytes == expected, "{range:x?}: {:?}", bytes.iter().zip(&expected).position(|(a, b)| a != b));
}

/// Each block by one of its ends, in one of the address spaces or as a device reads it; the next step takes another way.
fn reads(act: &Act, after: &Naive, world: &mut World) {
    world.steps += 1;
    for (number, device) in after.devices.iter().enumerate().filter(|(_, device)| device.present) {
        let unit = world.live[number].as_ref().unwrap().unit.lock().unwrap();
        let (reach, size) = (device.reach(), device.shape.block);
        for block in (0..device.plugged.len()).filter(|block| device.has_memory(*block)) {
            let (byte, result) = match reach[block] {
                Some(true) => (device.content[block], MemTx::Ok),
                Some(false) => (0, MemTx::Error),
                None => (0, MemTx::DecodeError),
            };
            let start = block as u64 * size;
            let (first, last) = (device.addr + start, device.addr + start + size - 1);
            let way = (block + world.steps) % 4;
            match Life::in_window(&after.window, last).filter(|_| way < 2) {
                Some(addr) => {
                    let read = world.spaces[1].read_uint(addr, 1);
                    assert_eq!(
                        read,
                        (byte.into(), result),
                        "{act:?}: block {block} of {number}, in the window"
                    );
                }
                None if way == 2 => {
                    let read = world.spaces[0].view().guest_memory().read_obj::<u8>(GuestAddress(last)).ok();
                    let expected = (result == MemTx::Ok).then_some(byte);
                    assert_eq!(read, expected, "{act:?}: block {block} of {number}, as a device reads it");
                }
                None => {
                    let read = world.spaces[0].read_uint(first, 1);
                    assert_eq!(read, (byte.into(), result), "{act:?}: block {block} of {number}");
                }
            }
            if way == 3 && reach[block].is_some() {
                assert_eq!(
                    unit.block().is_accessible(start, size),
                    result == MemTx::Ok,
                    "{act:?}: block {block}"
                );
            }
        }
    }
}
