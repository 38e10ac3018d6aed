//! A sink that records, and fails when it is told nonsense; its map is what the guest may use.

mod limits;
mod model;

use crate::*;

use super::*;

const PAGE: u64 = 4096;
/// Bytes of a granule of the sparse blocks here.
const GRANULE: u64 = 4 * PAGE;
/// Bytes of a sparse block.
const SPARSE: u64 = 16 * GRANULE;
/// Where the first sparse block is in the guest.
const ADDR: u64 = 0x1_4000_0000;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    block: String,
    offset: u64,
    len: u64,
    writable: bool,
}

/// See the module.
#[derive(Default)]
struct Recorder {
    map: Mutex<BTreeMap<u64, Mapping>>,
    /// Refuses mappings that hold one of these guest addresses.
    refuses: Mutex<Vec<u64>>,
    incomplete: Mutex<Vec<String>>,
    /// Calls of `map` and `unmap` so far.
    log: Mutex<Vec<String>>,
}

impl DmaSink for Recorder {
    fn map(&self, iova: u64, memory: &BlockRange, writable: bool) -> Result<(), String> {
        let len = memory.len();
        assert!(len > 0 && [iova, len, memory.offset()].iter().all(|n| n.is_multiple_of(PAGE)));
        if self.refuses.lock().unwrap().iter().any(|at| (iova..iova + len).contains(at)) {
            return Err("the IOMMU refuses".into());
        }
        let mut map = self.map.lock().unwrap();
        let before = map.range(..iova + len).next_back();
        assert!(before.is_none_or(|(at, m)| at + m.len <= iova), "{iova:#x}+{len:#x} overlaps {before:x?}");
        let block = memory.block().label().to_owned();
        map.insert(iova, Mapping { block, offset: memory.offset(), len, writable });
        self.log.lock().unwrap().push(format!("+{iova:x}"));
        Ok(())
    }

    fn unmap(&self, iova: u64, len: u64) {
        let mapping = self.map.lock().unwrap().remove(&iova);
        assert_eq!(mapping.map(|m| m.len), Some(len), "only what was mapped as one is unmapped: {iova:#x}");
        self.log.lock().unwrap().push(format!("-{iova:x}"));
    }

    fn incomplete(&self, why: &str) {
        self.incomplete.lock().unwrap().push(why.to_owned());
    }
}

impl Recorder {
    fn map(&self) -> BTreeMap<u64, Mapping> {
        self.map.lock().unwrap().clone()
    }

    /// Guest addresses that are mapped, as granules from `ADDR`.
    fn granules(&self) -> Vec<u64> {
        self.map().keys().map(|iova| (iova - ADDR) / GRANULE).collect()
    }

    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

/// A block of which parts are populated, with its region.
#[derive(Clone)]
struct SparseBlock {
    region: RegionId,
    manager: Arc<DiscardManager>,
}

impl SparseBlock {
    fn populate(&self, granules: std::ops::Range<u64>) -> Result<(), String> {
        let bytes = granules.start * GRANULE..granules.end * GRANULE;
        self.manager.populate(bytes).map_err(|e| e.to_string())
    }

    fn discard(&self, granules: std::ops::Range<u64>) {
        self.manager.discard(granules.start * GRANULE..granules.end * GRANULE).unwrap();
    }
}

/// A memory with a sparse block in it.
struct Vm {
    memory: Arc<Memory>,
    space: Arc<AddressSpace>,
    sparse: SparseBlock,
    recorder: Arc<Recorder>,
}

impl Vm {
    fn new() -> Self {
        let memory = Memory::new();
        let mut tx = memory.transaction();
        let system = tx.container(RegionDesc::new("system", SIZE_ALL));
        let space = tx.address_space("memory", system);
        drop(tx);
        let sparse = sparse_block(&memory, "mem0");
        memory.transaction().add_subregion(system, ADDR, sparse.region, 0);
        Self { memory, space, sparse, recorder: Arc::default() }
    }

    fn attach(&self, limits: DmaLimits) -> Result<DmaMapper, DmaError> {
        DmaMapper::attach(&self.memory, &self.space, Arc::clone(&self.recorder) as _, limits)
    }

    fn attached(&self) -> DmaMapper {
        self.attach(DmaLimits::default()).unwrap()
    }

    fn add(&self, addr: u64, region: RegionId) {
        self.memory.transaction().add_subregion(self.space.root(), addr, region, 0);
    }

