//! The kernel's interrupt controllers as devices use them, and the table that says what each GSI means.
//!
//! GSIs 0–15 go to the PIC and the IOAPIC (0 to its input 2), 16–23 to the IOAPIC; GSIs from 24 up are handed out, lowest free
//! first, to messages that a kernel or another process sends by writing to an eventfd (irqfd). A message that we
//! send ourselves needs no GSI (`KVM_SIGNAL_MSI`), so a route takes one only when an event is connected to it.

use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::VmFd;
use qapi::Error;
use vmm_sys_util::eventfd::EventFd;

use super::{lock, os_error};
use crate::irq::{GSI_COUNT, LineCounter};
use crate::{IrqChip, LineStatistics, MsiMessage, MsiRoute};

/// Lines of the PIC pair.
const PIC_LINES: u32 = 16;

/// The messages behind the GSIs that were handed out.
#[derive(Debug, Default)]
struct RouteTable {
    /// By GSI less [`GSI_COUNT`].
    messages: Vec<Option<MsiMessage>>,
    /// GSIs that the kernel can have.
    max: usize,
}

impl RouteTable {
    fn allocate(&mut self, message: MsiMessage) -> Option<u32> {
        let index = match self.messages.iter().position(Option::is_none) {
            Some(index) => index,
            None if GSI_COUNT as usize + self.messages.len() < self.max => {
                self.messages.push(None);
                self.messages.len() - 1
            }
            None => return None,
        };
        self.messages[index] = Some(message);
        Some(GSI_COUNT + index as u32)
    }

    fn slot(&mut self, gsi: u32) -> &mut Option<MsiMessage> {
        &mut self.messages[(gsi - GSI_COUNT) as usize]
    }

    fn free(&mut self, gsi: u32) {
        *self.slot(gsi) = None;
        while self.messages.last().is_some_and(Option::is_none) {
            self.messages.pop();
        }
    }

    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let messages =
            self.messages.iter().zip(GSI_COUNT..).filter_map(|(message, gsi)| Some((gsi, (*message)?)));
        legacy_entries().chain(messages.map(|(gsi, message)| message_entry(gsi, message))).collect()
    }
}

fn pin_entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn message_entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    entry
}

fn legacy_entries() -> impl Iterator<Item = kvm_irq_routing_entry> {
    // Input 2 of the master is where the slave hangs.
    let pic = (0..16).filter(|gsi| *gsi != 2).map(|gsi| match gsi {
        0..8 => pin_entry(gsi, KVM_IRQCHIP_PIC_MASTER, gsi),
        _ => pin_entry(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8),
    });
    let ioapic = (0..GSI_COUNT).filter(|gsi| *gsi != 2).map(|gsi| {
        let pin = if gsi == 0 { 2 } else { gsi };
        pin_entry(gsi, KVM_IRQCHIP_IOAPIC, pin)
    });
    pic.chain(ioapic)
}

/// See the module documentation.
pub(crate) struct KvmIrqChip {
    vm: Arc<VmFd>,
    state: Mutex<ChipTable>,
    counter: LineCounter,
}

struct ChipTable {
    routes: RouteTable,
    changes: u64,
}

impl KvmIrqChip {
    /// `max` is `KVM_CAP_IRQ_ROUTING`.
    pub(crate) fn new(vm: Arc<VmFd>, max: usize) -> Arc<Self> {
        let routes = RouteTable { messages: Vec::new(), max };
        let state = Mutex::new(ChipTable { routes, changes: 0 });
        Arc::new(Self { vm, state, counter: LineCounter::default() })
    }

    /// Replaces the kernel's own table by ours, before the first vCPU runs.
    pub(crate) fn start(&self) {
        let mut state = lock(&self.state);
        if state.changes == 0
            && let Err(error) = self.load(&mut state)
        {
            tracing::error!(%error, "cannot set the interrupt routes");
        }
    }

    pub(crate) fn routing_changes(&self) -> u64 {
        lock(&self.state).changes
    }

    /// Gives the kernel the whole table: that is how its interface works.
    fn load(&self, state: &mut ChipTable) -> Result<(), kvm_ioctls::Error> {
        let table = KvmIrqRouting::from_entries(&state.routes.entries())
            .map_err(|_| kvm_ioctls::Error::new(libc::ENOSPC))?;
        state.changes += 1;
        trace::emit!(kvm_irqchip_commit_routes);
        self.vm.set_gsi_routing(&table)
    }
}

/// The error of a routing or irqfd ioctl.
fn irq_error(what: &str, error: kvm_ioctls::Error) -> Error {
    Error::generic(format!("{what}: {}", qapi::strerror(&os_error(error))))
}

