//! Shapes of devices, steps, and how they are drawn.
//!
//! A [`Step`] is drawn without knowing what went before, so that a failing life shrinks; the model makes an [`Act`] of it, with
//! numbers, by its state: "two blocks that are free" rather than "blocks 4 and 5".

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::super::protection::Protection;
use super::super::super::request::Request;
use crate::mem::memslots::Policy;

/// Bytes of a page.
pub(super) const PAGE: u64 = 4096;
/// Blocks that cost next to nothing to be preallocated. A region of them is smaller than the extent: all of it is usable, or nothing.
pub(super) const SMALL: u64 = 64 << 10;
/// Blocks of which eight are the extent, so that the usable region has an end. Hardly touched.
pub(super) const LARGE: u64 = 32 << 20;
/// Bytes that are preallocated at once: a request of more small blocks than that takes several turns.
pub(super) const SLICE: u64 = 2 * SMALL;
/// Bytes of RAM that is always there, at 0.
pub(super) const RAM: u64 = 64 << 10;
/// Where the area of the devices starts.
pub(super) const AREA: u64 = 0x1_4000_0000;
/// From one device to the next.
pub(super) const STRIDE: u64 = 2 << 30;
/// Where the second address space shows its piece of the first.
pub(super) const WINDOW_AT: u64 = 0x10_0000;

/// How the memory is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Whole,
    Usable,
    Plugged,
}

/// What is behind the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Anonymous,
    /// A memfd that others could map.
    Shared,
    /// A private mapping of a file.
    Private,
    /// A file that is open for reading only: the host takes nothing back.
    Unpunchable,
    /// The host has memory for the first so many blocks only, and blocks are preallocated.
    Short(u64),
}

/// A device, as the user configures it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) blocks: u64,
    pub(super) block: u64,
    /// Policy and blocks of each part; the last one may be smaller.
    pub(super) parts: Option<(Policy, u64)>,
    pub(super) protection: Protection,
    pub(super) source: Source,
    pub(super) prealloc: bool,
    /// Blocks that are requested at first.
    pub(super) requested: u64,
}

impl Shape {
    pub(super) fn region(&self) -> u64 {
        self.blocks * self.block
    }

    /// Bytes of a part.
    pub(super) fn part(&self) -> u64 {
        self.parts.map_or(self.region(), |(_, blocks)| blocks * self.block)
    }

    pub(super) fn part_count(&self) -> u64 {
        self.region().div_ceil(self.part())
    }

    pub(super) fn policy(&self) -> Option<Policy> {
        self.parts.map(|(policy, _)| policy)
    }
}

/// Which blocks a request names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Aim {
    /// A run of blocks that may be plugged, or that may be unplugged: which, and how many at most.
    Fitting(usize, u16),
    /// A block, in the region or just behind it, and so many.
    Any(u64, u16),
    /// The same, and some bytes off.
    Off(u64, i64, u16),
    /// An address.
    At(u64, u16),
}

/// What a guest asks about blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Plug,
    Unplug,
    State,
}

/// A place in a region, in 65536ths of it.
pub(super) type Part = u16;

/// Numbers of devices, users and so on are taken modulo how many there are.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Ask(usize, Verb, Aim),
    UnplugAll(usize),
    /// The guest asks, and the device does a part of what it takes.
    Prepare(usize, Aim),
    /// The guest's driver starts anew.
    DriverReset(usize),
    /// The user wants so many blocks plugged.
    Resize(usize, u64),
    Reset,
    Freeze(bool),
    /// The guest writes to a block.
    Store(usize, u64, u8),
    /// The guest reads some bytes, over blocks: where, how many.
    Peek(usize, Part, u32),
    /// A user of part of a device's memory comes.
    Listen(usize, usize, Part, Part),
    Unlisten(usize),
    /// A user vetoes what holds a byte, or nothing any more.
    Veto(usize, Option<Part>),
    /// A device with DMA comes to one of the address spaces, with so many mappings at most.
    Attach(usize, usize, Option<u64>),
    Detach(usize),
    /// It cannot map what holds an address of a device, or anything again.
    Refuse(usize, Option<(usize, Part)>),
    /// A back end with so many slots comes (back).
    Connect(usize, u64),
    Lose(usize),
    Add(usize),
    Remove(usize),
}

