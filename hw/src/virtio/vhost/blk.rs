//! `vhost-user-blk`: a disk (virtio 1.3 §5.2) whose requests another process serves, as `qemu-storage-daemon` does.
//!
//! What a disk is (its size, its limits) the back end knows; here are the features that are passed on, and the one byte of the configuration
//! space that a driver may write. Left out: zoned disks, secure erase.

mod pci;
mod properties;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use chardev::{Patience, Port};
use qapi::{Error, Result};
use qom::{Class, ObjectRef, TypeInfo};
use vmstate::Saved;

use super::client::{Client, Needs, Owner, Surroundings};
use crate::core::{Category, Device, DeviceClass, DeviceState, Machine};
use crate::mem::slot_plan::SlotPlan;
use crate::virtio::features::{ACCESS_PLATFORM, BAD_FEATURE, RING_PACKED, RING_RESET};
use crate::virtio::migration::Carrier;
use crate::virtio::ring::{Chain, MAX_DESCRIPTORS};
use crate::virtio::ring_server::RingServer;
use crate::virtio::{Outcome, Violation, VirtioBackend, VirtioCommon, VirtioDevice};

/// Virtio device ID of disks.
const DEVICE_ID: u16 = 2;
/// `num-queues` when the user left it to the device.
#[doc(alias = "VHOST_USER_BLK_AUTO_NUM_QUEUES")]
pub(super) const AUTO_QUEUES: u16 = u16::MAX;
/// Queues at most.
#[doc(alias = "VIRTIO_QUEUE_MAX")]
const MAX_QUEUES: u16 = 1024;

/// How long the back end is waited for by default.
const TIMEOUT_MS: u32 = 1000;

/// Feature bits of disks.
mod feature {
    pub(super) const SIZE_MAX: u64 = 1 << 1;
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const GEOMETRY: u64 = 1 << 4;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const CONFIG_WCE: u64 = 1 << 11;
    pub(super) const MQ: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// Offsets in the configuration space.
mod config {
    /// Whether the disk's cache is on; the driver may write it.
    pub(super) const WRITEBACK: usize = 32;
    /// Number of queues, two bytes.
    pub(super) const NUM_QUEUES: usize = 34;
    /// Where it ends, by the last feature there is.
    pub(super) const END_BASIC: usize = 36;
    pub(super) const END_DISCARD: usize = 48;
    pub(super) const END_WRITE_ZEROES: usize = 57;
}

/// What properties set.
pub(super) struct Config {
    chardev: Option<String>,
    num_queues: u16,
    queue_size: u32,
    config_wce: bool,
    discard: bool,
    write_zeroes: bool,
    timeout_ms: u32,
}

impl Config {
    /// The features that are offered if the back end has them.
    fn wanted_features(&self) -> u64 {
        use feature::*;
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        SIZE_MAX
            | SEG_MAX
            | GEOMETRY
            | RO
            | BLK_SIZE
            | FLUSH
            | TOPOLOGY
            | bit(self.config_wce, CONFIG_WCE)
            | bit(self.num_queues > 1, MQ)
            | bit(self.discard, DISCARD)
            | bit(self.write_zeroes, WRITE_ZEROES)
    }

    /// How long the back end is waited for.
    fn patience(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }

    fn config_size(&self) -> usize {
        match (self.write_zeroes, self.discard) {
            (true, _) => config::END_WRITE_ZEROES,
            (false, true) => config::END_DISCARD,
            (false, false) => config::END_BASIC,
        }
    }

