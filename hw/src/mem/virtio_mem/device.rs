//! The object `virtio-mem`: configuration, what is realized, and its faces to virtio and to the machine.
//!
//! One lock guards it all. It is taken after the transport's and never held while the transport, the monitors or the
//! machine are called.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use memory::{DiscardGuard, MemoryBackend, RegionId};
use qapi::events::Event;
use qapi::types::{MemoryDeviceInfo, PliantMemoryMap, VirtioMEMDeviceInfo, VirtioMEMDeviceInfoWrapper};
use qapi::{Error, Result};
use qom::{Class, ObjectRef};
use vmstate::Saved;

use super::map;
use super::moving;
use super::protection::Protection;
use super::realize;
use super::request::{REQUEST_SIZE, RESPONSE_SIZE, Request, Response, Span};
use super::sizes::{default_block_size, thp_size};
use super::unit::Unit;
use crate::core::{Device, DeviceState, Machine, ResetKind};
use crate::mem::device::{MemoryDevice, MemoryDevices, SlotUse, region_align};
use crate::mem::memslots::Policy;
use crate::mem::memslots::sizing::{Budget, MAX_PARTS, Parts};
use crate::mem::placement::Wanted;
use crate::mem::unplugged::OnAccess;
use crate::virtio::migration::Carrier;
use crate::virtio::ring::Chain;
use crate::virtio::{Outcome, Violation, VirtioBackend, VirtioCommon, VirtioDevice};

/// Proximity domain of the memory is in ACPI tables.
#[doc(alias = "VIRTIO_MEM_F_ACPI_PXM")]
pub const F_ACPI_PXM: u64 = 1 << 0;
/// The guest must not touch unplugged memory.
#[doc(alias = "VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE")]
pub const F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;
/// Memory stays plugged over suspend and resume.
#[doc(alias = "VIRTIO_MEM_F_PERSISTENT_SUSPEND")]
pub const F_PERSISTENT_SUSPEND: u64 = 1 << 2;

/// Virtio device ID of memory devices.
const DEVICE_ID: u16 = 24;
const QUEUE_SIZES: [u16; 1] = [128];

/// `on`, `off` or for the device to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOffAuto {
    /// Find out.
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

impl OnOffAuto {
    /// Names, indexed by the discriminant.
    pub const NAMES: [&str; 3] = ["auto", "on", "off"];
}

/// What properties set.
pub(super) struct Config {
    pub(super) memdev: Option<Arc<MemoryBackend>>,
    pub(super) requested: u64,
    /// 0: the default for the backend.
    pub(super) block_size: u64,
    pub(super) node: u32,
    /// 0: wherever there is room.
    pub(super) memaddr: u64,
    pub(super) prealloc: bool,
    pub(super) unplugged_inaccessible: OnOffAuto,
    pub(super) protection: Protection,
    pub(super) on_access: OnAccess,
    pub(super) dynamic_memslots: bool,
    /// 0: as many as seem right.
    pub(super) memslots: u16,
    pub(super) early_migration: bool,
    /// The parts that memory is mapped in, decided before the device is realized; `None`: all of it at once.
    pub(super) parts: Option<(Policy, Parts)>,
}

impl Config {
    /// The block size that is set, or the default.
    pub(super) fn effective_block_size(&self) -> u64 {
        match (self.block_size, &self.memdev) {
            (0, Some(backend)) => {
                default_block_size(backend.page_size(), memory::host_page_size(), thp_size().bytes)
            }
            (0, None) => thp_size().bytes,
            (size, _) => size,
        }
    }

    /// The parts to map memory in.
    fn decide(&self, budget: &Budget) -> Result<Option<(Policy, Parts)>> {
        let region = self.memdev.as_ref().map_or(0, |backend| backend.size());
        let block = self.effective_block_size();
        let memslots = u64::from(self.memslots);
        if self.dynamic_memslots {
            if memslots != 1 {
                return Err(Error::generic(format!(
                    "'memslots' property set to '{memslots}' requires 'dynamic-memslots' to be 'off'"
                )));
            }
            return Ok(Some((
                Policy::WhilePlugged,
                Parts::while_plugged(region, budget.share(region), block),
            )));
        }
        if memslots > MAX_PARTS {
            return Err(Error::generic(format!(
                "'memslots' property has value '{memslots}', which exceeds the maximum number of memory slots: {MAX_PARTS}"
            )));
        }
        let wanted = if memslots == 0 { budget.choose(region) } else { memslots };
        Ok((wanted > 1).then(|| (Policy::WhileUsable, Parts::fixed(region, wanted, block))))
    }
}

