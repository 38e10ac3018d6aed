//! vCPUs in the object tree. What executes is the accelerator's; here are their place in the topology and their names.

mod place;
mod plug;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use accel::cpu::{ALIASES, Base, Facts, Feature, SETTINGS, Setting, Shown, feature, features, words_value};
use memory::AddressSpace;
use qapi::{Error, Result, Value};
use qom::{Class, ObjectRef, Property, Registry, TypeInfo};
use vmstate::Saved;

use crate::core::device::{Category, Device, DeviceClass, DeviceState};
use crate::core::machine::Machine;
use crate::core::qdev;
use place::Place;
use plug::CpuPlug;

/// A vCPU.
pub struct Cpu {
    dev: DeviceState,
    place: Mutex<Place>,
    /// What was set of it besides, which must be as the machine's model has it.
    asked: Mutex<Vec<(&'static str, Value)>>,
    index: OnceLock<u32>,
    facts: OnceLock<Arc<Facts>>,
}
crate::device_object!(Cpu, dev);

/// The class of vCPUs of `machine`.
pub fn class_name(machine: &Machine) -> &'static str {
    machine.cpu().base_model().class_name()
}

pub(super) fn register(registry: &mut Registry) {
    let class = DeviceClass::internal().creatable().category(Category::Cpu).plugged_by(Arc::new(CpuPlug));
    registry.register(TypeInfo::new("cpu").parent("device").extension(class));
    let settings = SETTINGS.iter().filter(|setting| !setting.of_max).map(setting_property);
    registry.register(
        TypeInfo::new("x86_64-cpu")
            .parent("cpu")
            .properties(features().map(|feature| feature_property(feature.name, feature)))
            .properties(settings)
            .properties(place::properties())
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
                        place: Mutex::new(Place::UNSET),
                        asked: Mutex::default(),
                        index: OnceLock::new(),
                        facts: OnceLock::new(),
                    })
                })
                .cast::<Cpu, dyn Device>(|c| c),
        );
    }
}

/// A property that can be set before the CPU is realized. What the machine's model has is what it may be set to: all vCPUs are alike.
fn settable(property: Property) -> Property {
    let (name, type_name) = (property.name(), property.type_name());
    property.set(move |c: &Cpu, value, path| {
        let value = match type_name {
            "bool" => value.to_bool(path)?.into(),
            "string" => value.to_str(path)?.into(),
            "uint64" | "int" => value.to_u64(path)?.into(),
            _ => value.to_uint(path, 32)?.into(),
        };
        lock(&c.asked).push((name, value));
        Ok(())
    })
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

    /// Refuses what was set otherwise than the machine's model has it.
    fn check_asked(&self, machine: &Machine) -> Result<()> {
        let asked = std::mem::take(&mut *lock(&self.asked));
        let class = self.dev.core().class();
        let globals = machine.globals().of_class(class);
        let facts = self.facts()?;
        for (name, value) in asked {
            // The model has taken it in.
            if globals.iter().any(|global| global.property == name) {
                continue;
            }
            let has = match feature(name).or_else(|| feature(alias_of(name)?)) {
                Some(feature) => Some(feature.is_in(&facts.words).into()),
                None => SETTINGS.iter().find(|setting| setting.name == name).map(|s| (s.get)(facts)),
            };
            if has.is_some_and(|has| has != value) {
                let class = class.name();
                return Err(Error::generic(format!(
                    "property '{name}' of '{class}' cannot differ from that of the machine's other CPUs"
                )));
            }
        }
        Ok(())
    }
}

fn alias_of(name: &str) -> Option<&'static str> {
    ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, name)| *name)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Fields and elements are assigned whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device for Cpu {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }
    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let cpus = Cpus::of(machine);
        let facts = cpus.facts().filter(|_| self.index.get().is_some());
        let Some(facts) = facts else {
            return Err(Error::generic("apic-id property was not initialized properly"));
        };
        check_apic_id(machine.smp().apic_id(self.index()), &facts)?;
        self.facts.get_or_init(|| facts);
        self.check_asked(machine)?;
        cpus.enter(machine, self.index())
    }
    fn unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        Cpus::of(machine).leave(machine, self.index());
    }
    /// The accelerator has it.
    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }
}

/// The vCPUs of a machine, by index.
#[derive(Default)]
pub struct Cpus(Mutex<List>);

