//! The real thing: a machine's memory, devices built as `realize` builds them, those who use them, and how a step is carried out.

use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use memory::{
    AddressSpace, Backing, DiscardListenerId, DmaLimits, DmaMapper, FileBacking, MemfdSpec, Memory,
    MemoryListener, Owner, RamBlock, RamSpec, RegionDesc, RegionId, SIZE_ALL, create_memfd,
};
use qapi::types::MemoryDeviceInfo;

use super::super::super::policy::Layout;
use super::super::super::realize::{discard_manager, names};
use super::super::super::unit::Unit;
use super::host::Pages;
use super::naive::Answer;
use super::steps::{AREA, Act, Life, RAM, SLICE, Shape, Source, WINDOW_AT};
use super::users::{BackEnd, Hypervisor, Ledger, Log, Server, User};
use crate::mem::device::{Frozen, MemoryDevice, MemoryDevices, SlotUse};
use crate::mem::memslots::Memslots;
use crate::mem::memslots::sizing::{Budget, Parts};
use crate::mem::placement::Wanted;
use crate::mem::slot_plan::{SlotPlan, SlotUser};
use crate::mem::unplugged::OnAccess;

/// A device that is there.
pub(super) struct Live {
    pub(super) unit: Arc<Mutex<Unit>>,
    /// Of the block, and what is mapped of it.
    region: RegionId,
    mapped: RegionId,
    listed: Arc<dyn MemoryDevice>,
}

/// A user of part of a device's memory.
#[derive(Default)]
pub(super) struct UserSeat {
    vetoes: Option<u64>,
    pub(super) there: Option<(Arc<User>, usize, DiscardListenerId)>,
}

/// A device with DMA.
#[derive(Default)]
pub(super) struct MapperSeat {
    refuses: Option<u64>,
    pub(super) there: Option<(Arc<Server>, usize, DmaMapper)>,
}

/// See the module.
pub(super) struct World {
    memory: Arc<Memory>,
    area: RegionId,
    pub(super) spaces: [Arc<AddressSpace>; 2],
    pub(super) ledgers: [Arc<Ledger>; 2],
    pub(super) pages: Arc<Pages>,
    pub(super) log: Arc<Log>,
    devices: Arc<MemoryDevices>,
    pub(super) plan: SlotPlan,
    shapes: Vec<Shape>,
    window: Range<u64>,
    frozen: Option<Frozen>,
    pub(super) live: Vec<Option<Live>>,
    pub(super) users: Vec<UserSeat>,
    pub(super) mappers: Vec<MapperSeat>,
    pub(super) backends: Vec<Option<Arc<BackEnd>>>,
    /// Checked so far.
    pub(super) steps: usize,
    /// Blocks of devices that are or were there.
    blocks: Vec<Weak<RamBlock>>,
}

impl World {
    pub(super) fn new(life: &Life) -> Self {
        let memory = Memory::new();
        let ram = memory.create_ram(RamSpec::anonymous("ram", RAM)).unwrap();
        let mut tx = memory.transaction();
        let system = tx.container(RegionDesc::new("system", SIZE_ALL));
        let ram = tx.ram(RegionDesc::new("ram", RAM.into()), ram);
        tx.add_subregion(system, 0, ram, 0);
        let area = tx.container(RegionDesc::new("device-memory", 1 << 40));
        tx.add_subregion(system, AREA, area, 0);
        let space = tx.address_space("memory", system);
        let other = tx.container(RegionDesc::new("other", SIZE_ALL));
        let len = life.window.end - life.window.start;
        let window = tx.alias(RegionDesc::new("window", len.into()), system, life.window.start);
        tx.add_subregion(other, WINDOW_AT, window, 0);
        let spaces = [space, tx.address_space("other", other)];
        drop(tx);
        let log = Arc::<Log>::default();
        let ledgers = [Ledger::new(Some(Arc::clone(&log))), Ledger::new(None)];
        for (space, ledger) in spaces.iter().zip(&ledgers) {
            memory.add_listener(space, Arc::clone(ledger) as _);
        }
        let devices = Arc::new(MemoryDevices::default());
        let hypervisor = life
            .hypervisor
            .map(|limit| Arc::new(Hypervisor { limit, space: Arc::clone(&spaces[0]) }) as Arc<dyn SlotUser>);
        let plan = SlotPlan::new(Arc::clone(&devices), hypervisor);
        Self {
            memory,
            area,
            spaces,
            ledgers,
            pages: Arc::new(Pages::new()),
            log,
            devices,
            plan,
            shapes: life.shapes.clone(),
            window: life.window.clone(),
            frozen: None,
            live: life.shapes.iter().map(|_| None).collect(),
            users: (0..3).map(|_| UserSeat::default()).collect(),
            mappers: (0..3).map(|_| MapperSeat::default()).collect(),
            backends: vec![None; 3],
            steps: 0,
            blocks: Vec::new(),
        }
    }