pub(super) struct Inner {
    pub(super) config: Config,
    pub(super) live: Option<Live>,
    /// Sizes the monitors have not been told of, and whether it is what was asked for.
    news: Vec<(u64, bool)>,
    /// Whether a size was asked for that the device has not had since. To reach it is news that somebody waits for, once.
    asked: bool,
}

/// What exists while the device is realized.
pub(super) struct Live {
    pub(super) unit: Unit,
    pub(super) region: RegionId,
    pub(super) machine: Weak<Machine>,
    pub(super) devices: Arc<MemoryDevices>,
    pub(super) features: u64,
    /// That what is unplugged can be given back.
    pub(super) _discards: DiscardGuard,
}

/// A virtio-mem device, the part behind `virtio-bus`.
pub struct VirtioMem {
    common: VirtioCommon,
    inner: Mutex<Inner>,
}
crate::device_object!(VirtioMem, common.dev);

impl VirtioMem {
    /// A device of `class` with every property at its default.
    pub(super) fn new(class: &Arc<Class>) -> Arc<Self> {
        let config = Config {
            memdev: None,
            requested: 0,
            block_size: 0,
            node: 0,
            memaddr: 0,
            prealloc: false,
            unplugged_inaccessible: OnOffAuto::On,
            protection: Protection::Auto,
            on_access: OnAccess::Report,
            dynamic_memslots: false,
            memslots: 1,
            early_migration: true,
            parts: None,
        };
        let inner = Inner { config, live: None, news: Vec::new(), asked: true };
        Arc::new(Self { common: VirtioCommon::new(class), inner: Mutex::new(inner) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Device state is changed by whole steps that do not panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names the memory in `info ramblock` and the migration stream after the device's place on its bus.
    pub(super) fn name_block(&self, place: Option<&str>) {
        let inner = self.lock();
        if let Some(live) = &inner.live {
            live.unit.block().register_name(place);
        }
    }

    /// Changes the size the guest should have, as `qom-set` does; the value was checked.
    pub(super) fn request_size(&self, requested: u64) {
        trace::emit!(pliant_virtio_mem_requested_size, trace::Id::of(self), requested);
        {
            let mut inner = self.lock();
            inner.config.requested = requested;
            inner.asked = true;
            if let Some(live) = &mut inner.live {
                live.unit.set_requested(requested);
            }
        }
        // Also when it is the same value: a driver that gave up tries again.
        self.common.notifier.config_changed();
    }
}

fn read_request(buffer: &Chain<'_>) -> std::result::Result<Request, Violation> {
    let violation = |what: String| Violation(format!("virtio-mem protocol violation: {what}"));
    let mut bytes = [0; REQUEST_SIZE];
    if buffer.read(&mut bytes) != REQUEST_SIZE {
        // The size that is wanted, not the one that came: QEMU's text.
        return Err(violation(format!("invalid request size: {REQUEST_SIZE}")));
    }
    if buffer.writable_len() < RESPONSE_SIZE as u64 {
        return Err(violation(format!("not enough space for response: {}", buffer.writable_len())));
    }
    Request::parse(&bytes).map_err(|unknown| violation(unknown.to_string()))
}

fn trace_request(request: Request) {
    match request {
        Request::Plug(Span { addr, blocks }) => trace::emit!(virtio_mem_plug_request, addr, blocks),
        Request::Unplug(Span { addr, blocks }) => trace::emit!(virtio_mem_unplug_request, addr, blocks),
        Request::UnplugAll => trace::emit!(virtio_mem_unplug_all_request),
        Request::State(Span { addr, blocks }) => trace::emit!(virtio_mem_state_request, addr, blocks),
    }
}

fn trace_response(request: Request, response: Response) {
    let bytes = response.to_bytes();
    if let Response::State(_) = response {
        trace::emit!(virtio_mem_state_response, u16::from_le_bytes([bytes[8], bytes[9]]));
    }
    if response == Response::Error {
        trace::guest_error!("virtio-mem: blocks that cannot be meant: {request:?}");
    }
    trace::emit!(virtio_mem_send_response, u16::from_le_bytes([bytes[0], bytes[1]]));
}

impl Inner {
    fn serve(&mut self, request: Request) -> [u8; RESPONSE_SIZE] {
        let Some(live) = &mut self.live else { return Response::Error.to_bytes() };
        let before = live.unit.size();
        trace_request(request);
        let response = live.unit.serve(request, live.devices.is_frozen());
        trace_response(request, response);
        self.note_size(before);
        response.to_bytes()
    }

    /// Notes a changed size for [`VirtioMem::settle`].
    fn note_size(&mut self, before: u64) {
        let size = self.size();
        if size != before {
            let reached = size == self.config.requested && std::mem::take(&mut self.asked);
            self.news.push((size, reached));
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.live.as_ref().map_or(0, |live| live.unit.size())
    }
}

impl Device for VirtioMem {
    fn dev(&self) -> &DeviceState {
        &self.common.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        realize::realize(&self, machine)
    }

    fn unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        realize::unrealize(&self, machine);
    }

    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }

    /// A system reset unplugs everything, unless somebody forbids it; waking up does not.
    fn reset(&self, kind: ResetKind) {
        if kind != ResetKind::Cold {
            return;
        }
        {
            let mut inner = self.lock();
            let before = inner.size();
            if let Some(live) = &mut inner.live {
                // What has arrived while the rest is awaited is to stay, too.
                let arriving = live.machine.upgrade().is_some_and(|machine| machine.is_incoming());
                live.unit.system_reset(arriving || live.devices.is_frozen());
            }
            inner.note_size(before);
            // What was asked for is to come anew.
            inner.asked = true;
        }
        self.settle();
    }
}

impl VirtioBackend for VirtioMem {
    fn common(&self) -> &VirtioCommon {
        &self.common
    }

    fn saved_behind(self: Arc<Self>, carrier: Carrier) -> Saved {
        moving::sections(&self, carrier)
    }

    fn feature_texts(&self) -> &'static [(u64, &'static str)] {
        // "SUSPND" is how QEMU spells it. The proximity domain bit has no text there: it counts as unknown.
        &[
            (
                F_PERSISTENT_SUSPEND,
                "VIRTIO_MEM_F_PERSISTENT_SUSPND: Plugged memory will remain plugged when suspending+resuming",
            ),
            (
                F_UNPLUGGED_INACCESSIBLE,
                "VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE: Unplugged memory cannot be accessed",
            ),
        ]
    }
}

