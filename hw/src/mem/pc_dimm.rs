//! `pc-dimm`: a memory backend in a DIMM slot, all of it plugged as long as it is there. The guest hears of one that comes and
//! lets go of it through ACPI ([`crate::acpi::memhp`]).
//!
//! Left out: `nvdimm`; alignment as machine types before 2.2 had it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use memory::{MemoryBackend, RegionId};
use qapi::types::{MemoryDeviceInfo, PCDIMMDeviceInfo, PCDIMMDeviceInfoWrapper};
use qapi::{Error, Result, Value};
use qom::{Class, ObjectRef, Property, Registry, TypeInfo};
use vmstate::{LoadError, Priority, Saved, Section, vmstate};

use super::device::{MemoryDevice, MemoryDevices, region_align};
use super::placement::Wanted;
use super::plug::MemoryDevicePlug;
use crate::acpi::memhp::MemoryHotplug;
use crate::core::machine_types::Board;
use crate::core::{Category, Device, DeviceClass, DeviceState, HotplugHandler, Machine, Unplug, link};

/// No slot is asked for.
const UNASSIGNED: i32 = -1;

/// The device.
pub struct PcDimm {
    dev: DeviceState,
    /// Itself, to be found in the tree.
    this: Weak<Self>,
    config: Mutex<Config>,
}
crate::device_object!(PcDimm, dev);

struct Config {
    memdev: Option<Arc<MemoryBackend>>,
    /// 0: wherever there is room.
    addr: u64,
    node: u32,
    slot: i32,
}

vmstate! {
    /// What has to be the same at both ends. The memory itself is the backend's.
    pub struct PcDimmState: "pc-dimm", version 1 {
        /// Physical address.
        addr: u64,
        /// Bytes.
        size: u64,
        /// NUMA node.
        node: u32,
        /// -1 on a board without slots.
        slot: i32,
    }
}

impl PcDimmState {
    /// Whether a DIMM that is like `here` can be the one that this was.
    fn check(&self, here: &Self) -> vmstate::Result<()> {
        let Self { addr, size, node, slot } = self;
        let changed = |name: &str, from: &dyn std::fmt::Display, to: &dyn std::fmt::Display| {
            Err(LoadError::invalid(format!("Property '{name}' changed from {from} to {to}")))
        };
        if *addr != here.addr {
            return changed("addr", &format!("{addr:#x}"), &format!("{:#x}", here.addr));
        }
        if *size != here.size {
            return changed("size", &format!("{size:#x}"), &format!("{:#x}", here.size));
        }
        if *node != here.node {
            return changed("node", node, &here.node);
        }
        if *slot != here.slot {
            return changed("slot", slot, &here.slot);
        }
        Ok(())
    }
}

/// Registers `pc-dimm`.
pub(super) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("pc-dimm")
            .parent("device")
            .interface("memory-device")
            .instance(PcDimm::new)
            .properties([addr(), node(), slot()])
            .property(size())
            .property(memdev())
            // Neither readable nor writable, also in QEMU.
            .property(Property::new("legacy-memdev", "str"))
            .cast::<PcDimm, dyn Device>(|d| d)
            .cast::<PcDimm, dyn MemoryDevice>(|d| d)
            .extension(
                DeviceClass::internal()
                    .creatable()
                    .category(Category::Misc)
                    .plugged_by(Arc::new(PcDimmPlug))
                    .hide(&["size"]),
            ),
    );
}

fn addr() -> Property {
    Property::new("addr", "uint64").default(0u64).get(|d: &PcDimm| Ok(d.lock().addr.into())).set(
        |d: &PcDimm, value, name| {
            d.lock().addr = value.to_u64(name)?;
            Ok(())
        },
    )
}

fn node() -> Property {
    Property::new("node", "uint32").default(0u64).get(|d: &PcDimm| Ok(u64::from(d.lock().node).into())).set(
        |d: &PcDimm, value, name| {
            // In range: the setter refuses more than 32 bits.
            d.lock().node = value.to_uint(name, 32)? as u32;
            Ok(())
        },
    )
}

fn slot() -> Property {
    Property::new("slot", "int32")
        .default(Value::Int(UNASSIGNED.into()))
        .get(|d: &PcDimm| Ok(Value::Int(d.lock().slot.into())))
        .set(|d: &PcDimm, value, name| {
            d.lock().slot = value.to_int(name, 32)? as i32;
            Ok(())
        })
}

fn size() -> Property {
    Property::new("size", "uint64").get(|d: &PcDimm| Ok(d.region_size().into()))
}

fn memdev() -> Property {
    Property::new("memdev", "link<memory-backend>")
        // Live, because what is named is looked for before the realized device refuses.
        .live()
        .get(|d: &PcDimm| Ok(d.memdev_path().into()))
        .set(|d: &PcDimm, value, name| {
            let backend =
                link::resolve(d, value.to_str(name)?, name, "memory-backend", MemoryBackend::from_object)?;
            d.lock().memdev = backend;
            Ok(())
        })
}