    /// What was noted so far is of no interest any more.
    pub(super) fn forget(&self) {
        self.log.take();
        self.ledgers.iter().for_each(|ledger| drop(ledger.take_trace()));
    }

    pub(super) fn carry_out(&mut self, act: &Act) -> Answer {
        match act.clone() {
            Act::Nothing => Answer::Nothing,
            Act::Serve(number, request) => {
                let busy = self.devices.is_frozen();
                Answer::Response(self.unit(number).lock().unwrap().serve(request, busy))
            }
            Act::Prepare(number, request) => {
                let busy = self.devices.is_frozen();
                Answer::Accepted(self.unit(number).lock().unwrap().prepare(request, busy))
            }
            Act::DriverReset(number) => {
                self.unit(number).lock().unwrap().abandon();
                Answer::Nothing
            }
            Act::Resize(number, requested) => {
                self.unit(number).lock().unwrap().set_requested(requested);
                Answer::Nothing
            }
            Act::Reset => {
                let busy = self.devices.is_frozen();
                self.live.iter().flatten().for_each(|live| live.unit.lock().unwrap().system_reset(busy));
                Answer::Nothing
            }
            Act::Freeze(on) => {
                self.frozen = on.then(|| self.devices.freeze());
                Answer::Nothing
            }
            Act::Store(number, block, value) => {
                let size = self.shapes[number].block;
                let start = Life::addr(number) + block * size;
                let stored =
                    [start, start + size - 1].map(|addr| self.spaces[0].write(addr, &[value]).is_ok());
                assert_eq!(stored[0], stored[1]);
                Answer::Access(stored[0])
            }
            Act::Peek(number, range) => {
                let mut bytes = vec![0xee; (range.end - range.start) as usize];
                Answer::Access(self.spaces[0].read(Life::addr(number) + range.start, &mut bytes).is_ok())
            }
            Act::Listen(user, number, range) => self.listen(user, number, range),
            Act::Unlisten(user) => {
                self.leave(user);
                Answer::Nothing
            }
            Act::Veto(user, at) => {
                self.users[user].vetoes = at;
                if let Some((there, ..)) = &self.users[user].there {
                    *there.vetoes.lock().unwrap() = at;
                }
                Answer::Nothing
            }
            Act::Attach(mapper, space, max) => self.attach(mapper, space, max),
            Act::Detach(mapper) => {
                self.detach(mapper);
                Answer::Nothing
            }
            Act::Refuse(mapper, addr) => {
                self.mappers[mapper].refuses = addr;
                if let Some((server, space, _)) = &self.mappers[mapper].there {
                    *server.refuses.lock().unwrap() = self.iova(addr, *space);
                }
                Answer::Nothing
            }
            Act::Connect(number, limit) => self.connect(number, limit),
            Act::Lose(number) => {
                self.lose(number);
                Answer::Nothing
            }
            Act::Add(number) => self.add(number),
            Act::Remove(number) => {
                self.remove(number);
                Answer::Nothing
            }
        }
    }

    fn unit(&self, number: usize) -> &Mutex<Unit> {
        &self.live[number].as_ref().expect("the device is there").unit
    }