impl VirtioDevice for VirtioMem {
    fn name(&self) -> &'static str {
        "virtio-mem"
    }

    fn device_id(&self) -> u16 {
        DEVICE_ID
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        self.lock().live.as_ref().map_or(0, |live| live.features)
    }

    fn accepts(&self, features: u64) -> bool {
        let needed = self.features() & F_UNPLUGGED_INACCESSIBLE;
        features & needed == needed
    }

    fn config(&self) -> Vec<u8> {
        let inner = self.lock();
        inner.live.as_ref().map(|live| live.unit.config(inner.config.node).to_vec()).unwrap_or_default()
    }

    fn serve(&self, _queue: u16, buffer: &mut Chain<'_>) -> std::result::Result<Outcome, Violation> {
        let request = read_request(buffer)?;
        let mut inner = self.lock();
        if let Some(live) = &mut inner.live
            && !live.unit.prepare(request, live.devices.is_frozen())
        {
            return Ok(Outcome::Again);
        }
        let response = inner.serve(request);
        drop(inner);
        Ok(Outcome::Done(buffer.write(&response) as u32))
    }

    fn driver_reset(&self) {
        if let Some(live) = &mut self.lock().live {
            live.unit.abandon();
        }
    }

    fn settle(&self) {
        let (news, machine) = {
            let mut inner = self.lock();
            (std::mem::take(&mut inner.news), inner.live.as_ref().and_then(|live| live.machine.upgrade()))
        };
        let (Some(machine), Some(proxy)) = (machine.filter(|_| !news.is_empty()), self.common.proxy()) else {
            return;
        };
        let (id, qom_path) = (proxy.dev().id(), self.qom_path());
        for (size, reached) in news {
            let event = Event::MemoryDeviceSizeChange { id: id.clone(), size, qom_path: qom_path.clone() };
            if reached { machine.send_awaited(event) } else { machine.send(event) }
        }
    }
}

