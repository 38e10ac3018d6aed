//! What firmware would have done before a guest starts: addresses for BARs, interrupt lines, power management ports.
//!
//! The places are those SeaBIOS chooses where that is simple: 32-bit memory ends at the I/O APIC, 64-bit memory starts at
//! three quarters of the physical address space (or above memory, if that is higher), ports start at c000h.

use std::sync::Arc;

use super::host_bridge::ECAM_BASE;
use super::layout::{AMD_HT_START, Layout};
use crate::core::bus::Bus as _;
use crate::pci::bridge::{Reserve, Window};
use crate::pci::bus::swizzle;
use crate::pci::config::{COMMAND_IO, COMMAND_MASTER, COMMAND_MEMORY, reg};
use crate::pci::device::config_write;
use crate::pci::{Bar, BarKind, PciBus, PciDevice};

const IO_START: u64 = 0xc000;
/// Where the windows of bridges for ports are: what is below 1000h and from a000h on belongs to the board.
const IO_WINDOWS_START: u64 = 0x1000;
const IO_WINDOWS_END: u64 = 0xa000;
/// The window for 64-bit BARs is told to be no larger.
const MEMORY64_MOST: u64 = 1 << 40;
/// Memory below 4 GiB ends here at the latest on `pc`.
const MEMORY32_LOWEST: u64 = 0xe000_0000;
/// Bytes of the window for configuration.
const ECAM_SIZE: u64 = 256 << 20;
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

/// Numbers the buses behind the bridges of `root`, gives every BAR an address and switches decoding on. Bus mastering is the driver's to
/// switch on, but for bridges.
pub fn assign_bars(root: &Arc<PciBus>, memory64: u64) {
    number_buses(root, 0, &|function, numbers| {
        for (register, number) in
            [reg::PRIMARY_BUS, reg::SECONDARY_BUS, reg::SUBORDINATE_BUS].into_iter().zip(numbers)
        {
            config_write(function, register, 1, number.into());
        }
    });
    let memory32 = Plan::of(root, Space::Memory32);
    // Above memory, and on q35 above the window for configuration.
    let lowest = if root.is_express() { ECAM_BASE + ECAM_SIZE } else { MEMORY32_LOWEST };
    let start = MEMORY32_END.saturating_sub(memory32.size()) & !(memory32.align() - 1);
    memory32.place(start.max(lowest), MEMORY32_END);
    Plan::of(root, Space::Memory64).place(memory64, 1 << 46);
    let (windows, bars): (Vec<_>, Vec<_>) =
        Plan::of(root, Space::Io).0.into_iter().partition(|r| matches!(r.what, What::Window(..)));
    Plan(bars).place(IO_START, 0x1_0000);
    Plan(windows).place(IO_WINDOWS_START, IO_WINDOWS_END);
    switch_on(root);
}

/// Gives the buses behind `bus`, whose number is `number`, those that follow, depth first, and returns the last one. `tell` hears of each bridge the numbers of
/// the bus before it, of that behind it and of the last that is behind it.
fn number_buses(bus: &PciBus, number: u8, tell: &impl Fn(&Arc<dyn PciDevice>, [u8; 3])) -> u8 {
    let mut last = number;
    for (function, bridge, behind) in bridges(bus) {
        let Some(next) = last.checked_add(1) else { break };
        let reserved = u8::try_from(bridge.buses.unwrap_or(0)).unwrap_or(0);
        last = number_buses(&behind, next, tell).max(next.saturating_add(reserved));
        tell(&function, [number, next, last]);
    }
    last
}

/// The last number that [`assign_bars`] gives to a bus.
pub fn last_bus(root: &PciBus) -> u8 {
    number_buses(root, 0, &|_, _| ())
}

fn bridges(bus: &PciBus) -> Vec<(Arc<dyn PciDevice>, Reserve, Arc<PciBus>)> {
    let part = |(_, f): (u8, Arc<dyn PciDevice>)| {
        let (reserve, bus) = (f.bridge()?.reserve(), f.bridge()?.bus()?);
        Some((f, reserve, bus))
    };
    bus.functions().into_iter().filter_map(part).collect()
}

/// Switches decoding on everywhere, and says where interrupt pins end.
fn switch_on(bus: &PciBus) {
    for (devfn, function) in bus.functions() {
        switch_on_one(bus, devfn, &function);
        if let Some(behind) = function.bridge().and_then(|b| b.bus()) {
            switch_on(&behind);
        }
    }
}

