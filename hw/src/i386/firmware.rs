//! What firmware would have done before a guest starts: addresses for BARs, interrupt lines, power management ports.
//!
//! The places are those SeaBIOS chooses where that is simple: 32-bit memory ends at the I/O APIC, 64-bit memory starts at
//! three quarters of the physical address space (or above memory, if that is higher), ports start at c000h.

use std::sync::Arc;

use super::layout::{AMD_HT_START, Layout};
use crate::pci::config::{COMMAND_IO, COMMAND_MEMORY, reg};
use crate::pci::device::config_write;
use crate::pci::{Bar, BarKind, PciBus, PciDevice};

const IO_START: u64 = 0xc000;
/// The window for 64-bit BARs is told to be no larger.
const MEMORY64_MOST: u64 = 1 << 40;
const MEMORY32_END: u64 = 0xfec0_0000;
/// Interrupts that pins are routed to, in turn.
const PIRQ_INTERRUPTS: [u8; 4] = [10, 10, 11, 11];

/// Where 64-bit BARs start: `hole64` is the first address above memory, `phys_bits` the processor's.
pub fn memory64_start(hole64: u64, phys_bits: u32) -> u64 {
    // SeaBIOS looks no further than 46 bits.
    let top = 1u64 << phys_bits.clamp(36, 46);
    hole64.max(top - top / 4)
}

/// First and last address of the window for 64-bit BARs: from where they start, as much as the processor can address, up to
/// 1 TiB of it and short of what AMD processors keep for themselves, and never less than the layout has.
pub fn memory64_window(layout: &Layout, phys_bits: u32) -> (u64, u64) {
    let start = memory64_start(layout.pci_hole64.0, phys_bits);
    let least = start + layout.pci_hole64.1;
    let top = (1u64 << phys_bits.clamp(36, 46)).min(start.saturating_add(MEMORY64_MOST));
    let reserved = if start < AMD_HT_START { AMD_HT_START } else { u64::MAX };
    (start, top.min(reserved).max(least) - 1)
}

/// Gives every BAR on `bus` an address and switches decoding on. Bus mastering is the driver's to switch on.
pub fn assign_bars(bus: &PciBus, memory64: u64) {
    let functions = bus.functions();
    let bars = |wanted: fn(BarKind) -> bool| {
        let mut list: Vec<(Arc<dyn PciDevice>, Bar)> = functions
            .iter()
            .flat_map(|(_, f)| f.pci().bars().into_iter().map(|bar| (Arc::clone(f), bar)))
            .filter(|(_, bar)| wanted(bar.kind))
            .collect();
        // Largest first: then each is aligned by itself. Sorting is stable, so equals stay in slot order.
        list.sort_by_key(|(_, bar)| std::cmp::Reverse(bar.size));
        list
    };
    place(bars(|k| k == BarKind::Io), IO_START);
    let memory32 = bars(|k| k == BarKind::Memory32);
    let total: u64 = memory32.iter().map(|(_, bar)| bar.size).sum();
    let largest = memory32.first().map_or(1, |(_, bar)| bar.size);
    place(memory32, MEMORY32_END.saturating_sub(total) & !(largest - 1));
    place(bars(|k| matches!(k, BarKind::Memory64 { .. })), memory64);
    for (devfn, function) in &functions {
        let command = function.pci().with_config(|c| c.command()) | COMMAND_IO | COMMAND_MEMORY;
        config_write(function, reg::COMMAND, 2, command.into());
        let pin = function.pci().with_config(|c| c.read(reg::INTERRUPT_PIN, 1)) as u8;
        if let Some(pin) = pin.checked_sub(1) {
            let line = interrupt_line(bus.is_express(), devfn >> 3, pin);
            config_write(function, reg::INTERRUPT_LINE, 1, line.into());
        }
    }
}

/// Gives the BARs of one device that was added later addresses that no other has.
pub fn assign_late(bus: &PciBus, device: &Arc<dyn PciDevice>, memory64: u64) {
    let taken: Vec<(BarKind, u64, u64)> = bus
        .functions()
        .iter()
        .flat_map(|(_, f)| f.pci().bars())
        .filter_map(|bar| Some((bar.kind, bar.mapped?, bar.size)))
        .collect();
    for bar in device.pci().bars() {
        let wide = matches!(bar.kind, BarKind::Memory64 { .. });
        let mut others = taken.iter().filter(|(kind, _, _)| matches!(kind, BarKind::Memory64 { .. }) == wide);
        let address = match bar.kind {
            BarKind::Memory32 => {
                let lowest = others.filter(|(k, _, _)| *k == BarKind::Memory32).map(|(_, a, _)| *a).min();
                (lowest.unwrap_or(MEMORY32_END) - bar.size) & !(bar.size - 1)
            }
            BarKind::Memory64 { .. } => {
                others.by_ref().map(|(_, a, s)| a + s).max().unwrap_or(memory64).next_multiple_of(bar.size)
            }
            BarKind::Io => {
                let highest = others.filter(|(k, _, _)| *k == BarKind::Io).map(|(_, a, s)| a + s).max();
                highest.unwrap_or(IO_START).next_multiple_of(bar.size)
            }
        };
        device.pci().assign_bar(bar.index, address);
    }
    let command = device.pci().with_config(|c| c.command()) | COMMAND_IO | COMMAND_MEMORY;
    config_write(device, reg::COMMAND, 2, command.into());
}

fn place(list: Vec<(Arc<dyn PciDevice>, Bar)>, mut at: u64) {
    for (device, bar) in list {
        at = at.next_multiple_of(bar.size);
        device.pci().assign_bar(bar.index, at);
        at += bar.size;
    }
}

/// The interrupt that pin `pin` (0 for INTA#) of `slot` ends at.
pub fn interrupt_line(q35: bool, slot: u8, pin: u8) -> u8 {
    let line = if q35 {
        if slot < 25 { pin.wrapping_add(slot) } else { pin }
    } else {
        pin.wrapping_add(slot).wrapping_sub(1)
    };
    PIRQ_INTERRUPTS[usize::from(line & 3)]
}

/// Values of the routing registers PIRQA to PIRQD (and E to H).
pub fn routes() -> [u8; 4] {
    PIRQ_INTERRUPTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupt_lines_are_seabios() {
        assert_eq!([1, 2, 31].map(|slot| interrupt_line(true, slot, 0)), [10, 11, 10]);
        assert_eq!([2, 3].map(|slot| interrupt_line(false, slot, 0)), [10, 11]);
    }

    #[test]
    fn the_wide_window_starts_at_three_quarters() {
        assert_eq!(memory64_start(0x5_8000_0000, 40), 0xc0_0000_0000);
        assert_eq!(memory64_start(0x204_0000_0000, 40), 0x204_0000_0000);
        assert_eq!(memory64_start(0, 57), 0x3000_0000_0000);
    }
}
