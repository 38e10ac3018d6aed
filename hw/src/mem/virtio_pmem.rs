//! virtio-pmem (virtio 1.3 §5.19): memory that keeps its contents in a file of the host, for a guest that keeps no copy of it.
//!
//! All of it is plugged as long as the device is there. The guest asks for a flush when what it wrote has to last; [`flush`] does it beside
//! the main loop. As QEMU's, the device does not look at the kind of a request, has no interrupt vectors, and cannot be unplugged.
//!
//! Left out: the shared memory window that a driver may find the memory through (QEMU 10.0 offers none).

mod flush;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use memory::{MemoryBackend, RamBlock, RegionId};
use qapi::types::{MemoryDeviceInfo, VirtioPMEMDeviceInfo, VirtioPMEMDeviceInfoWrapper};
use qapi::{Error, Result};
use qom::{Class, ObjectRef, Property, Registry, TypeInfo};
use vmstate::{LoadError, Saved, vmstate};

use self::flush::Flusher;
use super::device::{MemoryDevice, region_align};
use super::placement::Wanted;
use super::plug::MemoryDevicePlug;
use crate::core::{Category, Device, DeviceClass, DeviceState, Machine, link};
use crate::virtio::migration::{BackendState, Carrier, section};
use crate::virtio::pci::{BackendPci, PciBackend, ProxyClass};
use crate::virtio::ring::Chain;
use crate::virtio::{Outcome, Violation, VirtioBackend, VirtioCommon, VirtioDevice, unpoisoned};

/// Virtio device ID of persistent memory.
const DEVICE_ID: u16 = 27;
const QUEUE_SIZES: [u16; 1] = [128];
/// Answer to a flush that was done, and to one that failed.
const DONE: u32 = 0;
const FAILED: u32 = 1;

#[derive(Default)]
struct Inner {
    memdev: Option<Arc<MemoryBackend>>,
    /// 0: wherever there is room.
    memaddr: u64,
    /// Since the guest's first flush, while the device is realized.
    flusher: Option<Flusher>,
}

/// A virtio-pmem device, the part behind `virtio-bus`.
pub struct VirtioPmem {
    common: VirtioCommon,
    me: Weak<Self>,
    inner: Mutex<Inner>,
}
crate::device_object!(VirtioPmem, common.dev);

/// The proxy of a virtio-pmem device.
pub type VirtioPmemPci = BackendPci<VirtioPmem>;

impl VirtioPmem {
    fn new(class: &Arc<Class>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            common: VirtioCommon::new(class),
            me: me.clone(),
            inner: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Fields are assigned one by one.
        unpoisoned(&self.inner)
    }

    fn memdev(&self) -> Option<Arc<MemoryBackend>> {
        self.lock().memdev.clone()
    }

    fn memdev_path(&self) -> String {
        self.memdev().map_or_else(String::new, |backend| (backend as ObjectRef).path())
    }

    /// Whether everything that the guest wrote is in the file; `None` while that is being seen to.
    fn flush(&self) -> Option<bool> {
        let mut inner = self.lock();
        if inner.flusher.is_none() {
            let block = inner.memdev.as_ref()?.block()?;
            let id = trace::Id::of(self);
            if block.file().is_none() {
                // Nobody has to be waited for.
                return Some(sync(&block, id));
            }
            let me = self.me.clone();
            let ready = move || {
                if let Some(device) = me.upgrade() {
                    device.common.notifier.queue_ready(0);
                }
            };
            match Flusher::start(move || sync(&block, id), ready) {
                Ok(flusher) => inner.flusher = Some(flusher),
                Err(error) => {
                    trace::emit!(pliant_virtio_pmem_flush_failed, id, &error);
                    return Some(false);
                }
            }
        }
        inner.flusher.as_ref()?.poll()
    }

    /// Nobody waits for a flush any more.
    fn forget(&self) {
        if let Some(flusher) = &self.lock().flusher {
            flusher.forget();
        }
    }
}