    /// The size of each queue.
    fn check(&self) -> Result<u16> {
        let error = |text: &str| Err(Error::generic(text));
        if self.num_queues == 0 || self.num_queues > MAX_QUEUES {
            return error("invalid number of IO queues");
        }
        if self.queue_size == 0 {
            return error("queue size must be non-zero");
        }
        if self.queue_size as usize > MAX_DESCRIPTORS {
            return Err(Error::generic(format!("queue size must not exceed {MAX_DESCRIPTORS}")));
        }
        if !self.queue_size.is_power_of_two() {
            return error("queue size must be a power of two");
        }
        if self.timeout_ms == 0 {
            return error("x-pliant-timeout-ms must be non-zero");
        }
        // At most `MAX_DESCRIPTORS`.
        Ok(self.queue_size as u16)
    }
}

/// See the module.
pub(super) struct VhostUserBlk {
    me: Weak<Self>,
    common: VirtioCommon,
    config: Mutex<Config>,
    queue_sizes: OnceLock<Vec<u16>>,
    client: Mutex<Option<Arc<Client>>>,
}
crate::device_object!(VhostUserBlk, common.dev);

impl VhostUserBlk {
    fn new(class: &Arc<Class>) -> Arc<Self> {
        let config = Config {
            chardev: None,
            num_queues: AUTO_QUEUES,
            queue_size: 128,
            config_wce: true,
            discard: true,
            write_zeroes: true,
            timeout_ms: TIMEOUT_MS,
        };
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            common: VirtioCommon::new(class),
            config: Mutex::new(config),
            queue_sizes: OnceLock::new(),
            client: Mutex::default(),
        })
    }

    fn settings(&self) -> MutexGuard<'_, Config> {
        // Plain values, assigned whole.
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self) -> Option<Arc<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Decides how many queues there are, if the user did not: one for each vCPU of `cpus`. Gives their number.
    fn settle_queues(&self, cpus: u32) -> u16 {
        let mut config = self.settings();
        if config.num_queues == AUTO_QUEUES {
            config.num_queues = u16::try_from(cpus).unwrap_or(MAX_QUEUES).clamp(1, MAX_QUEUES);
        }
        config.num_queues
    }

    fn reserve_chardev(&self, machine: &Machine) -> Result<Port> {
        let id = self.settings().chardev.clone().filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| Error::generic("chardev is mandatory"))?;
        crate::char::reserve(machine, "vhost-user-blk.chardev", &id)
    }

    /// What people know the device by.
    fn title(&self) -> String {
        let proxy = self.common.dev.parent_bus().and_then(|bus| bus.bus().parent());
        let id = proxy.as_ref().and_then(|proxy| proxy.dev().id());
        id.or_else(|| proxy.map(|proxy| (proxy as ObjectRef).path())).unwrap_or_default()
    }

    fn connect(&self, machine: &Arc<Machine>) -> Result<Arc<Client>> {
        let port = self.reserve_chardev(machine)?;
        let (queue_size, needs, wanted, patience) = {
            let config = self.settings();
            let needs =
                Needs { device: "vhost-user-blk", queues: config.num_queues, config: config.config_size() };
            (config.check()?, needs, config.wanted_features(), config.patience())
        };
        if self.common.generic().features.iommu_platform {
            return Err(Error::generic("iommu_platform=true is not supported by the device"));
        }
        self.queue_sizes.get_or_init(|| vec![queue_size; needs.queues.into()]);
        let surroundings = Surroundings {
            needs,
            title: self.title(),
            plan: SlotPlan::of(machine),
            port,
            memory: Arc::clone(machine.memory()),
            space: Arc::clone(machine.system_space()),
            mainloop: machine.mainloop().clone(),
            running: machine.is_running(),
            patience,
        };
        // A machine that runs waits for nobody; one that is being started is of no use without its disk.
        let connecting = if machine.is_ready() { Patience::Once(patience) } else { Patience::Endless };
        let client = Client::connect(surroundings, connecting)?;
        let owner: Weak<dyn Owner> = self.me.clone();
        // Ring features as well: what the first back end has is what the transport offers.
        let generic = self.common.generic().features.bits();
        if let Err(error) = client.begin(owner, wanted | generic) {
            client.shut_down();
            return Err(error);
        }
        Ok(client)
    }
}

impl Device for VhostUserBlk {
    fn dev(&self) -> &DeviceState {
        &self.common.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        self.settle_queues(1);
        let client = self.connect(machine)?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
        Ok(())
    }

    fn unrealize(self: Arc<Self>, _machine: &Arc<Machine>) {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(client) = client {
            client.shut_down();
        }
    }

    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }
}

impl Owner for VhostUserBlk {
    fn config_changed(&self) {
        self.common.notifier.config_changed();
    }
}

impl VirtioBackend for VhostUserBlk {
    fn common(&self) -> &VirtioCommon {
        &self.common
    }

    /// While the guest runs its memory is sent, and of what the back end writes in it nobody here knows.
    fn saved_behind(self: Arc<Self>, _carrier: Carrier) -> Saved {
        let can_log = self.client().is_some_and(|client| client.status().can_log);
        let why = if can_log {
            "what a vhost-user backend writes is not logged"
        } else {
            "vhost-user backend lacks VHOST_USER_PROTOCOL_F_LOG_SHMFD feature."
        };
        Saved::Blocked(format!("Migration disabled: {why}"))
    }

