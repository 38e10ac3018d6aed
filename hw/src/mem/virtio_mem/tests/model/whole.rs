//! The whole device against the model of one: a machine, a driver behind a ring, and a user who sets properties at any time, also while
//! a request is half-way.
//!
//! A guest asks for one thing at a time. A device that allocates pages bit by bit may answer at once or many turns of the main loop
//! later; when the answer comes, it is what the model says then.

use std::sync::Arc;

use memory::{MemoryBackend, RamBlock};
use proptest::collection::vec;
use proptest::prelude::*;
use qapi::Value;
use qapi::types::MemoryDeviceInfo;

use super::super::super::protection::Protection;
use super::super::super::request::{Request, Span};
use super::super::rig::{M, Raw, Rig, request as encode};
use super::lives;
use super::naive::{Answer, Naive};
use super::steps::{AREA, Act, Aim, Life, PAGE, Shape, Source, Step, Verb};
use crate::core::{Device, ResetKind};
use crate::mem::device::Frozen;
use crate::mem::memslots::Policy;

/// VERSION_1, UNPLUGGED_INACCESSIBLE, ACPI_PXM.
const FEATURES: u64 = 1 << 32 | 3;
/// Bit of the interrupt status: the configuration changed.
const CONFIG: u8 = 2;

/// Properties that cannot be set once there is a device, with values that they could have had.
const FIXED: [(&str, &str); 12] = [
    ("unplugged-protection", "off"),
    ("unplugged-protection", "slot"),
    ("unplugged-protection", "block"),
    ("unplugged-inaccessible", "auto"),
    ("memslots", "0"),
    ("memslots", "5"),
    ("dynamic-memslots", "on"),
    ("dynamic-memslots", "off"),
    ("prealloc", "on"),
    ("prealloc", "off"),
    ("block-size", "8M"),
    ("memaddr", "0x100000000"),
];

#[derive(Debug, Clone)]
enum Event {
    /// The guest asks, or the user resizes or forbids: what the model knows.
    Usual(Step),
    /// The guest asks for blocks and does not wait.
    Put(Aim),
    /// The main loop runs a little.
    Turn,
    /// The user wants a size that cannot be had: so many blocks, and some pages.
    Odd(u64, u64),
    /// The user sets one of [`FIXED`].
    Fixed(usize),
    /// The guest's driver starts anew.
    Restart,
    /// The machine wakes up.
    Wake,
}

fn event([dice, a, b]: [u16; 3]) -> Event {
    let aim = match dice / 64 % 8 {
        0 => Aim::Any(a.into(), b % 7),
        _ => Aim::Fitting(a.into(), 1 + b % 7),
    };
    let resize = if b.is_multiple_of(5) { 0 } else { u64::from(a) % 100 };
    match dice % 64 {
        0..12 => Event::Put(aim),
        12..20 => Event::Usual(Step::Ask(0, Verb::Plug, aim)),
        20..32 => Event::Usual(Step::Ask(0, Verb::Unplug, aim)),
        32..34 => Event::Usual(Step::Ask(0, Verb::State, aim)),
        34..36 => Event::Usual(Step::UnplugAll(0)),
        36..46 => Event::Usual(Step::Resize(0, resize)),
        46..48 => Event::Usual(Step::Reset),
        48..50 => Event::Usual(Step::Freeze(a.is_multiple_of(3))),
        50..54 => Event::Turn,
        54..57 => Event::Odd((a % 100).into(), (b % 1024).into()),
        57..61 => Event::Fixed(usize::from(a) % FIXED.len()),
        61 => Event::Wake,
        _ => Event::Restart,
    }
}

/// Shapes with a usable region that has an end. Requests of those with small blocks are allocated bit by bit.
fn shape([kind, protection, block, prealloc]: [u16; 4]) -> Shape {
    let plugged = kind % 3 == 2;
    let small = !plugged && block.is_multiple_of(2);
    let (block, blocks) = match (plugged, small) {
        (true, _) => (32 * M, 96),
        (false, true) => (4 * M, 96),
        (false, false) => (32 * M, 12),
    };
    Shape {
        blocks,
        block,
        // As `memslots=3` and `dynamic-memslots=on` come to.
        parts: [None, Some((Policy::WhileUsable, 128 * M / block)), Some((Policy::WhilePlugged, 32))]
            [usize::from(kind % 3)],
        protection: [Protection::Off, Protection::Slot, Protection::Block][usize::from(protection % 3)],
        source: Source::Shared,
        prealloc: small && prealloc % 4 > 0,
        requested: blocks / 2,
    }
}

