//! vCPUs in the object tree. What executes is the accelerator's; here are their place in the topology and their names.

use std::sync::{Arc, OnceLock};

use accel::cpu::{ALIASES, Base, Facts, Feature, SETTINGS, Setting, Shown, feature, features, words_value};
use qapi::{Error, Result, Value};
use qom::{Class, ObjectRef, Property, Registry, TypeInfo};
use vmstate::Saved;

use crate::core::device::{Category, Device, DeviceClass, DeviceState};
use crate::core::machine::Machine;
use crate::core::qdev::{self, Place};

/// A vCPU.
pub struct Cpu {
    dev: DeviceState,
    index: OnceLock<u32>,
    facts: OnceLock<Arc<Facts>>,
}
crate::device_object!(Cpu, dev);

/// The class of vCPUs of `machine`.
pub fn class_name(machine: &Machine) -> &'static str {
    machine.cpu().base_model().class_name()
}

pub(super) fn register(registry: &mut Registry) {
    let mut class = DeviceClass::internal().category(Category::Cpu);
    class.hotpluggable = false;
    registry.register(TypeInfo::new("cpu").parent("device").extension(class));
    let settings = SETTINGS.iter().filter(|setting| !setting.of_max).map(setting_property);
    registry.register(
        TypeInfo::new("x86_64-cpu")
            .parent("cpu")
            .properties(features().map(|feature| feature_property(feature.name, feature)))
            .properties(settings)
            .properties(place())
            .property(
                Property::new("unavailable-features", "strList")
                    .get(|c: &Cpu| Ok(c.facts()?.unavailable().collect::<Vec<_>>().into())),
            ),
    );
    for base in Base::all() {
        let aliases = ALIASES.iter().filter_map(|(alias, name)| Some((*alias, feature(name)?)));
        let of_max = SETTINGS.iter().filter(|setting| setting.of_max && setting.is_of(base));
        registry.register(
            TypeInfo::new(base.class_name())
                .parent("x86_64-cpu")
                .properties(aliases.map(|(alias, feature)| feature_property(alias, feature)))
                .properties(of_max.map(setting_property))
                .property(words_property("feature-words", |facts| words_value(&facts.words)))
                .property(words_property("filtered-features", |facts| words_value(&facts.filtered)))
                .instance(|class: &Arc<Class>| {
                    Arc::new(Cpu {
                        dev: DeviceState::new(class),
                        index: OnceLock::new(),
                        facts: OnceLock::new(),
                    })
                })
                .cast::<Cpu, dyn Device>(|c| c),
        );
    }
}

/// Where a vCPU sits.
fn place() -> impl Iterator<Item = Property> {
    let levels = ["socket-id", "die-id", "module-id", "core-id", "thread-id"].into_iter().enumerate();
    let levels = levels.map(|(level, name)| {
        Property::new(name, "int32").default(-1).get(move |c: &Cpu| Ok(c.position(level).into()))
    });
    let node = Property::new("node-id", "int32").default(-1).get(|c: &Cpu| Ok(c.node().into()));
    let apic = Property::new("apic-id", "uint32").default(u32::MAX).get(|c: &Cpu| Ok(c.apic_id().into()));
    levels.chain([node, apic])
}

/// A property that can be set before the CPU is realized. Only global properties are then, and the machine's model has
/// those already: all vCPUs are alike.
fn settable(property: Property) -> Property {
    property.set(|_: &Cpu, _, _| Ok(()))
}

fn feature_property(name: &'static str, feature: &'static Feature) -> Property {
    settable(Property::new(name, "bool").get(move |c: &Cpu| Ok(feature.is_in(&c.facts()?.words).into())))
}

fn setting_property(setting: &'static Setting) -> Property {
    let property = Property::new(setting.name, setting.type_name);
    let property = match setting.default {
        Shown::Hidden => property,
        Shown::Switch(on) => property.default(on).description("on/off"),
        Shown::Number(number) => property.default(number),
    };
    settable(property.get(|c: &Cpu| Ok((setting.get)(c.facts()?))))
}