/// A step with numbers. Ranges and offsets are bytes of a device's region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    Nothing,
    Serve(usize, Request),
    Prepare(usize, Request),
    DriverReset(usize),
    Resize(usize, u64),
    Reset,
    Freeze(bool),
    Store(usize, u64, u8),
    Peek(usize, Range<u64>),
    Listen(usize, usize, Range<u64>),
    Unlisten(usize),
    Veto(usize, Option<u64>),
    Attach(usize, usize, Option<u64>),
    Detach(usize),
    /// A guest address in the first address space.
    Refuse(usize, Option<u64>),
    Connect(usize, u64),
    Lose(usize),
    Add(usize),
    Remove(usize),
}

/// A machine and what happens to it.
#[derive(Debug, Clone)]
pub(super) struct Life {
    pub(super) shapes: Vec<Shape>,
    /// Slots of the hypervisor, if they are limited.
    pub(super) hypervisor: Option<u64>,
    /// What the second address space shows of the first.
    pub(super) window: Range<u64>,
    pub(super) steps: Vec<Step>,
}

impl Life {
    /// Where the second address space has an address of the first.
    pub(super) fn in_window(window: &Range<u64>, addr: u64) -> Option<u64> {
        window.contains(&addr).then(|| WINDOW_AT + (addr - window.start))
    }

    /// Where a device is.
    pub(super) fn addr(device: usize) -> u64 {
        AREA + device as u64 * STRIDE
    }
}

/// `part` of `whole`.
pub(super) fn of(part: Part, whole: u64) -> u64 {
    whole * u64::from(part) / 0x1_0000
}

/// Numbers of which something is made. Plain numbers, because unions of strategies cost more than what is tested; 0 is the simplest of
/// everything, so that lives still shrink.
type Raw = [u16; 4];

/// One of `0..n`.
fn one(raw: u16, n: u16) -> u64 {
    (raw % n).into()
}

/// One of the choices, with weights.
fn pick<T: Copy>(raw: u16, choices: &[(u16, T)]) -> T {
    let mut left = raw % choices.iter().map(|(weight, _)| weight).sum::<u16>();
    for (weight, choice) in choices {
        match left.checked_sub(*weight) {
            Some(less) => left = less,
            None => return *choice,
        }
    }
    unreachable!("less than the sum")
}

fn shape(kind: Kind, protection: Protection, raw: [u16; 7]) -> Shape {
    let block = pick(raw[0], &[(5, SMALL), (3, LARGE)]);
    let blocks = match block {
        SMALL => 1 + one(raw[1], 24),
        _ => 9 + one(raw[1], 12),
    };
    let short =
        if block == SMALL { Source::Short(one(raw[2] / 14, blocks as u16 + 1)) } else { Source::Shared };
    let sources = [
        (6, Source::Anonymous),
        (3, Source::Shared),
        (2, Source::Private),
        (2, Source::Unpunchable),
        (1, short),
    ];
    let source = pick(raw[2], &sources);
    let part = (1 + one(raw[3], 8)).min(blocks);
    Shape {
        blocks,
        block,
        parts: match kind {
            Kind::Whole => None,
            Kind::Usable => Some((Policy::WhileUsable, part)),
            Kind::Plugged => Some((Policy::WhilePlugged, part)),
        },
        protection,
        source,
        prealloc: match block {
            SMALL => matches!(source, Source::Short(_)) || one(raw[4], 2) == 1,
            // That would take the test's time and the host's memory.
            _ => false,
        },
        requested: pick(raw[5], &[(2, blocks), (1, one(raw[6], blocks as u16 + 1))]),
    }
}

