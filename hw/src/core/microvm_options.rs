//! What `-machine microvm` takes besides what all machines take.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use qapi::Error;
use qom::Property;

use super::machine_object::MachineObject;

/// `on`, `off`, or the board's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOffAuto {
    /// The board's choice.
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

impl OnOffAuto {
    /// Names, by discriminant.
    pub const NAMES: [&str; 3] = ["auto", "on", "off"];
    const ALL: [Self; 3] = [Self::Auto, Self::On, Self::Off];
}

/// Their values.
#[derive(Debug)]
pub struct MicrovmOptions {
    choices: [AtomicU8; CHOICES.len()],
    switches: [AtomicBool; SWITCHES.len()],
}

impl Default for MicrovmOptions {
    fn default() -> Self {
        Self { choices: CHOICES.map(|_| AtomicU8::new(0)), switches: SWITCHES.map(|_| AtomicBool::new(true)) }
    }
}

/// Name, sentence, and what there is not when it is `on`.
const CHOICES: [(&str, &str, Option<&str>); 5] = [
    ("pic", "Enable i8259 PIC", None),
    ("pit", "Enable i8254 PIT", None),
    ("rtc", "Enable MC146818 RTC", None),
    ("pcie", "Enable PCIe", Some("this machine has no PCI Express")),
    ("ioapic2", "Enable second IO-APIC", Some("this machine has one I/O APIC")),
];
/// There are no option ROMs, whatever the last one says.
const SWITCHES: [(&str, &str); 3] = [
    ("auto-kernel-cmdline", "Set off to disable adding virtio-mmio devices to the kernel cmdline"),
    ("isa-serial", "Set off to disable the instantiation an ISA serial port"),
    ("x-option-roms", "Set off to disable loading option ROMs"),
];

impl MicrovmOptions {
    fn choice(&self, index: usize) -> OnOffAuto {
        OnOffAuto::ALL[usize::from(self.choices[index].load(Relaxed)) % OnOffAuto::ALL.len()]
    }

    /// `pit=`: the interval timer.
    pub fn pit(&self) -> OnOffAuto {
        self.choice(1)
    }

    /// `rtc=`: the clock.
    pub fn rtc(&self) -> OnOffAuto {
        self.choice(2)
    }

    /// `auto-kernel-cmdline=`: whether a kernel without ACPI is told of devices.
    pub fn auto_kernel_cmdline(&self) -> bool {
        self.switches[0].load(Relaxed)
    }

    /// `isa-serial=`: whether `-serial` makes a port.
    pub fn isa_serial(&self) -> bool {
        self.switches[1].load(Relaxed)
    }
}

/// The properties.
pub(super) fn properties() -> impl Iterator<Item = Property> {
    let choice =
        |(index, (name, help, absent)): (usize, (&'static str, &'static str, Option<&'static str>))| {
            Property::new(name, "OnOffAuto")
                .values(&OnOffAuto::NAMES)
                .description(help)
                .get(move |m: &MachineObject| Ok(OnOffAuto::NAMES[m.microvm().choice(index) as usize].into()))
                .set(move |m: &MachineObject, value, name| {
                    let value = value.to_enum(name, &OnOffAuto::NAMES)?;
                    if let Some(why) = absent.filter(|_| value == OnOffAuto::On as usize) {
                        return Err(Error::generic(format!("Property '{name}' cannot be 'on': {why}")));
                    }
                    // One of three.
                    m.microvm().choices[index].store(value as u8, Relaxed);
                    Ok(())
                })
        };
    let switch = |(index, (name, help)): (usize, (&'static str, &'static str))| {
        Property::new(name, "bool")
            .description(help)
            .get(move |m: &MachineObject| Ok(m.microvm().switches[index].load(Relaxed).into()))
            .set(move |m: &MachineObject, value, name| {
                m.microvm().switches[index].store(value.to_bool(name)?, Relaxed);
                Ok(())
            })
    };
    let choices = CHOICES.into_iter().enumerate().map(choice);
    choices.chain(SWITCHES.into_iter().enumerate().map(switch))
}
