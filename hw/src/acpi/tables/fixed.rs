//! Tables that are lists: FADT, MADT, MCFG, WAET.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;

use super::facts::{Facts, Platform, Processor};
use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes_of, table};
use crate::acpi::{ged, piix4_pm, pm};
use crate::i386::host_bridge::ECAM_BASE;
use crate::isa::reset_control;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IOAPIC: u32 = 0xfec0_0000;
const SECOND_IOAPIC: u32 = 0xfec1_0000;
/// Inputs of an I/O APIC.
const IOAPIC_INPUTS: u32 = 24;
/// A pair of 8259 is there too.
const MADT_PC_AT: u32 = 1;
/// Interrupt flags: active high, level.
const LEVEL_HIGH: u16 = 0x000d;
/// ISA interrupts that PCI and the SCI use.
const LEVEL_INTERRUPTS: [u8; 4] = [5, 9, 10, 11];
/// IDs from here on are for x2APIC entries.
const FIRST_WIDE_ID: u32 = 255;
const RTC_CENTURY: u8 = 0x32;
/// Boot flags: there is a keyboard controller.
const BOOT_8042: u16 = 1 << 1;
/// There is no VGA.
const BOOT_NO_VGA: u16 = 1 << 2;
/// There is no clock in CMOS RAM.
const BOOT_NO_RTC: u16 = 1 << 5;
/// A latency that says that there is no such state.
const NO_C_STATE: u16 = 0xfff;
/// Written to the reset control port: a full reset.
const RESET_VALUE: u8 = 0x0f;
/// WAET: the PM timer can be read once.
const WAET_PM_TIMER: u32 = 1 << 1;

fn io(bits: u8, address: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, AccessSize::Undefined, address.into())
}

fn mmio(address: u64) -> GAS {
    GAS::new(AddressSpace::SystemMemory, 8, 0, AccessSize::Undefined, address)
}

/// Where the general-purpose events are, and how many ports they take.
pub(super) fn gpe_block(platform: Platform) -> (u16, u8) {
    if platform == Platform::Pc {
        (piix4_pm::GPE_BASE as u16, piix4_pm::GPE_PORTS)
    } else {
        (pm::FIRMWARE_BASE + pm::ICH9_GPE_OFFSET as u16, pm::ICH9_GPE_PORTS)
    }
}

/// The FADT; it points at the DSDT and, unless the machine is hardware-reduced, at the FACS.
pub(super) fn fadt(facts: &Facts, dsdt: u64, facs: Option<u64>) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION).dsdt_64(dsdt);
    fadt.dsdt = (dsdt as u32).into();
    // QEMU's table leaves the clock open, and Linux then waits a second for one that is not there: ten thousand reads of a port.
    let no_rtc = facts.platform.is_reduced() && !facts.rtc;
    let boot = [(true, BOOT_NO_VGA), (facts.i8042.is_some(), BOOT_8042), (no_rtc, BOOT_NO_RTC)];
    fadt.iapc_boot_arch =
        boot.into_iter().filter(|(is, _)| *is).fold(0, |flags, (_, flag)| flags | flag).into();
    let fadt = match facs {
        Some(facs) => full_fadt(fadt, facts.platform).firmware_ctrl_32(facs as u32),
        None => reduced_fadt(fadt),
    };
    bytes_of(&fadt.finalize())
}

fn full_fadt(mut fadt: FADTBuilder, platform: Platform) -> FADTBuilder {
    let (event, control, timer) =
        (pm::FIRMWARE_BASE, pm::FIRMWARE_BASE + pm::CONTROL as u16, pm::FIRMWARE_BASE + pm::TIMER as u16);
    let (gpe, gpe_length) = gpe_block(platform);
    fadt.sci_int = (pm::SCI as u16).into();
    fadt.pm1a_evt_blk = u32::from(event).into();
    fadt.pm1a_cnt_blk = u32::from(control).into();
    fadt.pm_tmr_blk = u32::from(timer).into();
    fadt.gpe0_blk = u32::from(gpe).into();
    (fadt.pm1_evt_len, fadt.pm1_cnt_len, fadt.pm_tmr_len, fadt.gpe0_blk_len) = (4, 2, 4, gpe_length);
    fadt.x_pm1a_evt_blk = io(32, event);
    fadt.x_pm1a_cnt_blk = io(16, control);
    fadt.x_pm_tmr_blk = io(32, timer);
    fadt.x_gpe0_blk = io(8 * gpe_length, gpe);
    fadt.p_lvl2_lat = NO_C_STATE.into();
    fadt.p_lvl3_lat = NO_C_STATE.into();
    fadt.century = RTC_CENTURY;
    fadt.reset_reg = io(8, reset_control::PORT as u16);
    fadt.reset_value = RESET_VALUE;
    // The power button is a fixed one: its flag stays off. There is no sleep button.
    [
        Flags::Wbinvd,
        Flags::ProcC1,
        Flags::SlpButton,
        Flags::RtcS4,
        Flags::ResetRegSup,
        Flags::UsePlatformClock,
    ]
    .into_iter()
    .fold(fadt, FADTBuilder::flag)
}

