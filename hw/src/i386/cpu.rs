//! vCPUs in the object tree. What executes is the accelerator's; here are their place in the topology and their names.

use std::sync::{Arc, OnceLock};

use accel::cpu::Base;
use qapi::Result;
use qom::{Class, ObjectRef, Property, Registry, TypeInfo};

use crate::core::device::{Category, Device, DeviceClass, DeviceState};
use crate::core::machine::Machine;
use crate::core::qdev::{self, Place};

/// A vCPU.
pub struct Cpu {
    dev: DeviceState,
    index: OnceLock<u32>,
}
crate::device_object!(Cpu, dev);

const MODELS: [(Base, &str); 3] =
    [(Base::Host, "host-x86_64-cpu"), (Base::Max, "max-x86_64-cpu"), (Base::Qemu64, "qemu64-x86_64-cpu")];

/// The class of vCPUs of `machine`.
pub fn class_name(machine: &Machine) -> &'static str {
    let base = machine.cpu().base_model();
    MODELS.iter().find(|(b, _)| *b == base).map_or("qemu64-x86_64-cpu", |(_, name)| name)
}

pub(super) fn register(registry: &mut Registry) {
    let mut class = DeviceClass::internal().category(Category::Cpu);
    class.hotpluggable = false;
    registry.register(TypeInfo::new("cpu").parent("device").extension(class));
    registry.register(
        TypeInfo::new("x86_64-cpu").parent("cpu").properties(
            ["socket-id", "die-id", "module-id", "core-id", "thread-id"]
                .into_iter()
                .enumerate()
                .map(|(level, name)| {
                    Property::new(name, "int32").get(move |c: &Cpu| Ok(c.position(level).into()))
                })
                .chain([Property::new("apic-id", "uint32").get(|c: &Cpu| Ok(c.apic_id().into()))]),
        ),
    );
    for (_, name) in MODELS {
        registry.register(
            TypeInfo::new(name)
                .parent("x86_64-cpu")
                .instance(|class: &Arc<Class>| {
                    Arc::new(Cpu { dev: DeviceState::new(class), index: OnceLock::new() })
                })
                .cast::<Cpu, dyn Device>(|c| c),
        );
    }
}

impl Cpu {
    /// Its number, counted from 0.
    pub fn index(&self) -> u32 {
        self.index.get().copied().unwrap_or_default()
    }

    fn position(&self, level: usize) -> i64 {
        let machine = self.dev.machine();
        machine.map_or(-1, |m| i64::from(m.smp().position(self.index())[level]))
    }

    fn apic_id(&self) -> u32 {
        self.dev.machine().map_or(u32::MAX, |m| m.smp().apic_id(self.index()))
    }
}

impl Device for Cpu {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }
    fn realize(self: Arc<Self>, _machine: &Arc<Machine>) -> Result<()> {
        Ok(())
    }
}

/// The vCPUs of a machine, kept for `query-cpus-fast`.
#[derive(Default)]
pub struct Cpus(OnceLock<Vec<ObjectRef>>);

impl Cpus {
    /// Paths by index.
    pub fn paths(machine: &Machine) -> Vec<String> {
        let cpus = machine.extension(Self::default);
        cpus.0.get().map_or_else(Vec::new, |list| list.iter().map(|c| c.path()).collect())
    }
}

/// Creates the vCPUs, in the accelerator and in the tree.
///
/// # Errors
/// The accelerator cannot have that many, or does not know a feature.
pub fn create(machine: &Arc<Machine>) -> Result<()> {
    machine.create_vcpus()?;
    let mut list = Vec::new();
    for index in 0..machine.smp().cpus {
        let device = qdev::build(machine, class_name(machine), Place::Unattached, None, &[])?;
        let object = device as ObjectRef;
        if let Some(cpu) = object.downcast::<Cpu>() {
            cpu.index.get_or_init(|| index);
        }
        list.push(object);
    }
    // Each vCPU sees the machine's memory through a space of its own, which only has a name so far.
    let mut tx = machine.memory().transaction();
    for index in 0..machine.smp().cpus {
        tx.address_space(format!("cpu-memory-{index}"), machine.system_region());
    }
    tx.commit();
    machine.extension(Cpus::default).0.get_or_init(|| list);
    Ok(())
}