fn switch_on_one(bus: &PciBus, devfn: u8, function: &Arc<dyn PciDevice>) {
    let master = if function.bridge().is_some() { COMMAND_MASTER } else { 0 };
    let command = function.pci().with_config(|c| c.command()) | COMMAND_IO | COMMAND_MEMORY | master;
    config_write(function, reg::COMMAND, 2, command.into());
    let pin = function.pci().with_config(|c| c.read(reg::INTERRUPT_PIN, 1)) as u8;
    if let Some(line) = pin.checked_sub(1).and_then(|pin| line_of(bus, devfn >> 3, pin)) {
        config_write(function, reg::INTERRUPT_LINE, 1, line.into());
    }
}

/// The interrupt that a pin of a slot on any bus ends at.
fn line_of(bus: &PciBus, slot: u8, pin: u8) -> Option<u8> {
    let Some(bridge) = bus.bridge() else { return Some(interrupt_line(bus.is_express(), slot, pin)) };
    let (above, devfn) = bridge.pci().bus_and_devfn()?;
    line_of(&above, devfn >> 3, swizzle(slot, pin))
}

/// What addresses are given out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Space {
    Io,
    Memory32,
    Memory64,
}

impl Space {
    fn window(self) -> Window {
        match self {
            Self::Io => Window::Io,
            Self::Memory32 => Window::Memory,
            Self::Memory64 => Window::Prefetch,
        }
    }

    /// Whether a BAR is placed here; behind a bridge only what may be read ahead is in wide memory.
    fn takes(self, kind: BarKind, root: bool) -> bool {
        match kind {
            BarKind::Io => self == Self::Io,
            BarKind::Memory32 => self == Self::Memory32,
            BarKind::Memory64 { prefetch } if prefetch || root => self == Self::Memory64,
            BarKind::Memory64 { .. } => self == Self::Memory32,
        }
    }

    /// What a bridge behind which devices can be plugged is left, as SeaBIOS leaves it.
    fn spare(self) -> u64 {
        if self == Self::Io { 0x1000 } else { 2 << 20 }
    }
}

/// Something that needs addresses.
struct Request {
    size: u64,
    align: u64,
    what: What,
}

enum What {
    Bar(Arc<dyn PciDevice>, u8),
    /// A window of a bridge, and what lies in it.
    Window(Arc<dyn PciDevice>, Window, Plan),
}

/// What lies in one window, or in all of a space; largest alignment first, so that nothing is wasted. Equals stay in slot order.
struct Plan(Vec<Request>);

impl Plan {
    fn of(bus: &PciBus, space: Space) -> Self {
        let mut list = Vec::new();
        for (_, function) in bus.functions() {
            for bar in function.pci().bars().into_iter().filter(|b| space.takes(b.kind, bus.is_root())) {
                let what = What::Bar(Arc::clone(&function), bar.index);
                list.push(Request { size: bar.size, align: bar.align(), what });
            }
        }
        for (function, reserve, behind) in bridges(bus) {
            let inner = Self::of(&behind, space);
            let window = space.window();
            let asked = match space {
                Space::Io => reserve.io,
                Space::Memory32 => reserve.memory,
                Space::Memory64 => reserve.prefetch,
            };
            let spare = if behind.bus().is_hotpluggable() { space.spare() } else { 0 };
            let least = asked.unwrap_or(spare);
            let align = inner.align().max(window.unit());
            let size = inner.size().max(least).checked_next_multiple_of(window.unit());
            // More than there can be is left closed.
            let size = size.filter(|size| *size <= 1 << 46).unwrap_or(0);
            list.push(Request { size, align, what: What::Window(function, window, inner) });
        }
        list.sort_by_key(|r| std::cmp::Reverse((r.align, r.size)));
        Self(list)
    }

    fn align(&self) -> u64 {
        self.0.iter().map(|r| r.align).max().unwrap_or(1)
    }

    /// Bytes with what alignment costs.
    fn size(&self) -> u64 {
        self.0.iter().fold(0u64, |at, r| at.next_multiple_of(r.align).saturating_add(r.size))
    }

    /// Gives out addresses from `at`; what does not fit below `end` gets none.
    fn place(self, mut at: u64, end: u64) {
        for Request { size, align, what } in self.0 {
            let start = at.next_multiple_of(align);
            let fits = size > 0 && start.checked_add(size).is_some_and(|next| next <= end);
            match what {
                What::Bar(device, index) if fits => device.pci().assign_bar(index, start),
                What::Bar(..) => {}
                What::Window(device, window, inner) => {
                    let range = fits.then(|| (start, start + size - 1));
                    device.pci().with_config(|config| window.assign(config, range));
                    if fits {
                        inner.place(start, start + size);
                    }
                }
            }
            if fits {
                at = start + size;
            }
        }
    }
}

