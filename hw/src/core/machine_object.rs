//! `/machine` as an object: the properties that `-machine` sets and `qom-get` reads.
//!
//! A property is here if it does something, or if QEMU clients always set it to the one value this program has
//! (`usb=off`, `hpet=off`); those refuse any other value.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use qapi::{Error, Value};
use qom::{ObjectCore, Property, Registry, TypeInfo, object};

use super::machine_types::{Board, TYPES};
pub use super::microvm_options::{MicrovmOptions, OnOffAuto};

/// Values of `/machine`'s properties.
pub struct MachineObject {
    core: ObjectCore,
    /// Id or path given with `memory-backend=`.
    memory_backend: Mutex<Option<String>>,
    kernel: Mutex<Option<String>>,
    initrd: Mutex<Option<String>>,
    append: Mutex<Option<String>>,
    dtb: Mutex<Option<String>>,
    firmware: Mutex<Option<String>>,
    acpi: AtomicBool,
    hmat: AtomicBool,
    i8042: AtomicBool,
    max_ram_below_4g: AtomicU64,
    mem_merge: AtomicBool,
    dump_guest_core: AtomicBool,
    microvm: MicrovmOptions,
}
object!(MachineObject, core);

impl MachineObject {
    fn new(core: ObjectCore) -> Self {
        Self {
            core,
            memory_backend: Mutex::default(),
            kernel: Mutex::default(),
            initrd: Mutex::default(),
            append: Mutex::default(),
            dtb: Mutex::default(),
            firmware: Mutex::default(),
            acpi: AtomicBool::new(true),
            hmat: AtomicBool::new(false),
            i8042: AtomicBool::new(true),
            max_ram_below_4g: AtomicU64::new(0),
            mem_merge: AtomicBool::new(true),
            dump_guest_core: AtomicBool::new(true),
            microvm: MicrovmOptions::default(),
        }
    }

    /// `memory-backend=`.
    pub fn memory_backend(&self) -> Option<String> {
        get(&self.memory_backend)
    }
    /// `kernel=`: path of a kernel.
    pub fn kernel(&self) -> Option<String> {
        get(&self.kernel)
    }
    /// `initrd=`: path of an initial RAM disk.
    pub fn initrd(&self) -> Option<String> {
        get(&self.initrd)
    }
    /// `append=`: the command line of the kernel or of the built-in guest.
    pub fn append(&self) -> Option<String> {
        get(&self.append)
    }
    /// Records the backend that holds the default RAM, so that the property reads as its path.
    pub fn set_memory_backend(&self, id: &str) {
        *self.memory_backend.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.to_owned());
    }
    /// `dtb=`: path of a device tree.
    pub fn dtb(&self) -> Option<String> {
        get(&self.dtb)
    }
    /// `firmware=`: path of a firmware image.
    pub fn firmware(&self) -> Option<String> {
        get(&self.firmware)
    }
    /// `acpi=`: whether there are power management registers.
    pub fn acpi(&self) -> bool {
        self.acpi.load(Relaxed)
    }
    /// What only `microvm` has.
    pub fn microvm(&self) -> &MicrovmOptions {
        &self.microvm
    }
    /// `hmat=`: whether the guest is told how fast memory is.
    pub fn hmat(&self) -> bool {
        self.hmat.load(Relaxed)
    }
    /// `i8042=`: whether there is a keyboard controller, on a PC.
    pub fn i8042(&self) -> bool {
        self.i8042.load(Relaxed)
    }
    /// `max-ram-below-4g=`, 0 for the board's own choice.
    pub fn max_ram_below_4g(&self) -> u64 {
        self.max_ram_below_4g.load(Relaxed)
    }
    /// `mem-merge=`: whether default RAM may be merged by KSM.
    pub fn mem_merge(&self) -> bool {
        self.mem_merge.load(Relaxed)
    }
    /// `dump-guest-core=`: whether default RAM is in core dumps.
    pub fn dump_guest_core(&self) -> bool {
        self.dump_guest_core.load(Relaxed)
    }
}

