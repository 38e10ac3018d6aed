//! What a listener hears when pieces of one RAM block are mapped and unmapped one by one, against a painter that predicts
//! every call.

use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;

use super::*;
use crate::*;

/// Bytes of the smallest piece.
const UNIT: u64 = 0x1000;
/// Where the outermost container is.
const BASE: u64 = 0x1_4000_0000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An alias of the RAM with the mark.
    Unmergeable,
    /// An alias of the RAM without it.
    Mergeable,
    /// A device.
    Io,
    /// Nothing is ever here.
    Hole,
}

/// One after the other they fill the container; an alias shows the part of the RAM that is at the same offset.
#[derive(Debug, Clone)]
struct Piece {
    kind: Kind,
    /// Units.
    len: usize,
    mapped: bool,
}

/// What is between the pieces and the address space.
#[derive(Debug, Clone, Copy)]
enum Level {
    /// A container, this many units into the next.
    Container(u64),
    /// An alias of a container that is mapped nowhere else.
    Alias(u64),
    /// A container that hands the mark down.
    Unmergeable(u64),
}

#[derive(Debug, Clone)]
struct Scene {
    pieces: Vec<Piece>,
    /// Innermost first.
    levels: Vec<Level>,
    /// Units that a device hides while it is mapped, as a window of the chip set does.
    overlay: std::ops::Range<usize>,
    overlaid: bool,
    /// How many address spaces see it all, every other through an alias.
    spaces: usize,
}

#[derive(Debug, Clone)]
enum Op {
    /// Maps pieces that are not mapped and unmaps the others, in one transaction.
    Toggle(Vec<prop::sample::Index>),
    /// Sets or takes the mark.
    Mark(prop::sample::Index, bool),
    Overlay,
}

/// What tells one section from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sec {
    name: String,
    addr: u64,
    size: u128,
    offset: u64,
    unmergeable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Begin,
    Del(Sec),
    Add(Sec),
    Commit,
}

impl From<&Section> for Sec {
    fn from(s: &Section) -> Self {
        Self {
            name: s.name.to_string(),
            addr: s.addr,
            size: s.size,
            offset: s.offset_in_region,
            unmergeable: s.unmergeable,
        }
    }
}

#[derive(Default)]
struct Trace(Mutex<Vec<Call>>);

impl Trace {
    fn put(&self, call: Call) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl MemoryListener for Trace {
    fn begin(&self) {
        self.put(Call::Begin);
    }
    fn commit(&self) {
        self.put(Call::Commit);
    }
    fn region_add(&self, section: &Section) {
        self.put(Call::Add(section.into()));
    }
    fn region_del(&self, section: &Section) {
        self.put(Call::Del(section.into()));
    }
    fn log_start(&self, section: &Section) {
        panic!("nothing is logged: {section:?}");
    }
}

impl Scene {
    fn units(&self) -> usize {
        self.pieces.iter().map(|p| p.len).sum()
    }

    fn start(&self, piece: usize) -> usize {
        self.pieces[..piece].iter().map(|p| p.len).sum()
    }

    /// Guest address of the first unit.
    fn base(&self) -> u64 {
        let into = |level: &Level| match *level {
            Level::Container(at) | Level::Alias(at) | Level::Unmergeable(at) => at * UNIT,
        };
        BASE + self.levels.iter().map(into).sum::<u64>()
    }

    fn inherits(&self) -> bool {
        self.levels.iter().any(|level| matches!(level, Level::Unmergeable(_)))
    }

