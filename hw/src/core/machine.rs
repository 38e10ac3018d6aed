//! The machine: what the command line asked for, the handles devices work with, and where the board hangs.
//!
//! [`Machine`] is made in steps (see `docs/architecture.md`, "Contract: hw"): [`Machine::new`], user objects,
//! [`Machine::add_numa_node`], [`Machine::init`], `-device`s, [`Machine::finish`], [`Machine::start`].

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use accel::cpu::Facts;
use accel::{Accel, CpuModel, IrqChip, VcpuConfig};
use chardev::ChardevSet;
use memory::{AddressSpace, Memory, RegionDesc, RegionId, SIZE_ALL, UnassignedIo};
use net::NetSet;
use qapi::events::Event;
use qapi::{Error, Result};
use qom::{Input, ObjectRef, Tree, cast};

use super::bus::Bus;
use super::config::{MachineConfig, MemorySizes, Smp};
use super::device::Device;
use super::globals::Globals;
use super::machine_object::MachineObject;
use super::machine_types::{Board as BoardKind, MachineType};
use super::numa::hmat::{HmatCache, HmatLb};
use super::numa::{Numa, NumaCpuOptions, NumaNodeOptions};
use super::runstate::RunControl;
use crate::i386;
use crate::pci::PciBus;

/// Takes events for the monitors, and whether somebody waits for this one, so that no limit of their rate holds it back. Called on the main loop thread and on vCPU
/// threads.
pub type EventSink = Arc<dyn Fn(Event, bool) + Send + Sync>;

/// What a machine is built on.
#[derive(Clone)]
pub struct Host {
    /// The object tree, without `/machine`.
    pub tree: Arc<Tree>,
    /// The guest's memory.
    pub memory: Arc<Memory>,
    /// The accelerator, not yet attached.
    pub accel: Arc<dyn Accel>,
    /// The main loop.
    pub mainloop: mainloop::Handle,
    /// The character devices.
    pub chardevs: Arc<ChardevSet>,
    /// The host's ends of network devices.
    pub net: Arc<NetSet>,
    /// Where events go.
    pub events: EventSink,
}

/// What a board does once its devices are there.
pub trait Board: Send + Sync {
    /// Loads the guest. After every reset, vCPUs paused, before the accelerator is reset.
    ///
    /// # Errors
    /// The guest does not fit.
    fn load(&self, machine: &Arc<Machine>) -> Result<()>;

    /// Makes what a guest can ask the board for, as [`load`](Self::load) does, and loads no guest: the machine's memory arrives from
    /// elsewhere. After every reset meanwhile.
    ///
    /// # Errors
    /// As those of `load`.
    fn describe(&self, _machine: &Arc<Machine>) -> Result<()> {
        Ok(())
    }

    /// What firmware would do: addresses for BARs, interrupt lines, ports. Before the guest runs for the first time
    /// after a reset; until then registers are in their power-on state.
    fn firmware(&self, _machine: &Arc<Machine>) {}

    /// The power button was pressed.
    fn power_button(&self, _machine: &Arc<Machine>) {}

    /// Tells the guest of general-purpose event `number` (0 to 15) of ACPI.
    fn general_event(&self, _number: u8) {}

    /// The root PCI bus.
    fn pci_bus(&self) -> Option<Arc<PciBus>> {
        None
    }

    /// A device was added while the machine runs; it is in its power-on state and the guest has not been told.
    fn device_plugged(&self, _machine: &Arc<Machine>, _device: &Arc<dyn Device>) {}
}