/// Has the host write to its disk what was written to memory; whether it did. Takes its time. Also with `share=off`, where nothing that
/// the guest writes gets to the file, this is what is asked of the file: QEMU's answer.
fn sync(block: &RamBlock, device: trace::Id) -> bool {
    trace::emit!(virtio_pmem_flush_request);
    let synced = match block.file() {
        Some((file, _)) => file.sync_all(),
        None => Err(io::Error::new(io::ErrorKind::Unsupported, "memory of no file does not last")),
    };
    trace::emit!(virtio_pmem_flush_done, u8::from(synced.is_err()));
    if let Err(error) = &synced {
        trace::emit!(pliant_virtio_pmem_flush_failed, device, error);
    }
    synced.is_ok()
}

impl Device for VirtioPmem {
    fn dev(&self) -> &DeviceState {
        &self.common.dev
    }

    fn realize(self: Arc<Self>, _machine: &Arc<Machine>) -> Result<()> {
        let backend = self.memdev().ok_or_else(|| Error::generic("'memdev' property is not set"))?;
        if !backend.try_map() {
            return Err(Error::generic(format!("can't use already busy memdev: {}", backend.id())));
        }
        Ok(())
    }

    fn unrealize(self: Arc<Self>, _machine: &Arc<Machine>) {
        let (flusher, backend) = {
            let mut inner = self.lock();
            (inner.flusher.take(), inner.memdev.clone())
        };
        drop(flusher);
        if let Some(backend) = backend {
            backend.set_mapped(false);
        }
    }

    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }
}

vmstate! {
    /// What a migration takes along: where the memory is, which must be the same. Who waits for a flush is still in the ring, and is answered
    /// where it comes, after a flush there; the one that is under way here answers nobody then.
    struct PmemState: "virtio-pmem-device", version 1 {
        memaddr: u64,
        size: u64,
    }
}

impl BackendState for PmemState {
    const SECTION: &'static str = "virtio-pmem";
}

impl VirtioBackend for VirtioPmem {
    fn common(&self) -> &VirtioCommon {
        &self.common
    }

    fn saved_behind(self: Arc<Self>, carrier: Carrier) -> Saved {
        let own = Arc::clone(&self);
        let now = |device: &Self| PmemState { memaddr: device.addr(), size: device.region_size() };
        let load = move |PmemState { memaddr, size }| {
            let own = now(&self);
            for (name, theirs, own) in [("memaddr", memaddr, own.memaddr), ("size", size, own.size)] {
                if theirs != own {
                    return Err(LoadError::invalid(format!(
                        "Property '{name}' changed from {theirs:#x} to {own:#x}"
                    )));
                }
            }
            Ok(())
        };
        Saved::one(section(carrier, move || now(&own), load))
    }
}

impl VirtioDevice for VirtioPmem {
    fn name(&self) -> &'static str {
        "virtio-pmem"
    }

    fn device_id(&self) -> u16 {
        DEVICE_ID
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    /// Where the memory starts, and its bytes.
    fn config(&self) -> Vec<u8> {
        [self.addr(), self.region_size()].map(u64::to_le_bytes).concat()
    }

    fn serve(&self, _queue: u16, buffer: &mut Chain<'_>) -> std::result::Result<Outcome, Violation> {
        if buffer.readable_len() == 0 || buffer.writable_len() == 0 {
            return Err(Violation("virtio-pmem request not proper".into()));
        }
        let Some(done) = self.flush() else { return Ok(Outcome::Later) };
        let answer = if done { DONE } else { FAILED };
        trace::emit!(virtio_pmem_response);
        Ok(Outcome::Done(buffer.write(&answer.to_le_bytes()) as u32))
    }

    fn driver_reset(&self) {
        self.forget();
    }

    fn queue_reset(&self, _queue: u16) {
        self.forget();
    }
}

impl PciBackend for VirtioPmem {
    type Own = ();
    const HAS_LEGACY: bool = false;