    /// The sections that a painter sees: unit by unit, what continues its neighbour is merged with it.
    fn sections(&self) -> Vec<Sec> {
        let mut seen: Vec<(usize, Sec)> = Vec::new();
        for (index, piece) in self.pieces.iter().enumerate() {
            let start = self.start(index);
            for unit in start..start + piece.len {
                let (by, name, offset, marked) = if self.overlaid && self.overlay.contains(&unit) {
                    (usize::MAX, "overlay".to_owned(), unit - self.overlay.start, false)
                } else if !piece.mapped {
                    continue;
                } else {
                    match piece.kind {
                        Kind::Hole => continue,
                        Kind::Io => (index, format!("io{index}"), unit - start, false),
                        Kind::Unmergeable => (index, "mem0".to_owned(), unit, true),
                        Kind::Mergeable => (index, "mem0".to_owned(), unit, false),
                    }
                };
                let marked = marked || self.inherits();
                let (addr, offset) = (self.base() + unit as u64 * UNIT, offset as u64 * UNIT);
                match seen.last_mut() {
                    Some((last, sec))
                        if sec.name == name
                            && u128::from(sec.addr) + sec.size == u128::from(addr)
                            && u128::from(sec.offset) + sec.size == u128::from(offset)
                            && (*last == by || !sec.unmergeable && !marked) =>
                    {
                        sec.size += u128::from(UNIT);
                        // The next unit may belong to the same piece.
                        *last = by;
                    }
                    _ => seen.push((by, Sec { name, addr, size: UNIT.into(), offset, unmergeable: marked })),
                }
            }
        }
        seen.into_iter().map(|(_, sec)| sec).collect()
    }
}

/// The calls that lead from one list of sections to another, and no call more.
fn calls(old: &[Sec], new: &[Sec]) -> Vec<Call> {
    if old == new {
        return Vec::new();
    }
    let gone = old.iter().filter(|s| !new.contains(s)).cloned().map(Call::Del);
    let came = new.iter().filter(|s| !old.contains(s)).cloned().map(Call::Add);
    std::iter::once(Call::Begin).chain(gone).chain(came).chain([Call::Commit]).collect()
}

/// The scene as regions.
struct Stage {
    memory: Arc<Memory>,
    /// Where pieces are mapped.
    container: RegionId,
    pieces: Vec<Option<RegionId>>,
    overlay: RegionId,
    spaces: Vec<(Arc<AddressSpace>, Arc<Trace>)>,
}

impl Stage {
    fn new(scene: &Scene) -> Self {
        let memory = Memory::new();
        let size = scene.units() as u64 * UNIT;
        let block =
            memory.create_ram(RamSpec { reserve: false, ..RamSpec::anonymous("mem0", size) }).unwrap();
        let desc = |name: String, size: u64| RegionDesc::new(name, size.into());
        let mut tx = memory.transaction();
        let mem0 = tx.ram(desc("mem0".into(), size), block);
        let container = tx.container(desc("pieces".into(), size));
        let pieces = scene.pieces.iter().enumerate().map(|(index, piece)| {
            let (at, size) = (scene.start(index) as u64 * UNIT, piece.len as u64 * UNIT);
            let id = match piece.kind {
                Kind::Hole => return None,
                Kind::Io => tx.io(desc(format!("io{index}"), size), Arc::new(UnassignedIo)),
                Kind::Mergeable | Kind::Unmergeable => tx.alias(desc(format!("part{index}"), size), mem0, at),
            };
            tx.set_unmergeable(id, piece.kind == Kind::Unmergeable);
            if piece.mapped {
                tx.add_subregion(container, at, id, 0);
            }
            Some(id)
        });
        let pieces = pieces.collect();
        let hidden = scene.overlay.len() as u64 * UNIT;
        let overlay = tx.io(desc("overlay".into(), hidden), Arc::new(UnassignedIo));
        if scene.overlaid {
            tx.add_subregion(container, scene.overlay.start as u64 * UNIT, overlay, 1);
        }
        let mut inner = (container, size);
        for level in &scene.levels {
            let (Level::Container(at) | Level::Alias(at) | Level::Unmergeable(at)) = *level;
            let size = inner.1 + at * UNIT;
            if let Level::Alias(_) = level {
                inner.0 = tx.alias(desc("alias".into(), inner.1), inner.0, 0);
            }
            let outer = tx.container(desc("level".into(), size));
            tx.set_unmergeable(outer, matches!(level, Level::Unmergeable(_)));
            tx.add_subregion(outer, at * UNIT, inner.0, 0);
            inner = (outer, size);
        }
        let system = tx.container(RegionDesc::new("system", SIZE_ALL));
        tx.add_subregion(system, BASE, inner.0, 0);
        let spaces: Vec<_> = (0..scene.spaces)
            .map(|index| {
                let mut root = system;
                if index % 2 == 1 {
                    let master = tx.alias(RegionDesc::new("bus master", SIZE_ALL), system, 0);
                    root = tx.container(RegionDesc::new("bus master container", SIZE_ALL));
                    tx.add_subregion(root, 0, master, 0);
                }
                (tx.address_space(format!("space{index}"), root), Arc::new(Trace::default()))
            })
            .collect();
        drop(tx);
        spaces.iter().for_each(|(space, trace)| memory.add_listener(space, trace.clone()));
        Self { memory, container, pieces, overlay, spaces }
    }

    /// What every listener was told; all were told the same.
    fn heard(&self) -> Result<Vec<Call>, TestCaseError> {
        let mut traces: Vec<_> = self.spaces.iter().map(|(_, trace)| trace.take()).collect();
        prop_assert!(traces.windows(2).all(|w| w[0] == w[1]), "{traces:?}");
        Ok(traces.remove(0))
    }