    fn sync_config(&self) -> Option<Result<()>> {
        self.client().map(|client| client.sync_config())
    }

    fn feature_texts(&self) -> &'static [(u64, &'static str)] {
        use feature::*;
        &[
            (
                BAD_FEATURE,
                "VHOST_USER_F_PROTOCOL_FEATURES: Vhost-user protocol features negotiation supported",
            ),
            (1 << 26, "VHOST_F_LOG_ALL: Logging write descriptors supported"),
            (CONFIG_WCE, "VIRTIO_BLK_F_CONFIG_WCE: Cache writeback and writethrough modes supported"),
            (FLUSH, "VIRTIO_BLK_F_FLUSH: Flush command supported"),
            (WRITE_ZEROES, "VIRTIO_BLK_F_WRITE_ZEROES: Write zeroes command supported"),
            (DISCARD, "VIRTIO_BLK_F_DISCARD: Discard command supported"),
            (MQ, "VIRTIO_BLK_F_MQ: Multiqueue supported"),
            (TOPOLOGY, "VIRTIO_BLK_F_TOPOLOGY: Topology information available"),
            (BLK_SIZE, "VIRTIO_BLK_F_BLK_SIZE: Block size of disk available"),
            (RO, "VIRTIO_BLK_F_RO: Device is read-only"),
            (GEOMETRY, "VIRTIO_BLK_F_GEOMETRY: Legacy geometry available"),
            (SEG_MAX, "VIRTIO_BLK_F_SEG_MAX: Max segments in a request is seg_max"),
            (SIZE_MAX, "VIRTIO_BLK_F_SIZE_MAX: Max segment size is size_max"),
        ]
    }
}

impl VirtioDevice for VhostUserBlk {
    fn name(&self) -> &'static str {
        "virtio-blk"
    }

    fn device_id(&self) -> u16 {
        DEVICE_ID
    }

    fn queue_sizes(&self) -> &[u16] {
        self.queue_sizes.get().map_or(&[], Vec::as_slice)
    }

    fn features(&self) -> u64 {
        let wanted = self.settings().wanted_features();
        self.client().map_or(0, |client| client.features() & wanted)
    }

    /// One queue cannot be reset alone, addresses are the guest's own, and where a ring goes on is told as split rings have it.
    fn ring_features(&self, generic: u64) -> u64 {
        let had = self.client().map_or(0, |client| client.features());
        generic & had & !(RING_RESET | RING_PACKED | ACCESS_PLATFORM)
    }

    fn ring_server(&self) -> Option<Arc<dyn RingServer>> {
        self.client().map(|client| client as Arc<dyn RingServer>)
    }

    fn config(&self) -> Vec<u8> {
        let mut bytes = self.client().map(|client| client.config()).unwrap_or_default();
        // What the device has, which may be less than its back end has.
        let queues = self.settings().num_queues.to_le_bytes();
        if let Some(place) = bytes.get_mut(config::NUM_QUEUES..config::NUM_QUEUES + 2) {
            place.copy_from_slice(&queues);
        }
        bytes
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        let Some(client) = self.client() else { return };
        let Some(&value) = config::WRITEBACK.checked_sub(offset).and_then(|at| data.get(at)) else { return };
        if client.config().get(config::WRITEBACK) != Some(&value) {
            client.set_config(config::WRITEBACK, &[value]);
        }
    }

    fn serve(&self, _queue: u16, _buffer: &mut Chain<'_>) -> std::result::Result<Outcome, Violation> {
        Err(Violation("vhost-user-blk: rings are served by the back end".into()))
    }
}

/// Registers `vhost-user-blk` and `vhost-user-blk-pci`.
pub(super) fn register(registry: &mut qom::Registry) {
    registry.register(
        TypeInfo::new("vhost-user-blk")
            .parent("virtio-device")
            .instance(VhostUserBlk::new)
            .properties(properties::all())
            .cast::<VhostUserBlk, dyn Device>(|d| d)
            .cast::<VhostUserBlk, dyn VirtioBackend>(|d| d)
            .extension(DeviceClass::on("virtio-bus").category(Category::Storage)),
    );
    registry.register(pci::class(registry));
}