fn reduced_fadt(mut fadt: FADTBuilder) -> FADTBuilder {
    fadt.reset_reg = mmio(ged::REGISTERS_BASE + ged::RESET);
    fadt.reset_value = ged::RESET_VALUE;
    fadt.sleep_control_reg = mmio(ged::REGISTERS_BASE + ged::SLEEP_CONTROL);
    fadt.sleep_status_reg = mmio(ged::REGISTERS_BASE + ged::SLEEP_STATUS);
    fadt.flag(Flags::HwReducedAcpi).flag(Flags::ResetRegSup)
}

/// One processor: an x2APIC entry where the ID does not fit the short one. One that is absent may come if processors are `pluggable`.
pub(super) fn processor(index: usize, processor: &Processor, pluggable: bool) -> Vec<u8> {
    let status = match (processor.present, pluggable) {
        (true, _) => EnabledStatus::Enabled,
        (false, true) => EnabledStatus::DisabledOnlineCapable,
        (false, false) => EnabledStatus::Disabled,
    };
    if processor.apic_id < FIRST_WIDE_ID {
        return bytes_of(&ProcessorLocalApic::new(index as u8, processor.apic_id as u8, status));
    }
    let mut entry = vec![9, 16, 0, 0];
    for word in [processor.apic_id, status as u32, index as u32] {
        entry.extend(word.to_le_bytes());
    }
    entry
}

/// An ISA interrupt that is not the input of the same number, edge and active high.
fn override_of(irq: u8, gsi: u32, flags: u16) -> Vec<u8> {
    let mut entry = vec![2, 10, 0, irq];
    entry.extend(gsi.to_le_bytes());
    entry.extend(flags.to_le_bytes());
    entry
}

/// The MADT: processors and interrupt controllers.
pub(super) fn madt(facts: &Facts) -> Vec<u8> {
    let second = facts.platform == Platform::Microvm { second_ioapic: true };
    let flags = if facts.platform.is_reduced() { 0 } else { MADT_PC_AT };
    let mut body: Vec<u8> = [LOCAL_APIC, flags].iter().flat_map(|word| word.to_le_bytes()).collect();
    let pluggable = facts.cpu_hotplug.is_some();
    body.extend(facts.processors.iter().enumerate().flat_map(|(index, p)| processor(index, p, pluggable)));
    body.extend(bytes_of(&IoApic::new(0, IOAPIC, 0)));
    if second {
        body.extend(bytes_of(&IoApic::new(1, SECOND_IOAPIC, IOAPIC_INPUTS)));
    }
    if !facts.platform.is_reduced() {
        body.extend(override_of(0, 2, 0));
        body.extend(LEVEL_INTERRUPTS.iter().flat_map(|&irq| override_of(irq, irq.into(), LEVEL_HIGH)));
    }
    // LINT1 of every processor is the NMI.
    if facts.processors.iter().any(|p| p.apic_id >= FIRST_WIDE_ID) {
        body.extend([10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    }
    body.extend([4, 6, 0xff, 0, 0, 1]);
    table(b"APIC", 3, &body)
}

/// Where configuration space is in memory.
pub(super) fn mcfg(facts: &Facts) -> Option<Vec<u8>> {
    (facts.platform == Platform::Q35).then(|| {
        let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        mcfg.add_ecam(ECAM_BASE, 0, 0, facts.last_bus);
        bytes_of(&mcfg)
    })
}

/// What an emulated machine does better than a real one.
pub(super) fn waet(facts: &Facts) -> Option<Vec<u8>> {
    (!facts.platform.is_reduced()).then(|| table(b"WAET", 1, &WAET_PM_TIMER.to_le_bytes()))
}