/// What devices hold.
impl IrqChip for KvmIrqChip {
    fn set_gsi(&self, gsi: u32, level: bool) {
        if gsi >= GSI_COUNT {
            return;
        }
        self.counter.set(gsi, level);
        if let Err(error) = self.vm.set_irq_line(gsi, level) {
            tracing::error!(%error, gsi, "cannot set an interrupt line");
        }
    }

    fn send_msi(&self, message: MsiMessage) {
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..Default::default()
        };
        // The guest chooses the message; nobody being there to take it is no error of ours.
        if let Err(error) = self.vm.signal_msi(msi) {
            trace::emit!(pliant_kvm_msi_lost, message.address, message.data, error);
        }
    }

    fn msi_route(self: Arc<Self>, message: MsiMessage) -> qapi::Result<Box<dyn MsiRoute>> {
        Ok(Box::new(KvmRoute {
            chip: self,
            state: Mutex::new(RouteState { message, gsi: None, event: None }),
        }))
    }

    fn statistics(&self) -> Vec<LineStatistics> {
        let of = |controller, lines| LineStatistics { controller, raised: self.counter.raised(lines) };
        vec![of("kvm-i8259", PIC_LINES), of("kvm-ioapic", GSI_COUNT)]
    }
}

struct KvmRoute {
    chip: Arc<KvmIrqChip>,
    state: Mutex<RouteState>,
}

struct RouteState {
    message: MsiMessage,
    /// Taken when an event is first connected.
    gsi: Option<u32>,
    event: Option<Arc<EventFd>>,
}

impl MsiRoute for KvmRoute {
    fn update(&self, message: MsiMessage) -> qapi::Result<()> {
        let mut state = lock(&self.state);
        if let Some(gsi) = state.gsi
            && state.message != message
        {
            let mut chip = lock(&self.chip.state);
            *chip.routes.slot(gsi) = Some(message);
            trace::emit!(kvm_irqchip_update_msi_route, gsi);
            if let Err(error) = self.chip.load(&mut chip) {
                *chip.routes.slot(gsi) = Some(state.message);
                return Err(irq_error("KVM_SET_GSI_ROUTING", error));
            }
        }
        state.message = message;
        Ok(())
    }

    fn trigger(&self) {
        let message = lock(&self.state).message;
        self.chip.send_msi(message);
    }

    fn connect(&self, event: &Arc<EventFd>) -> qapi::Result<()> {
        let mut state = lock(&self.state);
        self.take_event(&mut state);
        let gsi = match state.gsi {
            Some(gsi) => gsi,
            None => {
                let gsi = self.chip.take_gsi(state.message)?;
                state.gsi = Some(gsi);
                gsi
            }
        };
        self.chip.vm.register_irqfd(event, gsi).map_err(|error| irq_error("KVM_IRQFD", error))?;
        state.event = Some(Arc::clone(event));
        Ok(())
    }

    fn disconnect(&self) {
        self.take_event(&mut lock(&self.state));
    }
}

impl KvmRoute {
    /// Disconnects the event. The number is kept: a vector that is masked now is unmasked soon, and giving the kernel another table
    /// costs more than an entry.
    fn take_event(&self, state: &mut RouteState) {
        if let (Some(gsi), Some(event)) = (state.gsi, state.event.take())
            && let Err(error) = self.chip.vm.unregister_irqfd(&event, gsi)
        {
            tracing::error!(%error, gsi, "cannot take an irqfd back");
        }
    }
}

impl KvmIrqChip {
    /// A number for a message, known to the kernel.
    fn take_gsi(&self, message: MsiMessage) -> qapi::Result<u32> {
        let mut chip = lock(&self.state);
        let gsi =
            chip.routes.allocate(message).ok_or_else(|| Error::generic("no interrupt route is left"))?;
        match self.load(&mut chip) {
            Ok(()) => {
                trace::emit!(kvm_irqchip_add_msi_route, message.address, message.data, gsi);
                Ok(gsi)
            }
            Err(error) => {
                chip.routes.free(gsi);
                Err(irq_error("KVM_SET_GSI_ROUTING", error))
            }
        }
    }
}

impl Drop for KvmRoute {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        // First: a stray write must not deliver what the number means next.
        self.take_event(&mut state);
        if let Some(gsi) = state.gsi.take() {
            trace::emit!(kvm_irqchip_release_virq, gsi);
            // The kernel's table still has the entry; the next change drops it, and nothing can trigger it.
            lock(&self.chip.state).routes.free(gsi);
        }
    }
}

#[cfg(test)]
mod tests;