struct Whole {
    naive: Naive,
    guest: Raw,
    block: Arc<RamBlock>,
    frozen: Option<Frozen>,
    /// What the guest waits for, and how many answers it had before.
    pending: Option<(Request, u16)>,
    /// Sizes that clients are to be told.
    news: Vec<u64>,
    /// Whether the guest is to be told of a new configuration.
    announced: bool,
    /// What [`FIXED`] properties are.
    fixed: Vec<Value>,
}

impl Whole {
    fn new(shape: Shape) -> Self {
        let rig = Rig::new("pc");
        let size = shape.region().to_string();
        let backend =
            rig.backend("memory-backend-memfd", "mem0", &size, &[("prealloc-threads", "1")]).unwrap();
        let (block_size, requested) = (shape.block.to_string(), (shape.requested * shape.block).to_string());
        let memslots = if shape.policy() == Some(Policy::WhileUsable) { "3" } else { "1" };
        let on = |on: bool| if on { "on" } else { "off" };
        let protection = Protection::NAMES[shape.protection as usize];
        rig.device(&[
            ("id", "vm0"),
            ("memdev", "mem0"),
            ("memaddr", &AREA.to_string()),
            ("block-size", &block_size),
            ("requested-size", &requested),
            ("memslots", memslots),
            ("dynamic-memslots", on(shape.policy() == Some(Policy::WhilePlugged))),
            ("prealloc", on(shape.prealloc)),
            ("unplugged-protection", protection),
        ])
        .unwrap();
        rig.machine.finish().unwrap();
        assert_eq!(rig.get("unplugged-protection").as_str(), Some(protection));
        let fixed = FIXED.iter().map(|(name, _)| rig.get(name)).collect();
        let block = MemoryBackend::from_object(&backend).unwrap().block().unwrap();
        let mut naive = Naive::new(&Life {
            shapes: vec![shape],
            hypervisor: None,
            window: AREA..AREA + PAGE,
            steps: vec![],
        });
        naive.carry_out(&Act::Add(0));
        let guest = Raw::new(rig, FEATURES);
        let (news, announced) = (vec![], false);
        Self { naive, guest, block, frozen: None, pending: None, news, announced, fixed }
    }

    fn step(&mut self, event: &Event) {
        match event {
            Event::Usual(step) => self.usual(&self.naive.act(step)),
            Event::Put(aim) => {
                if let Act::Serve(_, request) = self.naive.act(&Step::Ask(0, Verb::Plug, *aim)) {
                    self.put(request);
                }
            }
            Event::Turn => self.turn(),
            Event::Odd(blocks, pages) => {
                let shape = self.naive.devices[0].shape;
                let size = blocks * shape.block + pages * PAGE;
                if size > shape.region() || !size.is_multiple_of(shape.block) {
                    self.guest.rig.set("requested-size", &size.to_string()).unwrap_err();
                }
            }
            Event::Fixed(at) => {
                let (name, value) = FIXED[*at];
                self.guest.rig.set(name, value).unwrap_err();
            }
            Event::Restart => {
                self.pending = None;
                self.restart();
            }
            Event::Wake => {
                let backend = self.guest.rig.vm0().core().child("virtio-backend").unwrap();
                qom::cast::<dyn Device>(&backend).unwrap().reset(ResetKind::Wakeup);
            }
        }
    }

    fn usual(&mut self, act: &Act) {
        match act {
            Act::Serve(_, request) => {
                self.put(*request);
                self.finish();
            }
            Act::Resize(_, requested) => {
                self.guest.rig.set("requested-size", &requested.to_string()).unwrap();
                self.naive.carry_out(act);
                self.announced = true;
            }
            Act::Freeze(on) => {
                self.frozen = on.then(|| self.guest.rig.devices().freeze());
                self.naive.carry_out(act);
            }
            Act::Reset => {
                // Whether a request that waits is served before depends on the host. Nobody can tell afterwards but by the events.
                self.tell();
                self.guest.rig.system_reset();
                if self.pending.take().is_some() {
                    let told = self.guest.rig.sizes();
                    assert!(told.last().is_none_or(|size| *size == 0), "{told:?}");
                    self.naive.carry_out(act);
                } else {
                    self.noting(act);
                }
                self.guest.rig.transport();
                self.restart();
            }
            _ => unreachable!("{act:?} is not drawn"),
        }
    }

    fn restart(&mut self) {
        self.guest.start(FEATURES);
        self.guest.isr();
        self.announced = false;
    }

