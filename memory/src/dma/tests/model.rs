//! Whatever happens to memory, the sink's map is what a naive model says: every granule that is plugged and every page of plain RAM,
//! wherever the guest sees it.

use proptest::prelude::*;

use super::*;

/// Pages that the guest could see.
const PAGES: u64 = 192;
const GRANULES: u64 = SPARSE / GRANULE;
/// Pages of a granule.
const PER: u64 = GRANULE / PAGE;

#[derive(Debug, Clone)]
enum Step {
    Plug(usize, u64, u64),
    Unplug(usize, u64, u64),
    /// Shows a part (granules) of a block at a page, or hides it.
    Window(usize, u64),
    /// Puts something that is no RAM over some pages, or takes it away.
    Cover(u64),
    Readonly(usize, bool),
    Log(usize, bool),
    Attach(Option<u64>),
    Detach,
    Refuse(Option<u64>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let granules = || (0..3usize, 0..GRANULES, 1..=GRANULES);
    let step = prop_oneof![
        6 => granules().prop_map(|(b, at, n)| Step::Plug(b, at, n)),
        4 => granules().prop_map(|(b, at, n)| Step::Unplug(b, at, n)),
        4 => (0..WINDOWS.len(), 0..PAGES).prop_map(|(w, at)| Step::Window(w, at)),
        2 => (0..PAGES).prop_map(Step::Cover),
        1 => (0..3usize, any::<bool>()).prop_map(|(b, on)| Step::Readonly(b, on)),
        1 => (0..3usize, any::<bool>()).prop_map(|(b, on)| Step::Log(b, on)),
        2 => proptest::option::of(0u64..60).prop_map(Step::Attach),
        1 => Just(Step::Detach),
        2 => proptest::option::of(0..PAGES).prop_map(Step::Refuse),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Windows that can be shown: block, first granule, granules. Blocks 0 and 1 are sparse, 2 is plain.
const WINDOWS: [(usize, u64, u64); 5] = [(0, 0, 16), (0, 4, 6), (1, 0, 8), (1, 8, 8), (2, 0, 4)];

/// What a page of the guest shows: a page of a block.
type Page = Option<(usize, u64)>;

struct Model {
    vm: Vm,
    blocks: [SparseBlock; 2],
    regions: [RegionId; 3],
    windows: Vec<RegionId>,
    /// Where each is shown, in the order in which they came: the last is on top.
    shown: Vec<(usize, u64)>,
    cover: RegionId,
    covered: Option<u64>,
    plugged: [[bool; GRANULES as usize]; 2],
    readonly: [bool; 3],
    refused: Option<u64>,
    mapper: Option<(DmaMapper, Option<u64>)>,
}

impl Model {
    fn new() -> Self {
        let vm = Vm::new();
        vm.remove(vm.sparse.region);
        let blocks = [vm.sparse.clone(), sparse_block(&vm.memory, "mem1")];
        let regions = [blocks[0].region, blocks[1].region, vm.ram("ram", 4 * GRANULE)];
        let cover = vm.io(3 * PAGE);
        let mut tx = vm.memory.transaction();
        // Where it was mapped sticks to a region, and an address space that shows all of it, and nothing else, shows it there: as
        // in QEMU, whose BARs the oracle has at two places for it.
        tx.set_address(vm.sparse.region, 0);
        let windows = WINDOWS.map(|(block, first, count)| {
            let desc = RegionDesc::new("window", (count * GRANULE).into());
            tx.alias(desc, regions[block], first * GRANULE)
        });
        tx.set_unmergeable(windows[2], true);
        drop(tx);
        Self {
            vm,
            blocks,
            regions,
            windows: windows.to_vec(),
            shown: Vec::new(),
            cover,
            covered: None,
            plugged: Default::default(),
            readonly: [false; 3],
            refused: None,
            mapper: None,
        }
    }

    fn page(&self, page: u64) -> Page {
        if self.covered.is_some_and(|at| (at..at + 3).contains(&page)) {
            return None;
        }
        self.shown.iter().rev().find_map(|&(window, at)| {
            let (block, first, count) = WINDOWS[window];
            let offset = page.checked_sub(at).filter(|offset| *offset < count * PER)?;
            Some((block, first * PER + offset))
        })
    }

    /// The flat ranges of RAM, as the address space has them: this is not what is tested here.
    fn sections(&self) -> Vec<(u64, u64, usize, u64)> {
        let block = |name: &str| ["mem0", "mem1", "ram"].iter().position(|n| *n == name);
        let view = self.vm.space.view();
        let ram =
            view.ranges().iter().filter_map(|r| Some((r.addr, r.size() as u64, block(r.name())?, r.offset)));
        ram.collect()
    }

    /// The naive map: page by page what is shown and plugged, cut where a section or a granule ends.
    fn expected(&self) -> BTreeMap<u64, Mapping> {
        let mut map: BTreeMap<u64, Mapping> = BTreeMap::new();
        for (addr, size, block, offset) in self.sections() {
            let mut open: Option<u64> = None;
            for at in (0..size).step_by(PAGE as usize) {
                let (page, own) = (addr / PAGE + at / PAGE, (offset + at) / PAGE);
                assert_eq!(self.page(page), Some((block, own)), "the view is what the model shows");
                let sparse = block < 2;
                if sparse && !self.plugged[block][(own / PER) as usize] {
                    open = None;
                    continue;
                }
                let fresh = sparse && own.is_multiple_of(PER);
                match open.filter(|_| !fresh) {
                    Some(start) => map.get_mut(&start).unwrap().len += PAGE,
                    None => {
                        let block_name = ["mem0", "mem1", "ram"][block].to_owned();
                        let (offset, writable) = (own * PAGE, !self.readonly[block]);
                        map.insert(addr + at, Mapping { block: block_name, offset, len: PAGE, writable });
                        open = Some(addr + at);
                    }
                }
            }
        }
        map
    }

    /// Whether the sink could hold a map.
    fn fits(&self, map: &BTreeMap<u64, Mapping>, max: Option<u64>) -> bool {
        let refuses = |(iova, m): (&u64, &Mapping)| {
            self.refused.is_some_and(|page| (*iova..iova + m.len).contains(&(page * PAGE)))
        };
        max.is_none_or(|max| map.len() as u64 <= max) && !map.iter().any(refuses)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Plug(block, at, count) if block < 2 => {
                let range = at..(at + count).min(GRANULES);
                let before = (self.plugged, self.expected());
                self.plugged[block][range.start as usize..range.end as usize].fill(true);
                let after = self.expected();
                // What was there stays, refused or not: the sink was asked then.
                let fresh = after.iter().filter(|(iova, _)| !before.1.contains_key(iova));
                let fresh: BTreeMap<_, _> = fresh.map(|(iova, m)| (*iova, m.clone())).collect();
                let room = |max: u64| max.saturating_sub(before.1.len() as u64);
                let agreed = self.mapper.as_ref().is_none_or(|(_, max)| self.fits(&fresh, max.map(room)));
                assert_eq!(self.blocks[block].populate(range).is_ok(), agreed);
                if !agreed {
                    self.plugged = before.0;
                }
            }
            Step::Unplug(block, at, count) if block < 2 => {
                let range = at..(at + count).min(GRANULES);
                self.blocks[block].discard(range.clone());
                self.plugged[block][range.start as usize..range.end as usize].fill(false);
            }
            Step::Plug(..) | Step::Unplug(..) => {}
            Step::Window(window, at) => {
                let shown = self.shown.iter().position(|(w, _)| *w == window);
                match shown {
                    Some(place) => {
                        self.shown.remove(place);
                        self.vm.remove(self.windows[window]);
                    }
                    None => {
                        self.shown.push((window, at));
                        self.vm.add(at * PAGE, self.windows[window]);
                    }
                }
            }
            Step::Cover(at) => match self.covered.take() {
                Some(_) => self.vm.remove(self.cover),
                None => {
                    self.covered = Some(at);
                    let root = self.vm.space.root();
                    self.vm.memory.transaction().add_subregion(root, at * PAGE, self.cover, 1);
                }
            },
            Step::Readonly(block, on) => {
                self.readonly[block] = on;
                self.vm.memory.transaction().set_readonly(self.regions[block], on);
            }
            Step::Log(block, on) => self.vm.memory.transaction().set_log(self.regions[block], on),
            Step::Attach(max) => {
                self.mapper = None;
                let limits = DmaLimits { max_mappings: max, ..DmaLimits::default() };
                let attached = self.vm.attach(limits);
                assert_eq!(attached.is_ok(), self.fits(&self.expected(), max));
                self.mapper = attached.ok().map(|mapper| (mapper, max));
            }
            Step::Detach => self.mapper = None,
            Step::Refuse(page) => {
                self.refused = page;
                *self.vm.recorder.refuses.lock().unwrap() = page.iter().map(|page| page * PAGE).collect();
            }
        }
    }

    fn check(&mut self) {
        // A section that came could not be mapped: the device is stopped.
        if self.mapper.as_ref().is_some_and(|(mapper, _)| mapper.fault().is_some()) {
            let (_, max) = self.mapper.take().unwrap();
            assert!(!self.fits(&self.expected(), max), "there was a reason");
            assert_eq!(std::mem::take(&mut *self.vm.recorder.incomplete.lock().unwrap()).len(), 1);
        }
        assert!(self.vm.recorder.incomplete.lock().unwrap().is_empty());
        let map = self.vm.recorder.map();
        match &self.mapper {
            None => assert!(map.is_empty(), "{map:x?}"),
            Some((mapper, _)) => {
                assert_eq!(map, self.expected());
                assert_eq!(mapper.mappings(), map.len() as u64);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_map_is_what_is_plugged_after_every_step(steps in steps()) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
            model.check();
        }
    }
}