fn get(field: &Mutex<Option<String>>) -> Option<String> {
    field.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

const ON_OFF_AUTO: [&str; 3] = ["auto", "on", "off"];

/// Registers the abstract class `machine` and every machine type.
pub(super) fn register(registry: &mut Registry) {
    registry.register(TypeInfo::new("machine").properties(common()));
    registry.register(TypeInfo::new("generic-pc-machine").parent("machine").properties(pc()));
    for kind in TYPES {
        let parent = if kind.is_pc() { "generic-pc-machine" } else { "machine" };
        let own = (kind.board == Board::Microvm)
            .then(|| std::iter::once(acpi()).chain(super::microvm_options::properties()));
        registry.register(
            TypeInfo::new(kind.class)
                .parent(parent)
                .description(kind.description())
                .properties(own.into_iter().flatten())
                .instance(|class| Arc::new(MachineObject::new(ObjectCore::new(class)))),
        );
    }
}

fn common() -> Vec<Property> {
    vec![
        Property::new("memory-backend", "link<memory-backend>")
            .description("Set RAM backendValid value is ID of hostmem based backend")
            .get(|m: &MachineObject| Ok(m.memory_backend().map_or_else(String::new, path_of).into()))
            .set(|m: &MachineObject, v, name| {
                m.set_memory_backend(v.to_str(name)?);
                Ok(())
            }),
        text("kernel", "Linux kernel image file", |m| &m.kernel),
        text("initrd", "Linux initial ramdisk file", |m| &m.initrd),
        text("append", "Linux kernel command line", |m| &m.append),
        text("dtb", "Linux kernel device tree file", |m| &m.dtb),
        text("firmware", "Firmware image", |m| &m.firmware),
        flag("mem-merge", "Enable/disable memory merge support", |m| &m.mem_merge),
        flag("dump-guest-core", "Include guest memory in a core dump", |m| &m.dump_guest_core),
        fixed_flag("usb", "Set on/off to enable/disable usb"),
        fixed_flag("graphics", "Set on/off to enable/disable graphics emulation"),
        fixed_flag("suppress-vmdesc", "Set on to disable self-describing migration"),
    ]
}

fn acpi() -> Property {
    Property::new("acpi", "OnOffAuto")
        .values(&ON_OFF_AUTO)
        .description("Enable ACPI")
        .get(|m: &MachineObject| Ok(if m.acpi() { "auto" } else { "off" }.into()))
        .set(|m: &MachineObject, v, name| {
            m.acpi.store(v.to_enum(name, &ON_OFF_AUTO)? != 2, Relaxed);
            Ok(())
        })
}

fn pc() -> Vec<Property> {
    vec![
        acpi(),
        Property::new("max-ram-below-4g", "size")
            .description("Maximum ram below the 4G boundary (32bit boundary)")
            .get(|m: &MachineObject| Ok(m.max_ram_below_4g().into()))
            .set(|m: &MachineObject, v, name| {
                let size = v.to_size(name)?;
                if size > 1 << 32 {
                    return Err(Error::generic(format!(
                        "Machine option 'max-ram-below-4g={size}' expects size less than or equal to 4G"
                    )));
                }
                m.max_ram_below_4g.store(size, Relaxed);
                Ok(())
            }),
        flag("hmat", "Set on/off to enable/disable ACPI Heterogeneous Memory Attribute Table (HMAT)", |m| {
            &m.hmat
        }),
        flag("i8042", "Enable/disable Intel 8042 PS/2 controller emulation", |m| &m.i8042),
        fixed_flag("hpet", "Enable/disable high precision event timer emulation"),
        fixed_flag("sata", "Enable/disable Serial ATA bus"),
        fixed_flag("smbus", "Enable/disable system management bus"),
        fixed_off("smm", "Enable SMM"),
        fixed_off("vmport", "Enable vmport (pc & q35)"),
    ]
}

fn path_of(id: String) -> String {
    if id.starts_with('/') { id } else { format!("/objects/{id}") }
}

fn flag(name: &'static str, help: &'static str, field: fn(&MachineObject) -> &AtomicBool) -> Property {
    Property::new(name, "bool")
        .description(help)
        .get(move |m: &MachineObject| Ok(field(m).load(Relaxed).into()))
        .set(move |m: &MachineObject, v, name| {
            field(m).store(v.to_bool(name)?, Relaxed);
            Ok(())
        })
}

fn text(
    name: &'static str,
    help: &'static str,
    field: fn(&MachineObject) -> &Mutex<Option<String>>,
) -> Property {
    Property::new(name, "string")
        .description(help)
        .get(move |m: &MachineObject| Ok(get(field(m)).unwrap_or_default().into()))
        .set(move |m: &MachineObject, v, name| {
            *field(m).lock().unwrap_or_else(PoisonError::into_inner) = Some(v.to_str(name)?.to_owned());
            Ok(())
        })
}

fn absent(name: &str) -> Error {
    Error::generic(format!("Property '{name}' can only be 'off': this program does not have it"))
}

fn fixed_flag(name: &'static str, help: &'static str) -> Property {
    Property::new(name, "bool")
        .description(help)
        .get(|_: &MachineObject| Ok(Value::Bool(false)))
        .set(|_: &MachineObject, v, name| if v.to_bool(name)? { Err(absent(name)) } else { Ok(()) })
}

fn fixed_off(name: &'static str, help: &'static str) -> Property {
    Property::new(name, "OnOffAuto")
        .values(&ON_OFF_AUTO)
        .description(help)
        .get(|_: &MachineObject| Ok("off".into()))
        .set(
            |_: &MachineObject, v, name| {
                if v.to_enum(name, &ON_OFF_AUTO)? == 1 { Err(absent(name)) } else { Ok(()) }
            },
        )
}