    fn put(&mut self, request: Request) {
        self.finish();
        let none = Span { addr: 0, blocks: 0 };
        let (kind, span) = match request {
            Request::Plug(span) => (0, span),
            Request::Unplug(span) => (1, span),
            Request::UnplugAll => (2, none),
            Request::State(span) => (3, span),
        };
        self.pending = Some((request, self.guest.used()));
        self.guest.put(&encode(kind, span.addr, span.blocks), 10);
    }

    /// The main loop runs a little. The answer that came, if one did, is the model's.
    fn turn(&mut self) {
        self.guest.rig.turn();
        let Some((request, before)) = self.pending else { return };
        let Some(answer) = self.guest.answer(before) else {
            return assert!(!self.naive.frozen, "nothing is allocated that cannot be plugged");
        };
        self.pending = None;
        let Answer::Response(response) = self.noting(&Act::Serve(0, request)) else { unreachable!() };
        assert_eq!(answer, response.to_bytes(), "{request:?}: {response:?}");
    }

    fn finish(&mut self) {
        for _ in 0..1000 {
            if self.pending.is_none() {
                return;
            }
            self.turn();
        }
        panic!("no answer to {:?}", self.pending);
    }

    /// Has the model carry something out, with the event that comes of it.
    fn noting(&mut self, act: &Act) -> Answer {
        let before = self.naive.devices[0].size();
        let answer = self.naive.carry_out(act).answer;
        let size = self.naive.devices[0].size();
        self.news.extend((size != before).then_some(size));
        answer
    }

    /// Clients were told of each change, once.
    fn tell(&mut self) {
        assert_eq!(self.guest.rig.sizes(), std::mem::take(&mut self.news));
    }

    fn check(&mut self) {
        self.tell();
        let device = self.naive.devices[0].clone();
        let Shape { block, .. } = device.shape;
        let (size, region) = (device.size(), device.shape.region());
        assert_eq!(self.guest.sizes(), (device.usable, size, device.requested));
        assert_eq!([0, 16, 24].map(|at| self.guest.config(at)), [block, AREA, region]);
        assert_eq!(self.guest.isr() & CONFIG != 0, std::mem::take(&mut self.announced));
        let rig = &self.guest.rig;
        let fixed: Vec<_> = FIXED.iter().map(|(name, _)| rig.get(name)).collect();
        assert_eq!(fixed, self.fixed, "nothing that is fixed changes");
        assert_eq!((rig.get("requested-size").as_u64(), rig.size()), (Some(device.requested), size));
        let MemoryDeviceInfo::VirtioMem(info) = &rig.devices().infos()[0] else { panic!("another device") };
        assert_eq!(
            (info.data.requested_size, info.data.size, info.data.max_size),
            (device.requested, size, region)
        );
        let slots = rig.devices().devices()[0].memslots();
        let parts = (device.shape.part_count(), device.mapped_parts(), device.shape.part());
        assert_eq!((slots.parts, slots.mapped, slots.part_size), parts);
        let shown = rig.machine.system_space().view();
        let shown = shown.ranges().iter().filter(|range| range.name() == "mem0");
        let [expected, _] = self.naive.views();
        let expected = expected.iter().filter(|piece| piece.device.is_some());
        assert_eq!(
            shown.map(|r| (r.addr, r.size() as u64, r.offset, r.unmergeable)).collect::<Vec<_>>(),
            expected.map(|p| (p.addr, p.size, p.offset, p.unmergeable)).collect::<Vec<_>>()
        );
        let manager = self.block.discard_manager().unwrap();
        for (at, (plugged, reach)) in device.plugged.iter().zip(device.reach()).enumerate() {
            let bytes = at as u64 * block..(at as u64 + 1) * block;
            assert_eq!(
                (manager.is_populated(bytes.clone()), manager.is_discarded(bytes)),
                (*plugged, !plugged)
            );
            if let Some(reach) = reach {
                assert_eq!(self.block.is_accessible(at as u64 * block, block), reach, "block {at}");
            }
        }
        if self.pending.is_none() {
            let expected = if device.shape.prealloc { size } else { 0 };
            assert_eq!(self.resident(), expected, "the host has pages of what is plugged only");
        }
    }

    /// Bytes that the host has of the memory.
    fn resident(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        self.block.file().unwrap().0.metadata().unwrap().blocks() * 512
    }
}

proptest! {
    #![proptest_config(lives(200))]
    #[test]
    fn properties_are_set_at_any_time_and_answers_are_those_of_that_time(
        raw in any::<[u16; 4]>(), events in vec(any::<[u16; 3]>(), 1..24)
    ) {
        let mut whole = Whole::new(shape(raw));
        for event in events.into_iter().map(event) {
            whole.step(&event);
            whole.check();
        }
        whole.finish();
        whole.check();
    }
}