impl MemoryDevice for VirtioMem {
    fn id(&self) -> Option<String> {
        self.common.proxy()?.dev().id()
    }

    fn qom_path(&self) -> String {
        self.common.proxy().map_or_else(String::new, |proxy| (proxy as ObjectRef).path())
    }

    fn wanted(&self) -> Result<Wanted> {
        let inner = self.lock();
        let config = &inner.config;
        let backend =
            config.memdev.as_ref().ok_or_else(|| Error::generic("'memdev' property must be set"))?;
        Ok(Wanted {
            size: backend.size(),
            region_align: region_align(backend),
            device_align: config.effective_block_size(),
            addr: (config.memaddr != 0).then_some(config.memaddr),
        })
    }

    fn set_addr(&self, addr: u64) {
        self.lock().config.memaddr = addr;
    }

    fn decide_memslots(&self, budget: &Budget) -> Result<u64> {
        let mut inner = self.lock();
        inner.config.parts = inner.config.decide(budget)?;
        Ok(inner.config.parts.map_or(1, |(_, parts)| parts.count))
    }

    fn addr(&self) -> u64 {
        self.lock().config.memaddr
    }

    fn region_size(&self) -> u64 {
        self.lock().config.memdev.as_ref().map_or(0, |backend| backend.size())
    }

    fn region(&self) -> Option<RegionId> {
        self.lock().live.as_ref().map(|live| live.region)
    }

    fn memslots(&self) -> SlotUse {
        let inner = self.lock();
        let nothing = SlotUse { parts: 1, mapped: 0, part_size: 0, decided: false };
        inner.live.as_ref().map_or(nothing, |live| live.unit.slot_use())
    }

    fn plugged_size(&self) -> u64 {
        self.lock().size()
    }

    fn node(&self) -> u32 {
        self.lock().config.node
    }

    fn on_unplugged_access(&self) -> Option<OnAccess> {
        let inner = self.lock();
        let protects = inner.live.as_ref().is_some_and(|live| live.unit.blocks().is_protecting());
        protects.then_some(inner.config.on_access)
    }

    fn info(&self) -> MemoryDeviceInfo {
        let id = self.id();
        let inner = self.lock();
        let config = &inner.config;
        let data = VirtioMEMDeviceInfo {
            id,
            memaddr: config.memaddr,
            requested_size: config.requested,
            size: inner.size(),
            max_size: config.memdev.as_ref().map_or(0, |backend| backend.size()),
            block_size: config.effective_block_size(),
            node: config.node.into(),
            memdev: config.memdev.clone().map_or_else(String::new, |backend| (backend as ObjectRef).path()),
        };
        MemoryDeviceInfo::VirtioMem(VirtioMEMDeviceInfoWrapper { data })
    }

    fn map(&self, cells: u32) -> Option<PliantMemoryMap> {
        let (id, qom_path) = (self.id(), self.qom_path());
        let inner = self.lock();
        let config = &inner.config;
        let unit = &inner.live.as_ref()?.unit;
        let region_size = config.memdev.as_ref().map_or(0, |backend| backend.size());
        let block_size = config.effective_block_size();
        Some(PliantMemoryMap {
            id,
            qom_path,
            memaddr: config.memaddr,
            region_size,
            usable_size: unit.usable(),
            requested_size: config.requested,
            size: inner.size(),
            block_size,
            cells: map::cells(unit.blocks(), region_size, block_size, cells),
        })
    }

    #[doc(alias = "virtio_mem_unplug_request_check")]
    fn may_unplug(&self) -> Result<()> {
        let inner = self.lock();
        if inner.config.unplugged_inaccessible != OnOffAuto::On {
            return Err(Error::generic(
                "virtio-mem device cannot get unplugged while 'unplugged-inaccessible' != 'on'",
            ));
        }
        if inner.size() != 0 {
            return Err(Error::generic(
                "virtio-mem device cannot get unplugged while some of its memory is still plugged",
            ));
        }
        if inner.config.requested != 0 {
            return Err(Error::generic(
                "virtio-mem device cannot get unplugged while 'requested-size' != '0'",
            ));
        }
        Ok(())
    }
}
