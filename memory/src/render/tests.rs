//! Rendering against a painter that asks, for every address, who answers there.

use std::sync::{Arc, Mutex, PoisonError};

use proptest::prelude::*;

use crate::*;

/// Addresses the model looks at: two past the largest offset plus size.
const SPAN: u64 = 64;

#[derive(Debug, Clone)]
enum Op {
    Add { parent: usize, child: usize, offset: u64, priority: i32 },
    Del { child: usize },
    Enable { region: usize, on: bool },
    Move { region: usize, offset: u64 },
    Size { region: usize, size: u64 },
    Window { region: usize, offset: u64 },
    Readonly { region: usize, on: bool },
    Unmergeable { region: usize, on: bool },
    Log { region: usize, on: bool },
}

/// Regions: 0 root container, 1 and 2 containers, 3 and 4 I/O, 5 and 6 RAM, the rest aliases (of the second one each).
const REGIONS: usize = 13;
const ALIASES: [(usize, usize); 6] = [(7, 1), (8, 5), (9, 6), (10, 3), (11, 1), (12, 5)];

#[derive(Debug, Clone)]
struct Node {
    size: u64,
    addr: u64,
    priority: i32,
    enabled: bool,
    readonly: bool,
    unmergeable: bool,
    log: bool,
    parent: Option<usize>,
    /// In order of insertion, oldest first.
    children: Vec<usize>,
    window: u64,
}

/// What a painter sees at an address: region, offset in it, read-only, unmergeable, logged.
type Paint = (usize, u64, bool, bool, bool);

struct Model(Vec<Node>);

impl Model {
    fn new() -> Self {
        let node = Node {
            size: 16,
            addr: 0,
            priority: 0,
            enabled: true,
            readonly: false,
            unmergeable: false,
            log: false,
            parent: None,
            children: vec![],
            window: 0,
        };
        let mut nodes = vec![node; REGIONS];
        nodes[0].size = SPAN;
        Self(nodes)
    }

    fn target(id: usize) -> Option<usize> {
        ALIASES.iter().find(|a| a.0 == id).map(|a| a.1)
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        from == to
            || Self::target(from).is_some_and(|t| self.reaches(t, to))
            || self.0[from].children.iter().any(|&c| self.reaches(c, to))
    }

    /// Who answers `at`, an offset inside region `id`.
    fn paint(&self, id: usize, at: i64, readonly: bool, unmergeable: bool) -> Option<Paint> {
        let node = &self.0[id];
        if !node.enabled || at < 0 || at >= node.size as i64 {
            return None;
        }
        let (readonly, unmergeable) = (readonly || node.readonly, unmergeable || node.unmergeable);
        if let Some(target) = Self::target(id) {
            return self.paint(target, at + node.window as i64, readonly, unmergeable);
        }
        let mut children: Vec<(i32, usize)> =
            node.children.iter().enumerate().map(|(age, &c)| (self.0[c].priority, age)).collect();
        children.sort_unstable();
        for (_, age) in children.into_iter().rev() {
            let child = node.children[age];
            let hit = self.paint(child, at - self.0[child].addr as i64, readonly, unmergeable);
            if hit.is_some() {
                return hit;
            }
        }
        (3..=6).contains(&id).then_some((id, at as u64, readonly, unmergeable, node.log))
    }
}

/// A listener that keeps what it was told, and insists that nothing ever overlaps.
#[derive(Default)]
struct Replay(Mutex<Vec<Section>>);

impl Replay {
    fn sections(&self) -> std::sync::MutexGuard<'_, Vec<Section>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn same(a: &Section, b: &Section) -> bool {
    (a.region, a.addr, a.size, a.offset_in_region) == (b.region, b.addr, b.size, b.offset_in_region)
        && (a.readonly, a.unmergeable) == (b.readonly, b.unmergeable)
}