/// Gives the BARs of one device that was added later addresses that no other has: on the root bus beside those of the others, behind a
/// bridge in its windows.
pub fn assign_late(device: &Arc<dyn PciDevice>, memory64: u64) {
    let Some((bus, devfn)) = device.pci().bus_and_devfn() else { return };
    let mut taken: Vec<(BarKind, u64, u64)> = Vec::new();
    for (_, function) in bus.functions() {
        let bars = function.pci().bars().into_iter();
        taken.extend(bars.filter_map(|bar| Some((bar.kind, bar.mapped?, bar.size))));
        if function.bridge().is_some() {
            let windows = function.pci().with_config(|c| Window::ALL.map(|w| w.range(c)));
            let kinds = [BarKind::Io, BarKind::Memory32, BarKind::Memory64 { prefetch: true }];
            let open = kinds.into_iter().zip(windows).filter(|(_, (first, last))| first <= last);
            taken.extend(open.map(|(kind, (first, last))| (kind, first, last - first + 1)));
        }
    }
    for bar in device.pci().bars() {
        let address = match bus.bridge() {
            Some(bridge) => late_in_window(&bridge, &bar, &taken),
            None => Some(late_on_root(&bar, &taken, memory64)),
        };
        if let Some(address) = address {
            device.pci().assign_bar(bar.index, address);
            taken.push((bar.kind, address, bar.size));
        }
    }
    switch_on_one(&bus, devfn, device);
}

/// The lowest place in the bridge's window that nothing is in.
fn late_in_window(bridge: &Arc<dyn PciDevice>, bar: &Bar, taken: &[(BarKind, u64, u64)]) -> Option<u64> {
    let spaces = [Space::Io, Space::Memory32, Space::Memory64];
    let window = spaces.into_iter().find(|space| space.takes(bar.kind, false))?.window();
    let (first, last) = bridge.pci().with_config(|config| window.range(config));
    let is_io = bar.kind == BarKind::Io;
    let mut at = first.max(1).next_multiple_of(bar.align());
    // Every step passes one that is taken.
    for _ in 0..=taken.len() {
        let end = at.checked_add(bar.size - 1).filter(|end| *end <= last)?;
        let hit = taken.iter().find(|(k, a, s)| (*k == BarKind::Io) == is_io && *a <= end && at < *a + *s);
        let Some((_, start, size)) = hit else { return Some(at) };
        at = (start + size).next_multiple_of(bar.align());
    }
    None
}