/// Where memory devices live.
#[derive(Debug, Clone)]
pub struct DeviceMemory {
    /// The region `device-memory`.
    pub region: RegionId,
    /// Its address space.
    pub space: Arc<AddressSpace>,
    /// First guest-physical address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

/// A virtual machine.
pub struct Machine {
    host: Host,
    kind: &'static MachineType,
    object: Arc<MachineObject>,
    config: MachineConfig,
    smp: Smp,
    cpu: OnceLock<CpuModel>,
    sizes: OnceLock<MemorySizes>,
    system: RegionId,
    io: RegionId,
    system_space: Arc<AddressSpace>,
    io_space: Arc<AddressSpace>,
    main_bus: Arc<dyn Bus>,
    globals: Globals,
    numa: Mutex<Numa>,
    ready: AtomicBool,
    device_memory: OnceLock<DeviceMemory>,
    board: OnceLock<Arc<dyn Board>>,
    pub(super) run: RunControl,
    extensions: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl Machine {
    /// Creates `/machine` with its containers and empty address spaces, sets its `-machine` options, and checks `-smp`.
    ///
    /// # Errors
    /// QEMU's texts: unknown type, unknown or bad option, bad topology.
    pub fn new(config: MachineConfig, host: Host) -> Result<Arc<Self>> {
        let kind = MachineType::find(config.machine.as_deref()).ok_or_else(|| {
            let name = config.machine.as_deref().unwrap_or_default();
            Error::generic(format!("unsupported machine type: \"{name}\""))
                .with_hint("Use -machine help to list supported machines")
        })?;
        let registry = host.tree.registry();
        let root = Arc::clone(host.tree.root());
        let machine_object = registry.create(kind.class)?;
        let object = machine_object
            .downcast::<MachineObject>()
            .ok_or_else(|| Error::generic(format!("class '{}' is no machine", kind.class)))?;
        for (name, value) in &config.options {
            machine_object.set(name, Input::Option(value))?;
        }
        let smp = config.smp.check(kind.name, kind.max_cpus(), kind.prefers_sockets(), kind.has_dies())?;
        root.add_child("machine", Arc::clone(&machine_object))?;
        for name in ["unattached", "peripheral", "peripheral-anon"] {
            host.tree.container(&format!("/machine/{name}"));
        }
        host.memory.set_unattached(host.tree.container("/machine/unattached"));
        let mut tx = host.memory.transaction();
        let system = tx.container(RegionDesc::new("system", SIZE_ALL));
        let io = tx.io(RegionDesc::new("io", 0x1_0000), Arc::new(UnassignedIo));
        let system_space = tx.address_space("memory", system);
        let io_space = tx.address_space("I/O", io);
        tx.commit();
        let sysbus = registry.lookup("System").map(|c| c.create()).transpose()?;
        let sysbus = sysbus.ok_or_else(|| Error::generic("hw::register was not called"))?;
        host.tree.container("/machine/unattached").add_child("sysbus", Arc::clone(&sysbus))?;
        let main_bus = cast::<dyn Bus>(&sysbus).ok_or_else(|| Error::generic("class 'System' is no bus"))?;
        let globals = Globals::default();
        globals.add_compat(&kind.compat().collect::<Vec<_>>());
        let run = RunControl::new(config.actions);
        let machine = Arc::new(Self {
            host,
            kind,
            object,
            config,
            smp,
            cpu: OnceLock::new(),
            sizes: OnceLock::new(),
            system,
            io,
            system_space,
            io_space,
            main_bus,
            globals,
            numa: Mutex::default(),
            ready: AtomicBool::new(false),
            device_memory: OnceLock::new(),
            board: OnceLock::new(),
            run,
            extensions: Mutex::default(),
        });
        Ok(machine)
    }

    /// Declares a node, `-numa node,…`; the caller prefixes errors with the option.
    ///
    /// # Errors
    /// QEMU's texts.
    pub fn add_numa_node(&self, options: NumaNodeOptions) -> Result<()> {
        self.numa_supported()?;
        let size = |id: &str| i386::ram::backend_size(self.tree(), id);
        let legacy = self.kind.has_numa_mem();
        if options.initiator.is_some() {
            self.hmat_enabled()?;
        }
        let old_form = options.mem.is_some();
        self.numa_mut().add_node(options, self.smp.maxcpus, legacy, size)?;
        if old_form && !self.is_tested() {
            tracing::warn!("Parameter -numa node,mem is deprecated, use -numa node,memdev instead");
        }
        Ok(())
    }

    /// Whether a test drives the machine; QEMU says nothing of old usage then.
    fn is_tested(&self) -> bool {
        self.host.accel.name() == "qtest"
    }

    /// CPUs that no node claimed, while nodes claimed others.
    fn warn_unclaimed(&self, cpus: &[u32]) {
        if cpus.is_empty() || self.is_tested() {
            return;
        }
        let list: Vec<String> =
            cpus.iter().map(|&cpu| format!("CPU {cpu} [{}]", self.smp.position_text(cpu))).collect();
        tracing::warn!("CPU(s) not present in any NUMA nodes: {}", list.join(", "));
        tracing::warn!(
            "All CPU(s) up to maxcpus should be described in NUMA config, ability to start up with partial NUMA \
             mappings is obsoleted and will be removed in future"
        );
    }

    /// Sets a distance, `-numa dist,…`.
    ///
    /// # Errors
    /// QEMU's texts.
    pub fn add_numa_distance(&self, src: u16, dst: u16, val: u8) -> Result<()> {
        self.numa_supported()?;
        self.numa_mut().add_distance(src, dst, val)
    }

    /// Gives CPUs to a node, `-numa cpu,…`.
    ///
    /// # Errors
    /// QEMU's texts.
    pub fn add_numa_cpus(&self, options: &NumaCpuOptions) -> Result<()> {
        self.numa_supported()?;
        self.numa_mut().add_cpus(options, &self.smp)
    }

    /// Tells a latency or a bandwidth, `-numa hmat-lb,…`.
    ///
    /// # Errors
    /// QEMU's texts.
    pub fn add_hmat_lb(&self, lb: &HmatLb) -> Result<()> {
        self.numa_supported()?;
        self.hmat_enabled()?;
        self.numa_mut().add_hmat_lb(lb)
    }

    /// Tells of a cache beside memory, `-numa hmat-cache,…`.
    ///
    /// # Errors
    /// QEMU's texts.
    pub fn add_hmat_cache(&self, cache: &HmatCache) -> Result<()> {
        self.numa_supported()?;
        self.hmat_enabled()?;
        self.numa_mut().add_hmat_cache(cache)
    }

    fn hmat_enabled(&self) -> Result<()> {
        if self.object.hmat() {
            return Ok(());
        }
        Err(Error::generic(
            "ACPI Heterogeneous Memory Attribute Table (HMAT) is disabled, enable it with -machine hmat=on before using \
             any of hmat specific options",
        ))
    }

    fn numa_supported(&self) -> Result<()> {
        if self.kind.board == BoardKind::None {
            return Err(Error::generic("NUMA is not supported by this machine-type"));
        }
        Ok(())
    }

    /// Builds the board: RAM, bridges, devices, vCPUs. All objects that the machine names exist already.
    ///
    /// # Errors
    /// QEMU's texts; the program ends then.
    pub fn init(self: &Arc<Self>) -> Result<()> {
        self.take_cpu_globals()?;
        let default = i386::ram::default_size(self)?;
        let sizes = self.config.memory.check(default)?;
        i386::ram::check_backend(self, &sizes)?;
        self.sizes.get_or_init(|| sizes);
        if self.kind.has_implicit_node(&sizes) {
            self.numa_mut().add_implicit_node();
        }
        let unclaimed = self.numa_mut().complete(sizes.ram, &self.smp)?;
        self.warn_unclaimed(&unclaimed);
        self.host.accel.attach(&self.host.memory, &self.system_space, &self.io_space)?;
        let board = i386::build(self)?;
        self.board.get_or_init(|| board);
        Ok(())
    }

    /// Gives the model what `-global` says of its class.
    fn take_cpu_globals(&self) -> Result<()> {
        let cpu = self.config.cpu.clone().unwrap_or_default();
        let registry = self.tree().registry();
        let Some(class) = registry.lookup(cpu.base_model().class_name()) else { return Ok(()) };
        let globals = self.globals.of_class(class);
        let globals = globals.iter().map(|g| (&*g.driver, &*g.property, &*g.value));
        let cpu = cpu.with_globals(globals)?;
        self.cpu.get_or_init(|| cpu);
        Ok(())
    }

    /// After the `-device`s: from now on devices are hot-plugged. Resets everything and loads the guest.
    ///
    /// # Errors
    /// The guest does not fit.
    pub fn finish(self: &Arc<Self>) -> Result<()> {
        self.ready.store(true, Ordering::Release);
        self.reset_devices(super::device::ResetKind::Cold)
    }

    /// Creates the vCPUs that there are from the start with the numbers `facts`; the board calls it when the order of `/machine/unattached` wants them.
    pub(crate) fn create_vcpus(self: &Arc<Self>, facts: Arc<Facts>, phys_bits: u32) -> Result<()> {
        let apic_ids = (0..self.smp.maxcpus).map(|i| self.smp.apic_id(i)).collect();
        let (present, topology) = (self.smp.cpus, self.smp.package());
        let config = VcpuConfig { apic_ids, present, topology, facts, phys_bits };
        self.host.accel.create_vcpus(config, super::runstate::vcpu_events(self))
    }

    pub(super) fn reset_devices(self: &Arc<Self>, kind: super::device::ResetKind) -> Result<()> {
        let object = self.object();
        trace::emit!(
            resettable_reset,
            trace::Id::of(&*object),
            (kind != super::device::ResetKind::Cold).into()
        );
        super::qdev::reset_bus(&self.main_bus, kind);
        let incoming = self.is_incoming();
        match self.board.get() {
            Some(board) if incoming => board.describe(self)?,
            Some(board) => board.load(self)?,
            None => {}
        }
        // Whether that of a machine that arrives has run, it says itself.
        self.run.set_firmware_due(!incoming);
        // After `load`, which says where the boot processor starts.
        self.host.accel.reset();
        for vcpu in self.host.accel.vcpus() {
            trace::emit!(cpu_reset, vcpu.index);
        }
        Ok(())
    }

    /// The object tree.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.host.tree
    }
    /// `/machine`.
    pub fn object(&self) -> ObjectRef {
        Arc::clone(&self.object) as ObjectRef
    }
    /// Values of `/machine`'s properties.
    pub fn properties(&self) -> &MachineObject {
        &self.object
    }
    /// The machine type.
    pub fn kind(&self) -> &'static MachineType {
        self.kind
    }
    /// What the command line said.
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }
    /// The vCPU topology.
    pub fn smp(&self) -> &Smp {
        &self.smp
    }
    /// The processor, as `-global` and `-cpu` have it.
    pub fn cpu(&self) -> &CpuModel {
        self.cpu.get_or_init(|| self.config.cpu.clone().unwrap_or_default())
    }
    /// RAM sizes; all zero before [`Machine::init`].
    pub fn sizes(&self) -> MemorySizes {
        self.sizes.get().copied().unwrap_or(MemorySizes { ram: 0, max: 0, slots: 0 })
    }
    /// The guest's memory.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.host.memory
    }
    /// Root of the physical address space.
    pub fn system_region(&self) -> RegionId {
        self.system
    }
    /// Root of the port space.
    pub fn io_region(&self) -> RegionId {
        self.io
    }
    /// The physical address space.
    pub fn system_space(&self) -> &Arc<AddressSpace> {
        &self.system_space
    }
    /// The port space.
    pub fn io_space(&self) -> &Arc<AddressSpace> {
        &self.io_space
    }
    /// The accelerator.
    pub fn accel(&self) -> &Arc<dyn Accel> {
        &self.host.accel
    }
    /// The interrupt controller.
    pub fn irq(&self) -> Arc<dyn IrqChip> {
        self.host.accel.irq()
    }
    /// The main loop.
    pub fn mainloop(&self) -> &mainloop::Handle {
        &self.host.mainloop
    }
    /// The character devices.
    pub fn chardevs(&self) -> &Arc<ChardevSet> {
        &self.host.chardevs
    }

    /// The host's ends of network devices.
    pub fn net(&self) -> &Arc<NetSet> {
        &self.host.net
    }
    /// Adds a serial port on character device `id`, as `-serial` does. A machine without an ISA bus (`none`) has no
    /// ports and leaves the device alone.
    ///
    /// # Errors
    /// The character device is in use, or there are four ports already.
    pub fn add_serial(self: &Arc<Self>, id: &str) -> Result<()> {
        use super::qdev::{Place, build, find_bus};
        let Some(isa) = find_bus(self, "ISA") else { return Ok(()) };
        if self.kind.board == BoardKind::Microvm {
            // It has one port at most.
            let taken = isa.bus().children().iter().any(|device| device.dev().type_name() == "isa-serial");
            if taken || !self.properties().microvm().isa_serial() {
                return Ok(());
            }
        }
        build(self, "isa-serial", Place::Unattached, Some(&isa), &[("chardev", id.into())]).map(drop)
    }
    /// The main system bus.
    pub fn main_bus(&self) -> Arc<dyn Bus> {
        Arc::clone(&self.main_bus)
    }
    /// Defaults that replace those of the classes; add `-global`s before devices are made.
    pub fn globals(&self) -> &Globals {
        &self.globals
    }
    /// Whether the machine is complete, so that devices are hot-plugged.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
    /// The NUMA nodes.
    pub fn numa(&self) -> Numa {
        self.numa_mut().clone()
    }
    fn numa_mut(&self) -> MutexGuard<'_, Numa> {
        // Node lists are changed by whole insertions only.
        self.numa.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Where memory devices go; `None` when the machine was started without room for them.
    pub fn device_memory(&self) -> Option<&DeviceMemory> {
        self.device_memory.get()
    }
    pub(crate) fn set_device_memory(&self, memory: DeviceMemory) {
        self.device_memory.get_or_init(|| memory);
    }
    /// The board, once built.
    pub fn board(&self) -> Option<&Arc<dyn Board>> {
        self.board.get()
    }

    /// The one value of type `T` that belongs to this machine, made when first asked for: state of other rooms
    /// (the list of memory devices) that is neither a device nor global.
    pub fn extension<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        // The map only ever grows by whole insertions.
        let mut map = self.extensions.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = map.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(make()));
        Arc::clone(entry).downcast::<T>().unwrap_or_else(|_| unreachable!("keyed by its own type"))
    }

    /// Sends an event to the monitors.
    pub fn send(&self, event: Event) {
        (self.host.events)(event, false);
    }

    /// Sends an event that a client waits for: the answer to what it asked of the guest. Who sends these sees to it that a guest cannot cause any number of them.
    pub fn send_awaited(&self, event: Event) {
        (self.host.events)(event, true);
    }

    pub(super) fn send_device_deleted(&self, device: Option<String>, path: String) {
        self.send(Event::DeviceDeleted { device, path });
    }
}

#[cfg(test)]
mod tests;