impl MemoryListener for Replay {
    fn region_add(&self, section: &Section) {
        let end = |s: &Section| u128::from(s.addr) + s.size;
        let mut sections = self.sections();
        assert!(
            sections.iter().all(|s| end(s) <= section.addr.into() || end(section) <= s.addr.into()),
            "{section:?} overlaps"
        );
        sections.push(section.clone());
    }
    fn region_del(&self, section: &Section) {
        let mut sections = self.sections();
        let at = sections.iter().position(|s| same(s, section)).expect("only what was added is removed");
        sections.remove(at);
    }
    fn wants_kept(&self) -> bool {
        true
    }
    fn region_nop(&self, section: &Section) {
        assert!(self.sections().iter().any(|s| same(s, section)));
    }
    fn log_start(&self, section: &Section) {
        self.sections().iter_mut().find(|s| same(s, section)).expect("kept").log = true;
    }
    fn log_stop(&self, section: &Section) {
        self.sections().iter_mut().find(|s| same(s, section)).expect("kept").log = false;
    }
}

fn op() -> impl Strategy<Value = Op> {
    let region = 1..REGIONS;
    let on = any::<bool>();
    prop_oneof![
        4 => (0..3usize, region.clone(), 0..24u64, -1..2i32).prop_map(|(parent, child, offset, priority)| Op::Add {
            parent, child, offset, priority
        }),
        1 => (0..7usize, region.clone(), 0..24u64).prop_map(|(parent, child, offset)| Op::Add {
            parent, child, offset, priority: 0
        }),
        1 => region.clone().prop_map(|child| Op::Del { child }),
        1 => (region.clone(), on).prop_map(|(region, on)| Op::Enable { region, on }),
        1 => (region.clone(), 0..24u64).prop_map(|(region, offset)| Op::Move { region, offset }),
        1 => (region.clone(), 0..20u64).prop_map(|(region, size)| Op::Size { region, size }),
        1 => (0..ALIASES.len(), 0..16u64).prop_map(|(alias, offset)| Op::Window { region: ALIASES[alias].0, offset }),
        1 => (region.clone(), any::<bool>()).prop_map(|(region, on)| Op::Readonly { region, on }),
        1 => (region.clone(), any::<bool>()).prop_map(|(region, on)| Op::Unmergeable { region, on }),
        1 => (3..7usize, any::<bool>()).prop_map(|(region, on)| Op::Log { region, on }),
    ]
}

fn apply(tx: &mut Transaction<'_>, ids: &[RegionId], model: &mut Model, op: &Op) {
    match *op {
        Op::Add { parent, child, offset, priority } => {
            if model.0[child].parent.is_none()
                && Model::target(parent).is_none()
                && !model.reaches(child, parent)
            {
                tx.add_subregion(ids[parent], offset, ids[child], priority);
                let node = &mut model.0[child];
                (node.parent, node.addr, node.priority) = (Some(parent), offset, priority);
                model.0[parent].children.push(child);
            }
        }
        Op::Del { child } => {
            if let Some(parent) = model.0[child].parent.take() {
                tx.del_subregion(ids[parent], ids[child]);
                model.0[parent].children.retain(|&c| c != child);
            }
        }
        Op::Enable { region, on } => {
            tx.set_enabled(ids[region], on);
            model.0[region].enabled = on;
        }
        Op::Move { region, offset } => {
            tx.set_address(ids[region], offset);
            if model.0[region].addr != offset {
                model.0[region].addr = offset;
                if let Some(parent) = model.0[region].parent {
                    model.0[parent].children.retain(|&c| c != region);
                    model.0[parent].children.push(region);
                }
            }
        }
        Op::Size { region, size } => {
            tx.set_size(ids[region], u128::from(size));
            model.0[region].size = size;
        }
        Op::Window { region, offset } => {
            tx.set_alias_offset(ids[region], offset);
            model.0[region].window = offset;
        }
        Op::Readonly { region, on } => {
            tx.set_readonly(ids[region], on);
            model.0[region].readonly = on;
        }
        Op::Unmergeable { region, on } => {
            tx.set_unmergeable(ids[region], on);
            model.0[region].unmergeable = on;
        }
        Op::Log { region, on } => {
            tx.set_log(ids[region], on);
            model.0[region].log = on;
        }
    }
}