fn late_on_root(bar: &Bar, taken: &[(BarKind, u64, u64)], memory64: u64) -> u64 {
    let wide = matches!(bar.kind, BarKind::Memory64 { .. });
    let mut others = taken.iter().filter(|(kind, _, _)| matches!(kind, BarKind::Memory64 { .. }) == wide);
    match bar.kind {
        BarKind::Memory32 => {
            let lowest = others.filter(|(k, _, _)| *k == BarKind::Memory32).map(|(_, a, _)| *a).min();
            (lowest.unwrap_or(MEMORY32_END) - bar.size) & !(bar.align() - 1)
        }
        BarKind::Memory64 { .. } => {
            others.by_ref().map(|(_, a, s)| a + s).max().unwrap_or(memory64).next_multiple_of(bar.align())
        }
        BarKind::Io => {
            let highest =
                others.filter(|(k, a, _)| *k == BarKind::Io && *a >= IO_START).map(|(_, a, s)| a + s).max();
            highest.unwrap_or(IO_START).next_multiple_of(bar.align())
        }
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

    use crate::core::Machine;
    use crate::testing::{Rig, config};

    const WIDE: u64 = 0x80_0000_0000;

    fn enumerated(kind: &str, devices: &[&str]) -> (Rig, Arc<PciBus>) {
        let backend = |machine: &Arc<Machine>| {
            let size = qapi::Value::from(1u64 << 30);
            let object = machine.tree().create_user_object(
                "memory-backend-ram",
                "mem0",
                [("size", qom::Input::Json(&size))],
            );
            object.map(drop)
        };
        let rig = Rig::build_with(config(kind), backend).unwrap();
        devices.iter().for_each(|device| drop(rig.add(device).unwrap()));
        rig.machine.finish().unwrap();
        let bus = rig.machine.board().and_then(|board| board.pci_bus()).unwrap();
        assign_bars(&bus, WIDE);
        (rig, bus)
    }

    fn numbers(function: &Arc<dyn PciDevice>) -> [u32; 3] {
        let read = |at| function.pci().with_config(|c| c.read(at, 1));
        [reg::PRIMARY_BUS, reg::SECONDARY_BUS, reg::SUBORDINATE_BUS].map(read)
    }

    fn windows(function: &Arc<dyn PciDevice>) -> [(u64, u64); 3] {
        function.pci().with_config(|c| Window::ALL.map(|w| w.range(c)))
    }

    #[test]
    fn buses_are_numbered_depth_first_and_bars_lie_in_the_windows() {
        let (rig, bus) = enumerated(
            "q35",
            &[
                "pcie-root-port,id=rp0,chassis=1",
                "pcie-pci-bridge,id=br0,bus=rp0",
                "virtio-mem-pci,id=vm0,memdev=mem0,bus=br0,addr=3",
                "pcie-root-port,id=rp1,chassis=2,bus-reserve=2,pref64-reserve=1G",
                "pcie-root-port,id=rp2,chassis=3,hotplug=off",
            ],
        );
        let port = |slot: u8| bus.function(slot << 3).unwrap();
        let behind = port(1).bridge().unwrap().bus().unwrap();
        let bridge = behind.function(0).unwrap();
        assert_eq!(
            [port(1), bridge.clone(), port(2), port(3)].map(|f| numbers(&f)),
            [[0, 1, 2], [1, 2, 2], [0, 3, 5], [0, 6, 6]]
        );
        assert_eq!(last_bus(&bus), 6);
        let device = bridge.bridge().unwrap().bus().unwrap().function(3 << 3).unwrap();
        for (outer, inner) in windows(&port(1)).iter().zip(windows(&bridge)) {
            assert!(outer.0 <= inner.0 && inner.1 <= outer.1, "{outer:x?} has {inner:x?}");
        }
        for bar in device.pci().bars() {
            let window = windows(&bridge)[if bar.kind == BarKind::Memory32 { 1 } else { 2 }];
            let at = bar.mapped.unwrap();
            assert!(window.0 <= at && at + bar.size - 1 <= window.1, "{bar:?} in {window:x?}");
            let (value, _) = rig.machine.system_space().read_uint(at + 12, 4);
            assert!(bar.index != 1 || value == 1, "the table is seen through both bridges");
        }
        let [io, memory, prefetch] = windows(&port(2));
        assert_eq!((memory.1 - memory.0 + 1, prefetch.1 - prefetch.0 + 1), (2 << 20, 1 << 30));
        assert!(io.0 >= 0x1000 && io.1 < 0xa000 && memory.1 < MEMORY32_END && prefetch.0 >= WIDE);
        // Nothing is there and nothing can come.
        assert!(windows(&port(3)).iter().all(|(first, last)| first > last));
        // Slot 3 behind a bridge in slot 0 behind a port in slot 1, each turning the pin.
        let line = device.pci().with_config(|c| c.read(reg::INTERRUPT_LINE, 1));
        assert_eq!(line, u32::from(interrupt_line(true, 1, 3)));
    }

    #[test]
    fn a_window_for_which_there_is_no_room_stays_closed() {
        let (_rig, bus) = enumerated(
            "q35",
            &["pcie-root-port,id=rp0,chassis=1,mem-reserve=3G", "pcie-root-port,id=rp1,chassis=2"],
        );
        let memory = |slot: u8| windows(&bus.function(slot << 3).unwrap())[1];
        assert!(memory(1).0 > memory(1).1);
        assert!(memory(2).0 <= memory(2).1, "the other one is open");
    }

    #[test]
    fn what_is_plugged_later_lands_in_the_window() {
        let (rig, bus) = enumerated("q35", &["pcie-root-port,id=rp0,chassis=1"]);
        rig.machine.start();
        let device = rig.add("virtio-mem-pci,id=vm0,memdev=mem0,bus=rp0").unwrap();
        let device = qom::cast::<dyn PciDevice>(&(device as qom::ObjectRef)).unwrap();
        assign_late(&device, WIDE);
        let port = bus.function(1 << 3).unwrap();
        for bar in device.pci().bars() {
            let window = windows(&port)[if bar.kind == BarKind::Memory32 { 1 } else { 2 }];
            let at = bar.mapped.unwrap();
            assert!(window.0 <= at && at + bar.size - 1 <= window.1, "{bar:?} in {window:x?}");
        }
    }

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