impl PcDimm {
    fn new(class: &Arc<Class>) -> Arc<Self> {
        let config = Config { memdev: None, addr: 0, node: 0, slot: UNASSIGNED };
        Arc::new_cyclic(|this| Self {
            dev: DeviceState::new(class),
            this: this.clone(),
            config: Mutex::new(config),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Config> {
        // Fields are assigned one by one.
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memdev(&self) -> Option<Arc<MemoryBackend>> {
        self.lock().memdev.clone()
    }

    fn memdev_path(&self) -> String {
        self.memdev().map_or_else(String::new, |backend| (backend as ObjectRef).path())
    }

    fn slot(&self) -> i32 {
        self.lock().slot
    }

    fn saved_state(&self) -> PcDimmState {
        let size = self.region_size();
        let Config { memdev: _, addr, node, slot } = &*self.lock();
        PcDimmState { addr: *addr, size, node: *node, slot: *slot }
    }
}

impl Device for PcDimm {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let backend = self.memdev().ok_or_else(|| Error::generic("'memdev' property is not set"))?;
        if backend.is_mapped() {
            return Err(Error::generic(format!("can't use already busy memdev: {}", backend.id())));
        }
        let (node, nodes) = (self.lock().node, machine.numa().len());
        if node as usize >= nodes.max(1) {
            return Err(Error::generic(format!(
                "'DIMM property node has value {node}' which exceeds the number of numa nodes: {}",
                nodes.max(1)
            )));
        }
        backend.set_mapped(true);
        if let Some(block) = backend.block() {
            block.register_name(None);
        }
        Ok(())
    }

    fn unrealize(self: Arc<Self>, _machine: &Arc<Machine>) {
        let Some(backend) = self.memdev() else { return };
        if let Some(block) = backend.block() {
            block.unregister_name();
        }
        backend.set_mapped(false);
    }

    fn saved(self: Arc<Self>) -> Saved {
        let loaded = Arc::clone(&self);
        let save = move || self.saved_state();
        let load = move |state: PcDimmState| state.check(&loaded.saved_state());
        // Before memory comes, which would be elsewhere.
        Saved::one(Section::new(save, load).at(Priority::Early))
    }
}

impl MemoryDevice for PcDimm {
    fn id(&self) -> Option<String> {
        self.dev.id()
    }

    fn qom_path(&self) -> String {
        self.this.upgrade().map_or_else(String::new, |dimm| (dimm as ObjectRef).path())
    }

    fn wanted(&self) -> Result<Wanted> {
        let backend = self.memdev().ok_or_else(|| Error::generic("'memdev' property must be set"))?;
        let addr = self.lock().addr;
        Ok(Wanted {
            size: backend.size(),
            region_align: region_align(&backend),
            device_align: 1,
            addr: (addr != 0).then_some(addr),
        })
    }

    fn set_addr(&self, addr: u64) {
        self.lock().addr = addr;
    }

    fn addr(&self) -> u64 {
        self.lock().addr
    }

    fn region_size(&self) -> u64 {
        self.memdev().map_or(0, |backend| backend.size())
    }

    fn region(&self) -> Option<RegionId> {
        self.memdev()?.region()
    }

    fn node(&self) -> u32 {
        self.lock().node
    }

    fn info(&self) -> MemoryDeviceInfo {
        let (addr, node, slot) = {
            let config = self.lock();
            (config.addr, config.node, config.slot)
        };
        let data = PCDIMMDeviceInfo {
            id: self.dev.id(),
            addr: addr.cast_signed(),
            size: self.region_size().cast_signed(),
            slot: slot.into(),
            node: node.into(),
            memdev: self.memdev_path(),
            hotplugged: self.dev.is_hotplugged(),
            hotpluggable: true,
        };
        MemoryDeviceInfo::Dimm(PCDIMMDeviceInfoWrapper { data })
    }

    fn may_unplug(&self) -> Result<()> {
        Ok(())
    }
}

/// The machine's part in plugging a DIMM: a slot besides what every memory device gets.
struct PcDimmPlug;

/// The DIMM, on a machine that has slots: on others, as in QEMU, it is there and nothing comes of it.
fn on_board(machine: &Machine, device: &Arc<dyn Device>) -> Option<Arc<PcDimm>> {
    let has_slots = matches!(machine.kind().board, Board::I440fx | Board::Q35);
    (Arc::clone(device) as ObjectRef).downcast().filter(|_| has_slots)
}

impl HotplugHandler for PcDimmPlug {
    fn pre_plug(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<()> {
        let Some(dimm) = on_board(machine, device) else { return Ok(()) };
        let slots = MemoryHotplug::of(machine);
        if !slots.is_installed() {
            return Err(Error::generic(
                "memory hotplug is not enabled: missing acpi device or acpi disabled",
            ));
        }
        let wanted = Some(dimm.slot()).filter(|slot| *slot != UNASSIGNED);
        let slot = slots.free_slot(wanted)?;
        MemoryDevicePlug.pre_plug(machine, device)?;
        dimm.lock().slot = slot;
        Ok(())
    }

    fn plug(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<()> {
        let Some(dimm) = on_board(machine, device) else {
            if let Some(dimm) = (Arc::clone(device) as ObjectRef).downcast::<PcDimm>() {
                MemoryDevices::of(machine).add(dimm);
            }
            return Ok(());
        };
        MemoryDevicePlug.plug(machine, device)?;
        let memory: Arc<dyn MemoryDevice> = Arc::<PcDimm>::clone(&dimm);
        MemoryHotplug::of(machine).plug(dimm.slot(), device, &memory);
        Ok(())
    }

    fn unplug_request(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<Unplug> {
        let Some(dimm) = on_board(machine, device) else { return Ok(Unplug::Now) };
        MemoryHotplug::of(machine).unplug_request(dimm.slot());
        Ok(Unplug::MayAskAgain)
    }

    fn unplug(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) {
        let Some(dimm) = on_board(machine, device) else {
            if let Some(dimm) = (Arc::clone(device) as ObjectRef).downcast::<PcDimm>() {
                let memory: Arc<dyn MemoryDevice> = dimm;
                MemoryDevices::of(machine).remove(&memory);
            }
            return;
        };
        MemoryHotplug::of(machine).unplug(dimm.slot());
        MemoryDevicePlug.unplug(machine, device);
    }
}

#[cfg(test)]
mod tests;