    fn create(class: &Arc<Class>) -> Arc<Self> {
        Self::new(class)
    }

    fn default_vectors(&self, _machine: &Machine, (): &()) -> u32 {
        0
    }
}

impl MemoryDevice for VirtioPmem {
    fn id(&self) -> Option<String> {
        self.common.proxy()?.dev().id()
    }

    fn qom_path(&self) -> String {
        self.common.proxy().map_or_else(String::new, |proxy| (proxy as ObjectRef).path())
    }

    fn wanted(&self) -> Result<Wanted> {
        let inner = self.lock();
        let backend = inner.memdev.as_ref().ok_or_else(|| Error::generic("'memdev' property must be set"))?;
        Ok(Wanted {
            size: backend.size(),
            region_align: region_align(backend),
            device_align: 1,
            addr: (inner.memaddr != 0).then_some(inner.memaddr),
        })
    }

    fn set_addr(&self, addr: u64) {
        self.lock().memaddr = addr;
    }

    fn addr(&self) -> u64 {
        self.lock().memaddr
    }

    fn region_size(&self) -> u64 {
        self.memdev().map_or(0, |backend| backend.size())
    }

    fn region(&self) -> Option<RegionId> {
        self.memdev()?.region()
    }

    /// It has none; QEMU counts it on the first.
    fn node(&self) -> u32 {
        0
    }

    fn info(&self) -> MemoryDeviceInfo {
        let data = VirtioPMEMDeviceInfo {
            id: MemoryDevice::id(self),
            memaddr: self.addr(),
            size: self.region_size(),
            memdev: self.memdev_path(),
        };
        MemoryDeviceInfo::VirtioPmem(VirtioPMEMDeviceInfoWrapper { data })
    }

    fn may_unplug(&self) -> Result<()> {
        Err(Error::generic("this virtio based memory devices cannot be unplugged"))
    }
}

fn properties() -> [Property; 3] {
    [
        Property::new("memaddr", "uint64").default(0u64).get(|d: &VirtioPmem| Ok(d.addr().into())).set(
            |d: &VirtioPmem, value, name| {
                d.set_addr(value.to_u64(name)?);
                Ok(())
            },
        ),
        Property::new("memdev", "link<memory-backend>")
            // Live, because what is named is looked for before the realized device refuses.
            .live()
            .get(|d: &VirtioPmem| Ok(d.memdev_path().into()))
            .set(|d: &VirtioPmem, value, name| {
                let backend = link::resolve(
                    d,
                    value.to_str(name)?,
                    name,
                    "memory-backend",
                    MemoryBackend::from_object,
                )?;
                d.lock().memdev = backend;
                Ok(())
            }),
        // Neither readable nor writable, also in QEMU.
        Property::new("legacy-memdev", "str"),
    ]
}

/// Registers `virtio-pmem` and `virtio-pmem-pci`.
pub(super) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("virtio-pmem")
            .parent("virtio-device")
            .instance(VirtioPmem::new)
            .properties(properties())
            .cast::<VirtioPmem, dyn Device>(|d| d)
            .cast::<VirtioPmem, dyn VirtioBackend>(|d| d)
            .cast::<VirtioPmem, dyn MemoryDevice>(|d| d)
            .extension(DeviceClass::on("virtio-bus").category(Category::Misc)),
    );
    let class = ProxyClass {
        name: "virtio-pmem-pci",
        parent: "virtio-md-pci",
        backend: "virtio-pmem",
        child_type: "child<virtio-pmem>",
        without: &["ioeventfd", "vectors"],
        vectors: None,
        own: Vec::new(),
        device: DeviceClass::on("PCI").category(Category::Misc).plugged_by(Arc::new(MemoryDevicePlug)),
    }
    .info::<VirtioPmem>(registry)
    .cast::<VirtioPmemPci, dyn MemoryDevice>(|d| Arc::clone(d.backend()) as Arc<dyn MemoryDevice>);
    registry.register(class);
}

#[cfg(test)]
mod tests;