    fn remove(&self, region: RegionId) {
        self.memory.transaction().del_subregion(self.space.root(), region);
    }

    /// Plain RAM, mapped nowhere yet.
    fn ram(&self, name: &str, size: u64) -> RegionId {
        let block = self.memory.create_ram(RamSpec::anonymous(name, size)).unwrap();
        self.memory.transaction().ram(RegionDesc::new(name, size.into()), block)
    }

    /// What covers other memory and is not RAM.
    fn io(&self, size: u64) -> RegionId {
        self.memory.transaction().io(RegionDesc::new("io", size.into()), Arc::new(UnassignedIo))
    }
}

fn sparse_block(memory: &Arc<Memory>, name: &str) -> SparseBlock {
    let block = memory.create_ram(RamSpec::anonymous(name, SPARSE)).unwrap();
    let manager = Arc::new(DiscardManager::new(SPARSE, GRANULE));
    let mut tx = memory.transaction();
    let region = tx.ram(RegionDesc::new(name, SPARSE.into()), block);
    tx.set_discard_manager(region, Some(Arc::clone(&manager))).unwrap();
    drop(tx);
    SparseBlock { region, manager }
}

#[test]
fn populated_memory_is_mapped_by_granules_so_that_any_of_them_can_go() {
    let vm = Vm::new();
    let mapper = vm.attached();
    assert!(vm.recorder.map().is_empty());
    vm.sparse.populate(2..6).unwrap();
    vm.sparse.populate(5..8).unwrap();
    assert_eq!(vm.recorder.granules(), [2, 3, 4, 5, 6, 7]);
    vm.sparse.discard(3..5);
    assert_eq!(vm.recorder.granules(), [2, 5, 6, 7]);
    assert_eq!(mapper.mappings(), 4);
    let expected = Mapping { block: "mem0".into(), offset: 5 * GRANULE, len: GRANULE, writable: true };
    assert_eq!(vm.recorder.map()[&(ADDR + 5 * GRANULE)], expected);
    vm.sparse.discard(0..16);
    assert!(vm.recorder.map().is_empty());
    assert_eq!(mapper.mappings(), 0);
}

#[test]
fn who_comes_late_is_told_what_is_there_and_who_leaves_takes_it_along() {
    let vm = Vm::new();
    vm.sparse.populate(1..3).unwrap();
    vm.add(0, vm.ram("ram", 8 * PAGE));
    let mapper = vm.attached();
    assert_eq!(
        vm.recorder.map().keys().copied().collect::<Vec<_>>(),
        [0, ADDR + GRANULE, ADDR + 2 * GRANULE]
    );
    assert_eq!(vm.recorder.map()[&0].len, 8 * PAGE, "memory that is always there is one mapping");
    vm.sparse.populate(4..5).unwrap();
    drop(mapper);
    assert!(vm.recorder.map().is_empty());
    vm.sparse.populate(6..7).unwrap();
    assert!(vm.recorder.map().is_empty(), "nobody listens any more");
}

#[test]
fn memory_that_is_unmapped_while_it_is_populated_goes_and_comes_back() {
    let vm = Vm::new();
    let _mapper = vm.attached();
    vm.sparse.populate(0..2).unwrap();
    vm.remove(vm.sparse.region);
    assert!(vm.recorder.map().is_empty());
    vm.sparse.populate(3..4).unwrap();
    assert!(vm.recorder.map().is_empty(), "no guest address, no mapping");
    vm.sparse.discard(0..1);
    vm.add(ADDR, vm.sparse.region);
    assert_eq!(vm.recorder.granules(), [1, 3]);
    vm.memory.transaction().set_address(vm.sparse.region, ADDR + 64 * GRANULE);
    assert_eq!(vm.recorder.granules(), [65, 67], "it moved");
    vm.sparse.discard(1..2);
    assert_eq!(vm.recorder.granules(), [67]);
}

#[test]
fn a_granule_that_something_covers_in_part_is_mapped_in_part() {
    let vm = Vm::new();
    let _mapper = vm.attached();
    vm.sparse.populate(0..3).unwrap();
    // Pages 5 to 6 of the block: in the middle of granule 1.
    let cover = vm.io(2 * PAGE);
    vm.memory.transaction().add_subregion(vm.space.root(), ADDR + 5 * PAGE, cover, 1);
    let pages = |recorder: &Recorder| -> Vec<(u64, u64)> {
        recorder.map().iter().map(|(iova, m)| ((iova - ADDR) / PAGE, m.len / PAGE)).collect()
    };
    assert_eq!(pages(&vm.recorder), [(0, 4), (4, 1), (7, 1), (8, 4)]);
    vm.sparse.discard(1..2);
    assert_eq!(pages(&vm.recorder), [(0, 4), (8, 4)], "both parts belong to the granule");
    vm.sparse.populate(1..2).unwrap();
    vm.remove(cover);
    assert_eq!(pages(&vm.recorder), [(0, 4), (4, 4), (8, 4)]);
}

#[test]
fn what_the_guest_cannot_write_the_device_cannot_either() {
    let vm = Vm::new();
    let rom = vm.memory.create_ram(RamSpec { rom: true, ..RamSpec::anonymous("rom", PAGE) }).unwrap();
    let rom = vm.memory.transaction().rom(RegionDesc::new("rom", PAGE.into()), rom);
    vm.add(0, rom);
    vm.sparse.populate(0..1).unwrap();
    let _mapper = vm.attached();
    let writable = |iova| vm.recorder.map()[&iova].writable;
    assert_eq!((writable(0), writable(ADDR)), (false, true));
    vm.memory.transaction().set_readonly(vm.sparse.region, true);
    assert!(!writable(ADDR));
    vm.sparse.populate(1..2).unwrap();
    assert!(!writable(ADDR + GRANULE));
    vm.memory.transaction().set_readonly(vm.sparse.region, false);
    assert!(writable(ADDR) && writable(ADDR + GRANULE));
    // A region like any other, of a block that the host does not let anybody write.
    let fixed = vm.memory.create_ram(RamSpec { rom: true, ..RamSpec::anonymous("fixed", PAGE) }).unwrap();
    let fixed = vm.memory.transaction().ram(RegionDesc::new("fixed", PAGE.into()), fixed);
    vm.add(0x1000, fixed);
    assert!(!writable(0x1000));
}

#[test]
fn only_whole_pages_are_mapped() {
    let vm = Vm::new();
    let ram = vm.ram("ram", 3 * PAGE);
    let shifted = vm.memory.transaction().alias(RegionDesc::new("shifted", PAGE.into()), ram, 512);
    // Pages of the guest and pages of the block do not match.
    vm.add(0x10_0000, shifted);
    vm.add(0x20_0000, vm.io(PAGE));
    vm.add(0x30_0000, vm.ram("ragged", 2 * PAGE));
    let cover = vm.io(8);
    vm.memory.transaction().add_subregion(vm.space.root(), 0x30_0000 + PAGE + 512, cover, 1);
    let _mapper = vm.attached();
    let map: Vec<_> = vm.recorder.map().into_iter().map(|(iova, m)| (iova, m.len)).collect();
    assert_eq!(map, [(0x30_0000, PAGE)], "the second page is whole nowhere");
}

#[test]
fn logging_maps_nothing_anew_and_a_migration_is_refused_while_a_device_writes_unseen() {
    let vm = Vm::new();
    let mapper = vm.attached();
    vm.sparse.populate(0..2).unwrap();
    vm.recorder.take_log();
    vm.memory.transaction().set_log(vm.sparse.region, true);
    vm.memory.transaction().set_log(vm.sparse.region, false);
    let error = vm.memory.start_global_dirty_log(DirtyClient::Migration).unwrap_err();
    assert_eq!(error.desc(), "a device outside of the program writes memory, which cannot be logged");
    assert!(vm.recorder.take_log().is_empty());
    drop(mapper);
    vm.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
}

#[test]
fn the_device_and_whoever_discards_without_a_word_refuse_each_other() {
    let vm = Vm::new();
    let policy = vm.memory.discard_policy();
    let balloon = policy.claim(DiscardClaim::Required).unwrap();
    let error = vm.attach(DmaLimits::default()).err().unwrap();
    assert_eq!(error.to_string(), "Cannot set discarding of RAM broken: Device or resource busy");
    drop(balloon);
    let virtio_mem = policy.claim(DiscardClaim::CoordinatedRequired).unwrap();
    let mapper = vm.attached();
    assert!(policy.claim(DiscardClaim::Required).is_err());
    drop((mapper, virtio_mem));
    let _balloon = policy.claim(DiscardClaim::Required).unwrap();
}
