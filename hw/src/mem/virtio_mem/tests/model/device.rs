//! A device in the model: what is plugged, what it answers without asking anybody else, and what a guest asks it.
//!
//! Answers are those of virtio 1.3 §5.15.6 in the order in which QEMU 10.0.2 finds them (range, requested size, state, busy).

use std::ops::Range;

use super::super::super::request::{BlockState, Request, Response, Span};
use super::steps::{Act, Aim, Life, Part, Shape, Source, Step, Verb, of};

/// Bytes beyond the requested size that are usable.
const EXTENT: u64 = 256 << 20;

/// A device, as the guest and the user know it.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) shape: Shape,
    pub(super) addr: u64,
    pub(super) present: bool,
    pub(super) plugged: Vec<bool>,
    /// The first and the last byte of each block; the others are 0.
    pub(super) content: Vec<u8>,
    pub(super) requested: u64,
    pub(super) usable: u64,
    /// Blocks whose pages are allocated for a request that was not served yet, and how many bytes are done.
    pub(super) preparing: Option<(Range<usize>, u64)>,
}

impl Device {
    pub(super) fn new(number: usize, shape: Shape) -> Self {
        let blocks = shape.blocks as usize;
        let (plugged, content) = (vec![false; blocks], vec![0; blocks]);
        let (addr, present, requested, usable) = (Life::addr(number), false, 0, 0);
        Self { shape, addr, present, plugged, content, requested, usable, preparing: None }
    }

    pub(super) fn realize(&mut self) {
        self.present = true;
        self.preparing = None;
        self.content.fill(0);
        self.requested = self.shape.requested * self.shape.block;
        self.usable = self.wanted();
    }

    pub(super) fn size(&self) -> u64 {
        self.count() as u64 * self.shape.block
    }

    fn count(&self) -> usize {
        self.plugged.iter().filter(|plugged| **plugged).count()
    }

    /// The usable region that the requested size needs.
    pub(super) fn wanted(&self) -> u64 {
        let wanted = self.shape.region().min(self.requested + EXTENT);
        if self.requested == 0 { 0 } else { wanted.div_ceil(self.shape.block) * self.shape.block }
    }

    pub(super) fn resize(&mut self, requested: u64) {
        self.requested = requested;
        self.usable = self.usable.max(self.wanted());
    }

    /// The blocks that a request names, if it may.
    fn named(&self, span: Span) -> Option<Range<usize>> {
        let (addr, block) = (i128::from(span.addr), i128::from(self.shape.block));
        let start = addr - i128::from(self.addr);
        let end = start + i128::from(span.blocks) * block;
        let valid = span.blocks > 0 && start >= 0 && start % block == 0 && end <= i128::from(self.usable);
        valid.then(|| (start / block) as usize..(end / block) as usize)
    }

    /// What is answered without asking anybody but the device; otherwise what is to be done.
    pub(super) fn judge(&self, request: Request, busy: bool) -> Result<Range<usize>, Response> {
        let (span, verb) = match request {
            Request::Plug(span) => (span, Verb::Plug),
            Request::Unplug(span) => (span, Verb::Unplug),
            Request::State(span) => (span, Verb::State),
            Request::UnplugAll if busy && self.count() > 0 => return Err(Response::Busy),
            Request::UnplugAll => return Ok(0..self.plugged.len()),
        };
        let blocks = self.named(span).ok_or(Response::Error)?;
        let plugged = self.plugged[blocks.clone()].iter().filter(|plugged| **plugged).count();
        let more = self.size() + blocks.len() as u64 * self.shape.block;
        match verb {
            Verb::State if plugged == blocks.len() => Err(Response::State(BlockState::Plugged)),
            Verb::State if plugged == 0 => Err(Response::State(BlockState::Unplugged)),
            Verb::State => Err(Response::State(BlockState::Mixed)),
            Verb::Plug if more > self.requested => Err(Response::Nack),
            Verb::Plug if plugged > 0 => Err(Response::Error),
            Verb::Unplug if plugged < blocks.len() => Err(Response::Error),
            Verb::Plug | Verb::Unplug if busy => Err(Response::Busy),
            Verb::Plug | Verb::Unplug => Ok(blocks),
        }
    }

    pub(super) fn can_discard(&self) -> bool {
        self.shape.source != Source::Unpunchable
    }

    /// Whether the host has memory for a block.
    pub(super) fn has_memory(&self, block: usize) -> bool {
        !matches!(self.shape.source, Source::Short(blocks) if block as u64 >= blocks)
    }