#[derive(Default)]
struct List {
    /// What all have in common; none before there are any.
    facts: Option<Arc<Facts>>,
    /// The accelerator has those that there are from the start.
    created: bool,
    plugged: BTreeMap<u32, Entry>,
    /// How many came so far.
    came: u64,
    /// How each sees the machine's memory: not otherwise than all, so that this only has a name so far.
    spaces: BTreeMap<u32, Arc<AddressSpace>>,
}

/// A vCPU that is there.
struct Entry {
    cpu: ObjectRef,
    /// How many had come before.
    order: u64,
}

impl Cpus {
    /// Those of `machine`.
    pub fn of(machine: &Machine) -> Arc<Self> {
        machine.extension(Self::default)
    }

    /// Index and path of each, in the order in which they came.
    pub fn paths(machine: &Machine) -> Vec<(u32, String)> {
        let cpus = Self::of(machine);
        let list = lock(&cpus.0);
        let mut all: Vec<_> = list.plugged.iter().collect();
        all.sort_by_key(|(_, entry)| entry.order);
        all.into_iter().map(|(index, entry)| (*index, entry.cpu.path())).collect()
    }

    fn insert(&self, index: u32, cpu: ObjectRef) {
        let mut list = lock(&self.0);
        let order = list.came;
        list.came += 1;
        list.plugged.insert(index, Entry { cpu, order });
    }

    /// Whether there is a vCPU of that index.
    pub fn has(&self, index: u32) -> bool {
        lock(&self.0).plugged.contains_key(&index)
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        lock(&self.0).plugged.len() as u32
    }

    /// Each with its index.
    pub(crate) fn devices(&self) -> Vec<(u32, Arc<dyn Device>)> {
        let list = lock(&self.0);
        let device = |(index, entry): (&u32, &Entry)| Some((*index, qom::cast::<dyn Device>(&entry.cpu)?));
        list.plugged.iter().filter_map(device).collect()
    }

    fn facts(&self) -> Option<Arc<Facts>> {
        lock(&self.0).facts.clone()
    }

    /// Has the accelerator make vCPU `index`, unless it is one of those that there are from the start.
    fn enter(&self, machine: &Arc<Machine>, index: u32) -> Result<()> {
        if !lock(&self.0).created {
            return Ok(());
        }
        machine.accel().plug_vcpu(index)?;
        self.add_spaces(machine, [index]);
        Ok(())
    }

    /// Has the accelerator take it away.
    fn leave(&self, machine: &Arc<Machine>, index: u32) {
        machine.accel().unplug_vcpu(index);
        let space = lock(&self.0).spaces.remove(&index);
        if let Some(space) = space {
            machine.memory().transaction().remove_address_space(&space);
        }
    }

    fn add_spaces(&self, machine: &Machine, indices: impl IntoIterator<Item = u32>) {
        let mut tx = machine.memory().transaction();
        let system = machine.system_region();
        let spaces: Vec<_> = indices
            .into_iter()
            .map(|index| (index, tx.address_space(format!("cpu-memory-{index}"), system)))
            .collect();
        tx.commit();
        lock(&self.0).spaces.extend(spaces);
    }
}

/// What the processors of a machine have in common; none before there are any.
fn facts(machine: &Machine) -> Option<Arc<Facts>> {
    Cpus::of(machine).facts()
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
fn check_apic_id(id: u32, facts: &Facts) -> Result<()> {
    if id < 255 || feature("x2apic").is_some_and(|x2apic| x2apic.is_in(&facts.words)) {
        return Ok(());
    }
    Err(Error::generic(format!("APIC ID {id} requires x2APIC feature in CPU"))
        .with_hint("Try x2apic=on in -cpu."))
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
    (0..machine.smp().cpus).try_for_each(|index| check_apic_id(machine.smp().apic_id(index), &facts))?;
    if accel.is_kvm() {
        facts.report(&topology, accel.processor_phys_bits())?;
    }
    machine.create_vcpus(
        Arc::new(facts.clone()),
        machine.cpu().phys_bits(accel.host_phys_bits().unwrap_or(phys_bits)),
    )?;
    facts.phys_bits = phys_bits;
    facts.tsc_frequency = accel.tsc_frequency().unwrap_or(facts.tsc_frequency);
    let cpus = Cpus::of(machine);
    lock(&cpus.0).facts = Some(Arc::new(facts));
    for index in 0..machine.smp().cpus {
        let apic_id = [("apic-id", machine.smp().apic_id(index).into())];
        qdev::build(machine, class_name(machine), qdev::Place::Unattached, None, &apic_id)?;
    }
    lock(&cpus.0).created = true;
    cpus.add_spaces(machine, 0..machine.smp().cpus);
    Ok(())
}