fn build(memory: &Memory) -> Vec<RegionId> {
    let mut tx = memory.transaction();
    let mut ids: Vec<RegionId> = (0..7)
        .map(|i| match i {
            0 => tx.container(RegionDesc::new("root", u128::from(SPAN))),
            1 | 2 => tx.container(RegionDesc::new(format!("container{i}"), 16)),
            3 | 4 => tx.io(RegionDesc::new(format!("io{i}"), 16), Arc::new(UnassignedIo)),
            _ => {
                let block = memory.create_ram(RamSpec::anonymous(format!("ram{i}"), 4096)).unwrap();
                tx.ram(RegionDesc::new(format!("ram{i}"), 16), block)
            }
        })
        .collect();
    for (alias, target) in ALIASES {
        ids.push(tx.alias(RegionDesc::new(format!("alias{alias}"), 16), ids[target], 0));
    }
    ids
}

fn check(view: &FlatView, model: &Model, ids: &[RegionId]) -> Result<(), TestCaseError> {
    for at in 0..SPAN + 2 {
        let seen = view.lookup(at).map(|range| {
            let id = ids.iter().position(|&id| id == range.region()).unwrap();
            (id, range.offset + (at - range.addr), range.readonly, range.unmergeable, range.log)
        });
        prop_assert_eq!(seen, model.paint(0, at as i64, false, false), "at {:#x}", at);
    }
    let mut pairs = view.ranges().iter().zip(view.ranges().iter().skip(1));
    prop_assert!(pairs.clone().all(|(a, b)| a.last < b.addr), "sorted, without overlap");
    prop_assert!(pairs.all(|(a, b)| !a.merges_with(b)), "what can be merged is merged");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_view_shows_at_every_address_what_a_painter_sees_and_listeners_can_replay_it(
        batches in proptest::collection::vec(proptest::collection::vec(op(), 1..6), 1..8)
    ) {
        let memory = Memory::new();
        let ids = build(&memory);
        let mut tx = memory.transaction();
        // The root must not be followed to an only child here, as the child's view has other addresses.
        let filler = tx.io(RegionDesc::new("far", 1), Arc::new(UnassignedIo));
        let far = tx.io(RegionDesc::new("farther", 1), Arc::new(UnassignedIo));
        let root = tx.container(RegionDesc::new("top", SIZE_ALL));
        tx.add_subregion(root, 1 << 40, filler, 0);
        tx.add_subregion(root, 1 << 41, far, 0);
        tx.add_subregion(root, 0, ids[0], 0);
        let space = tx.address_space("space", root);
        // Others begin in the middle: at a container, at an alias of it, at one of RAM.
        let inner = [1, 2, 7, 8].map(|index| tx.address_space("inner", ids[index]));
        drop(tx);
        let mut names = ids.clone();
        names.extend([filler, far]);
        let replay = Arc::new(Replay::default());
        let mut model = Model::new();
        memory.add_listener(&space, replay.clone());
        for batch in batches {
            let mut tx = memory.transaction();
            batch.iter().for_each(|op| apply(&mut tx, &ids, &mut model, op));
            drop(tx);
            let view = space.view();
            check(&view, &model, &names)?;
            for space in inner.iter().chain([&space]) {
                let (view, arena) = (space.view(), &memory.topology().arena);
                prop_assert_eq!(view.root, super::view_root(arena, space.root(), &mut Vec::new()));
                let whole = super::render(arena, view.root);
                prop_assert_eq!(view.ranges(), whole.ranges(), "what is spliced is what would be rendered whole");
            }
            let mut told = replay.sections().clone();
            told.sort_by_key(|s| s.addr);
            prop_assert_eq!(told.len(), view.ranges().len());
            for (told, range) in told.iter().zip(view.ranges().iter()) {
                prop_assert!(same(told, &range.section()) && told.log == range.log);
            }
        }
        let listener: Arc<dyn MemoryListener> = replay.clone();
        memory.remove_listener(&space, &listener);
        prop_assert!(replay.sections().is_empty());
    }
}