fn any_shape(raw: [u16; 9]) -> Shape {
    let [kind, protection, rest @ ..] = raw;
    let kind = pick(kind, &[(1, Kind::Whole), (1, Kind::Usable), (1, Kind::Plugged)]);
    let protection = pick(protection, &[(1, Protection::Off), (1, Protection::Slot), (1, Protection::Block)]);
    shape(kind, protection, rest)
}

fn aim(dice: u16, a: u16, b: u16) -> Aim {
    let count = 1 + one(b, 7) as u16;
    match dice {
        0..11 => Aim::Fitting(a.into(), count),
        11..15 => Aim::Any(a.into(), count - 1),
        15 => Aim::Off(a.into(), pick(b / 7, &[(1, 1), (1, -1), (1, 512), (1, PAGE as i64)]), count),
        _ => Aim::At(pick(a, &[(1, 0), (1, AREA - 1), (1, u64::MAX), (1, u64::from(a) << 48)]), b),
    }
}

fn step([dice, who, a, b]: Raw) -> Step {
    let device = pick(who, &[(6, 0), (1, 1), (1, 2)]);
    // Of those who use memory, too.
    let user = usize::from(who / 8 % 3);
    let (dice, more) = (dice % 128, dice / 128 % 68);
    let ask = |verb| Step::Ask(device, verb, aim(more % 17, a, b));
    let maybe = |value: u16| (more % 4 > 0).then_some(value);
    match dice {
        0..8 => Step::Prepare(device, aim(more % 17, a, b)),
        8..34 => ask(Verb::Plug),
        34..54 => ask(Verb::Unplug),
        54..58 => ask(Verb::State),
        58..61 => Step::UnplugAll(device),
        61..71 => Step::Store(device, a.into(), 1 + (b % 255) as u8),
        71..74 => Step::Peek(device, a, 1 + u32::from(b) * 4),
        74..81 => Step::Resize(device, if more % 4 == 0 { 0 } else { one(a, 26) }),
        81..83 => Step::Reset,
        83..86 => Step::Freeze(a % 4 == 3),
        86..88 => Step::Remove(device),
        88..94 => Step::Listen(user, device, a, b),
        94 => Step::Unlisten(user),
        95..102 => Step::Veto(user, maybe(a)),
        102..110 => Step::Attach(user, usize::from(b % 2), maybe(a % 24).map(u64::from)),
        110 if more % 3 == 0 => Step::DriverReset(device),
        110 => Step::Detach(user),
        111..117 => Step::Refuse(user, maybe(a).map(|part| (device, part))),
        117..124 => Step::Connect(user, if b.is_multiple_of(4) { 509 + one(a, 9) } else { 1 + one(a, 15) }),
        124..126 => Step::Lose(user),
        _ => Step::Add(device),
    }
}

/// Lives whose first device is of a kind; the others are of any.
pub(super) fn life(kind: Kind, protection: Protection) -> impl Strategy<Value = Life> {
    let shapes = (any::<[u16; 7]>(), vec(any::<[u16; 9]>(), 0..3));
    (shapes, any::<Raw>(), vec(any::<Raw>(), 1..32)).prop_map(move |((first, others), more, steps)| {
        let first = shape(kind, protection, first);
        // A piece of the first device that begins and ends anywhere, also in the middle of a block; a page at least.
        let pages = first.region() / PAGE;
        let start = of(more[0], pages);
        let end = start + 1 + of(more[1], pages - start);
        Life {
            shapes: std::iter::once(first).chain(others.into_iter().map(any_shape)).collect(),
            hypervisor: pick(more[2], &[(4, None), (1, Some(2 + one(more[3], 22))), (1, Some(600))]),
            window: AREA + start * PAGE..AREA + end * PAGE,
            steps: std::iter::once(Step::Add(0)).chain(steps.into_iter().map(step)).collect(),
        }
    })
}