fn words_property(name: &'static str, get: fn(&Facts) -> Value) -> Property {
    Property::new(name, "X86CPUFeatureWordInfo").get(move |c: &Cpu| Ok(get(c.facts()?)))
}

impl Cpu {
    /// Its number, counted from 0.
    pub fn index(&self) -> u32 {
        self.index.get().copied().unwrap_or_default()
    }

    fn facts(&self) -> Result<&Facts> {
        self.facts.get().map(|facts| &**facts).ok_or_else(|| Error::generic("this CPU belongs to no machine"))
    }

    fn node(&self) -> i64 {
        let machine = self.dev.machine();
        machine.and_then(|m| m.numa().node_of_cpu(self.index())).map_or(-1, i64::from)
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
    /// The accelerator has it.
    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
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

/// What the processors of a machine have in common; none before there are any.
fn facts(machine: &Machine) -> Option<Arc<Facts>> {
    let cpus = machine.extension(Cpus::default);
    let first = Arc::clone(cpus.0.get()?.first()?).downcast::<Cpu>()?;
    first.facts.get().map(Arc::clone)
}

/// Bits of the physical addresses of a machine's processors; 0 before there are any.
pub fn phys_bits(machine: &Machine) -> u32 {
    facts(machine).map_or(0, |facts| facts.phys_bits)
}

/// What CPUID leaf 1 tells in EAX and EDX: family, model and stepping, and features; 0 before there are processors.
pub fn signature(machine: &Machine) -> (u32, u32) {
    let word = feature("fpu").map(|feature| feature.word);
    facts(machine).map_or((0, 0), |facts| {
        let features = word.map_or(0, |word| facts.words[word] as u32);
        (accel::cpu::signature(facts.family, facts.model, facts.stepping), features)
    })
}

/// IDs of more than 8 bits, and the one that means all, need the APIC's other mode.
fn check_apic_ids(machine: &Machine, facts: &Facts) -> Result<()> {
    if feature("x2apic").is_some_and(|x2apic| x2apic.is_in(&facts.words)) {
        return Ok(());
    }
    match (0..machine.smp().cpus).map(|index| machine.smp().apic_id(index)).find(|id| *id >= 255) {
        None => Ok(()),
        Some(id) => Err(Error::generic(format!("APIC ID {id} requires x2APIC feature in CPU"))
            .with_hint("Try x2apic=on in -cpu.")),
    }
}

/// Creates the vCPUs, in the accelerator and in the tree. `phys_bits` is how many bits their physical addresses have.
///
/// # Errors
/// The accelerator cannot have that many, or not this model.
pub fn create(machine: &Arc<Machine>, phys_bits: u32) -> Result<()> {
    let accel = machine.accel();
    if machine.cpu().base_model() == Base::Host && !accel.is_kvm() {
        return Err(Error::generic("CPU model 'host' requires KVM or HVF"));
    }
    let topology = machine.smp().package();
    let mut facts = machine.cpu().facts(accel.supported_cpu());
    facts.realize(&topology, accel.supported_cpu());
    check_apic_ids(machine, &facts)?;
    if accel.is_kvm() {
        facts.report(&topology, accel.processor_phys_bits())?;
    }
    machine.create_vcpus(
        Arc::new(facts.clone()),
        machine.cpu().phys_bits(accel.host_phys_bits().unwrap_or(phys_bits)),
    )?;
    facts.phys_bits = phys_bits;
    facts.tsc_frequency = accel.tsc_frequency().unwrap_or(facts.tsc_frequency);
    let facts = Arc::new(facts);
    let mut list = Vec::new();
    for index in 0..machine.smp().cpus {
        let device = qdev::build(machine, class_name(machine), Place::Unattached, None, &[])?;
        let object = device as ObjectRef;
        if let Some(cpu) = object.downcast::<Cpu>() {
            cpu.index.get_or_init(|| index);
            cpu.facts.get_or_init(|| Arc::clone(&facts));
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