    /// The blocks that are plugged, or those that are not but could be.
    fn blocks(&self, plugged: bool) -> Vec<usize> {
        let usable = (self.usable / self.shape.block) as usize;
        (0..usable).filter(|block| self.plugged[*block] == plugged).collect()
    }

    /// A run of those blocks that starts at one of them and is no longer than `most` and `room`.
    fn run(&self, plugged: bool, pick: usize, most: u16, room: u64) -> Option<Span> {
        let blocks = self.blocks(plugged);
        let at = pick % blocks.len().max(1);
        let first = *blocks.get(at)?;
        let len = blocks[at..].iter().enumerate().take_while(|(more, block)| first + more == **block).count();
        let blocks = u64::from(most).min(len as u64).min(room).max(1) as u16;
        Some(Span { addr: self.addr + first as u64 * self.shape.block, blocks })
    }

    /// What a guest asks: sensible things, most of the time.
    fn request(&self, verb: Verb, aim: Aim) -> Request {
        let at = |block: u64| self.addr + block % (self.shape.blocks + 3) * self.shape.block;
        let room = self.requested.saturating_sub(self.size()) / self.shape.block;
        let at_work = self.preparing.as_ref().map(|(blocks, _)| Span {
            addr: self.addr + blocks.start as u64 * self.shape.block,
            blocks: blocks.len() as u16,
        });
        // A guest that waits for an answer asks for nothing else, but it may want less of it.
        let less = |pick: usize, Span { addr, blocks }| Span {
            addr,
            blocks: if pick.is_multiple_of(4) { blocks.saturating_sub(1).max(1) } else { blocks },
        };
        let free =
            |pick, most| at_work.map(|span| less(pick, span)).or_else(|| self.run(false, pick, most, room));
        let span = match aim {
            Aim::Fitting(pick, most) => match verb {
                Verb::Plug => free(pick, most),
                // A guest that has nothing takes something.
                Verb::Unplug if self.count() == 0 => {
                    return free(pick, most).map_or(Request::UnplugAll, Request::Plug);
                }
                Verb::Unplug | Verb::State => self.run(true, pick, most, u64::MAX),
            },
            Aim::Any(block, blocks) => Some(Span { addr: at(block), blocks }),
            Aim::Off(block, by, blocks) => Some(Span { addr: at(block).wrapping_add_signed(by), blocks }),
            Aim::At(addr, blocks) => Some(Span { addr, blocks }),
        };
        let span = span.unwrap_or(Span { addr: self.addr, blocks: 1 });
        match verb {
            Verb::Plug => Request::Plug(span),
            Verb::Unplug => Request::Unplug(span),
            Verb::State => Request::State(span),
        }
    }

    /// A byte of the region: one in a block that is plugged, or any.
    pub(super) fn place(&self, part: Part) -> u64 {
        let plugged = self.blocks(true);
        match plugged.get(usize::from(part / 4) % plugged.len().max(1)) {
            Some(block) if !part.is_multiple_of(4) => *block as u64 * self.shape.block + u64::from(part),
            _ => of(part, self.shape.region()),
        }
    }

    /// What a step that is about a device means now.
    pub(super) fn act(&self, number: usize, step: &Step) -> Act {
        let Shape { blocks, block, .. } = self.shape;
        match *step {
            Step::Ask(_, verb, aim) => Act::Serve(number, self.request(verb, aim)),
            Step::UnplugAll(_) => Act::Serve(number, Request::UnplugAll),
            Step::Prepare(_, aim) => Act::Prepare(number, self.request(Verb::Plug, aim)),
            Step::DriverReset(_) => Act::DriverReset(number),
            Step::Resize(_, wanted) => Act::Resize(number, wanted.min(blocks) * block),
            Step::Store(_, at, value) if self.has_memory((at % blocks) as usize) => {
                Act::Store(number, at % blocks, value)
            }
            Step::Peek(_, part, len) => {
                let start = of(part, self.shape.region());
                let end = (start + u64::from(len)).min(self.shape.region());
                let last = (end - 1) / block;
                if self.has_memory(last as usize) { Act::Peek(number, start..end) } else { Act::Nothing }
            }
            Step::Listen(user, _, a, b) => {
                let (a, b) = (of(a, self.shape.region()), of(b, self.shape.region()));
                Act::Listen(user, number, a.min(b)..a.max(b) + 1)
            }
            Step::Refuse(mapper, Some((_, part))) => Act::Refuse(mapper, Some(self.addr + self.place(part))),
            Step::Remove(_) if self.count() == 0 => Act::Remove(number),
            _ => Act::Nothing,
        }
    }
}