    fn listen(&mut self, number: usize, device: usize, range: Range<u64>) -> Answer {
        self.leave(number);
        let (block, blocks) = {
            let unit = self.unit(device).lock().unwrap();
            (Arc::clone(unit.block()), Arc::clone(unit.blocks()))
        };
        let user = Arc::new(User {
            number,
            block,
            pages: Arc::clone(&self.pages),
            log: Arc::clone(&self.log),
            vetoes: Mutex::new(self.users[number].vetoes),
            holds: Mutex::default(),
        });
        let id = blocks.register(range, Arc::clone(&user) as _).ok();
        assert!(id.is_some() || user.holds.lock().unwrap().runs().is_empty(), "all of it is taken back");
        self.users[number].there = id.map(|id| (user, device, id));
        Answer::Accepted(id.is_some())
    }

    fn leave(&mut self, number: usize) {
        if let Some((user, device, id)) = self.users[number].there.take() {
            self.unit(device).lock().unwrap().blocks().unregister(id);
            assert!(user.holds.lock().unwrap().runs().is_empty(), "who leaves holds nothing");
        }
    }

    /// A refused address as a device with DMA in an address space sees it.
    fn iova(&self, addr: Option<u64>, space: usize) -> Option<u64> {
        if space == 0 { addr } else { Life::in_window(&self.window, addr?) }
    }

    fn attach(&mut self, number: usize, space: usize, max_mappings: Option<u64>) -> Answer {
        self.detach(number);
        let server = Arc::<Server>::default();
        *server.refuses.lock().unwrap() = self.iova(self.mappers[number].refuses, space);
        let limits = DmaLimits { max_mappings, ..DmaLimits::default() };
        let attached =
            DmaMapper::attach(&self.memory, &self.spaces[space], Arc::clone(&server) as _, limits).ok();
        assert!(attached.is_some() || server.map.lock().unwrap().is_empty(), "a refusal leaves nothing");
        let accepted = attached.is_some();
        self.mappers[number].there = attached.map(|mapper| (server, space, mapper));
        Answer::Accepted(accepted)
    }

    pub(super) fn detach(&mut self, number: usize) {
        if let Some((server, _, mapper)) = self.mappers[number].there.take() {
            drop(mapper);
            assert!(server.map.lock().unwrap().is_empty(), "who leaves takes all along");
        }
    }

    fn connect(&mut self, number: usize, limit: u64) -> Answer {
        self.lose(number);
        let backend = BackEnd::new(limit, &self.spaces[0], &self.log);
        let accepted = self.plan.admit(Arc::clone(&backend) as _).is_ok();
        if accepted {
            self.memory.add_listener(&self.spaces[0], Arc::clone(&backend) as _);
            self.backends[number] = Some(backend);
        }
        Answer::Accepted(accepted)
    }

    fn lose(&mut self, number: usize) {
        if let Some(backend) = self.backends[number].take() {
            let listener: Arc<dyn MemoryListener> = Arc::clone(&backend) as _;
            self.memory.remove_listener(&self.spaces[0], &listener);
            let user: Arc<dyn SlotUser> = Arc::clone(&backend) as _;
            self.plan.remove(&user);
            assert!(backend.has().is_empty(), "it was told that all is gone");
        }
    }

    fn add(&mut self, number: usize) -> Answer {
        let shape = self.shapes[number];
        if self.plan.check(shape.part_count()).is_err() {
            return Answer::Accepted(false);
        }
        let live = self.realize(number, shape);
        self.blocks.push(Arc::downgrade(live.unit.lock().unwrap().block()));
        let offset = Life::addr(number) - AREA;
        self.memory.transaction().add_subregion(self.area, offset, live.mapped, 0);
        self.devices.add(Arc::clone(&live.listed));
        self.live[number] = Some(live);
        Answer::Accepted(true)
    }