    /// Maps or unmaps pieces and returns which of them changed.
    fn toggle(&self, scene: &mut Scene, which: &[prop::sample::Index]) -> Vec<usize> {
        let mut which: Vec<_> = which.iter().map(|i| i.index(scene.pieces.len())).collect();
        which.sort_unstable();
        which.dedup();
        let mut tx = self.memory.transaction();
        which.retain(|&index| {
            let Some(id) = self.pieces[index] else { return false };
            let piece = &mut scene.pieces[index];
            piece.mapped = !piece.mapped;
            if piece.mapped {
                tx.add_subregion(self.container, scene.start(index) as u64 * UNIT, id, 0);
            } else {
                tx.del_subregion(self.container, id);
            }
            true
        });
        which
    }

    fn apply(&self, scene: &mut Scene, op: &Op) -> Vec<usize> {
        match op {
            Op::Toggle(which) => return self.toggle(scene, which),
            Op::Mark(index, on) => {
                let index = index.index(scene.pieces.len());
                let piece = &mut scene.pieces[index];
                if let (Some(id), Kind::Mergeable | Kind::Unmergeable) = (self.pieces[index], piece.kind) {
                    piece.kind = if *on { Kind::Unmergeable } else { Kind::Mergeable };
                    self.memory.transaction().set_unmergeable(id, *on);
                }
            }
            Op::Overlay => {
                let mut tx = self.memory.transaction();
                scene.overlaid = !scene.overlaid;
                if scene.overlaid {
                    tx.add_subregion(self.container, scene.overlay.start as u64 * UNIT, self.overlay, 1);
                } else {
                    tx.del_subregion(self.container, self.overlay);
                }
            }
        }
        Vec::new()
    }
}

fn scene() -> impl Strategy<Value = Scene> {
    let kind = prop_oneof![
        4 => Just(Kind::Unmergeable),
        3 => Just(Kind::Mergeable),
        1 => Just(Kind::Io),
        1 => Just(Kind::Hole),
    ];
    let piece = (kind, 1..4usize, any::<bool>()).prop_map(|(kind, len, mapped)| Piece { kind, len, mapped });
    let level = prop_oneof![
        3 => (0..3u64).prop_map(Level::Container),
        2 => (0..3u64).prop_map(Level::Alias),
        1 => (0..3u64).prop_map(Level::Unmergeable),
    ];
    let parts = (
        prop::collection::vec(piece, 1..12),
        prop::collection::vec(level, 0..4),
        (0..8usize, 1..4usize, any::<bool>()),
        1..=8usize,
    );
    parts.prop_map(|(pieces, levels, (start, len, overlaid), spaces)| {
        let units: usize = pieces.iter().map(|p| p.len).sum();
        let start = start.min(units - 1);
        let overlay = start..(start + len).min(units);
        Scene { pieces, levels, overlay, overlaid, spaces }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => index().prop_map(|i| Op::Toggle(vec![i])),
        2 => prop::collection::vec(index(), 2..5).prop_map(Op::Toggle),
        1 => (index(), any::<bool>()).prop_map(|(i, on)| Op::Mark(i, on)),
        1 => Just(Op::Overlay),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn an_unmergeable_piece_comes_and_goes_alone_and_all_who_look_hear_the_same(
        start in scene(), ops in prop::collection::vec(op(), 1..24)
    ) {
        let (stage, mut scene) = (Stage::new(&start), start);
        let mut shown = Vec::new();
        prop_assert_eq!(stage.heard()?.len(), scene.sections().len() + 2, "a new listener hears of all there is");
        shown.extend(scene.sections());
        for op in &ops {
            let toggled = stage.apply(&mut scene, op);
            let (now, heard) = (scene.sections(), stage.heard()?);
            prop_assert_eq!(&heard, &calls(&shown, &now), "after {:?}", op);
            if let [one] = toggled[..] {
                let piece = &scene.pieces[one];
                let units = scene.start(one)..scene.start(one) + piece.len;
                let whole = !scene.overlaid || scene.overlay.end <= units.start || units.end <= scene.overlay.start;
                if whole && (piece.kind == Kind::Unmergeable || scene.inherits()) {
                    let what = if piece.mapped { "added" } else { "removed" };
                    let alone = match &heard[..] {
                        [Call::Begin, Call::Add(sec), Call::Commit] => piece.mapped.then_some(sec),
                        [Call::Begin, Call::Del(sec), Call::Commit] => (!piece.mapped).then_some(sec),
                        _ => None,
                    };
                    let size = alone.map(|sec| sec.size);
                    prop_assert_eq!(size, Some(piece.len as u128 * u128::from(UNIT)), "{} alone: {:?}", what, heard);
                }
            }
            let view = stage.spaces[0].0.view();
            let held: Vec<Sec> = view.ranges().iter().map(|r| (&r.section()).into()).collect();
            prop_assert_eq!(&held, &now, "the view is what listeners were told");
            for (space, _) in &stage.spaces {
                prop_assert!(Arc::ptr_eq(&space.view(), &view), "one view for all who look at the same");
            }
            shown = now;
        }
    }
}