    fn realize(&self, number: usize, shape: Shape) -> Live {
        let name = format!("mem{number}");
        let (region_size, block_size) = (shape.region(), shape.block);
        let spec = RamSpec { reserve: false, ..RamSpec::anonymous(name.as_str(), region_size) };
        let block = self.memory.create_ram(spec.backing(backing(shape))).unwrap();
        let region =
            self.memory.transaction().ram(RegionDesc::new(name, region_size.into()), Arc::clone(&block));
        let layout = Layout { addr: Life::addr(number), region_size, block_size };
        let parts =
            shape.policy().map(|policy| (policy, Parts { size: shape.part(), count: shape.part_count() }));
        let blocks = discard_manager(parts, shape.protection, &layout, &block).unwrap();
        self.memory.transaction().set_discard_manager(region, Some(Arc::clone(&blocks))).unwrap();
        let slots = parts.map(|(policy, parts)| {
            Memslots::new(&self.memory, policy, names(policy), &Owner::None, region, region_size, parts)
        });
        let mapped = slots.as_ref().map_or(region, Memslots::container);
        let (prealloc, requested) = (shape.prealloc.then_some(1), shape.requested * block_size);
        let mut unit = Unit::new(layout, block, blocks, slots, prealloc, requested);
        unit.set_slice(SLICE);
        let unit = Arc::new(Mutex::new(unit));
        let listed = Arc::new(Listed { unit: Arc::clone(&unit), addr: layout.addr });
        Live { unit, region, mapped, listed }
    }

    /// As when a device is unrealized: it is not listed and not mapped any more, then it is taken apart.
    fn remove(&mut self, number: usize) {
        for user in 0..self.users.len() {
            if self.users[user].there.as_ref().is_some_and(|(_, device, _)| *device == number) {
                self.leave(user);
            }
        }
        let Live { unit, region, mapped, listed } = self.live[number].take().expect("the device is there");
        self.devices.remove(&listed);
        drop(listed);
        self.memory.transaction().del_subregion(self.area, mapped);
        let mut unit = Arc::into_inner(unit).expect("nobody else has it").into_inner().unwrap();
        unit.abandon();
        unit.blocks().lift_protection();
        if let Some(slots) = unit.into_slots() {
            slots.destroy();
        }
        let mut tx = self.memory.transaction();
        tx.set_discard_manager(region, None).unwrap();
        tx.destroy(region).unwrap();
    }

    /// Everybody leaves, and nothing may be left.
    pub(super) fn end(mut self) {
        (0..3).for_each(|number| {
            self.leave(number);
            self.detach(number);
            self.lose(number);
        });
        for number in 0..self.live.len() {
            if self.live[number].is_some() {
                self.remove(number);
            }
        }
        assert!(self.blocks.iter().all(|block| block.upgrade().is_none()), "blocks of devices that are gone");
    }
}

fn backing(shape: Shape) -> Backing {
    let memfd = |bytes: u64, shared: bool, readonly_fd: bool| {
        // An empty file is fine: nothing of it is touched.
        let file = create_memfd(&MemfdSpec::default(), bytes).unwrap();
        Backing::File(FileBacking { file, offset: 0, shared, readonly_fd })
    };
    match shape.source {
        Source::Anonymous => Backing::Anonymous,
        Source::Shared => memfd(shape.region(), true, false),
        Source::Private => memfd(shape.region(), false, false),
        Source::Unpunchable => memfd(shape.region(), false, true),
        Source::Short(blocks) => memfd(blocks * shape.block, true, false),
    }
}

/// A unit in the list of memory devices.
struct Listed {
    unit: Arc<Mutex<Unit>>,
    addr: u64,
}

impl MemoryDevice for Listed {
    fn id(&self) -> Option<String> {
        None
    }
    fn qom_path(&self) -> String {
        format!("/machine/{:x}", self.addr)
    }
    fn wanted(&self) -> qapi::Result<Wanted> {
        unreachable!("it is there already")
    }
    fn set_addr(&self, _addr: u64) {}
    fn decide_memslots(&self, _budget: &Budget) -> qapi::Result<u64> {
        unreachable!("it is there already")
    }
    fn addr(&self) -> u64 {
        self.addr
    }
    fn region_size(&self) -> u64 {
        self.unit.lock().unwrap().layout().region_size
    }
    fn region(&self) -> Option<RegionId> {
        None
    }
    fn memslots(&self) -> SlotUse {
        self.unit.lock().unwrap().slot_use()
    }
    fn plugged_size(&self) -> u64 {
        self.unit.lock().unwrap().size()
    }
    fn node(&self) -> u32 {
        0
    }
    fn on_unplugged_access(&self) -> Option<OnAccess> {
        None
    }
    fn info(&self) -> MemoryDeviceInfo {
        unreachable!("nobody asks")
    }
    fn may_unplug(&self) -> qapi::Result<()> {
        Ok(())
    }
}
