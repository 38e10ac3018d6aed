//! The slot of a port as a state machine (PCI Express 3.0 §6.7, §7.8.10, §7.8.11): what is told to the guest, and when it let go of what is
//! in the slot. Knows no devices and no configuration space.

/// Status and enable bit: the attention button was pressed.
pub const BUTTON: u16 = 1 << 0;
/// Status and enable bit: something was put in or taken out.
pub const PRESENCE_CHANGED: u16 = 1 << 3;
/// Status and enable bit: a write to the control register was carried out.
pub const COMPLETED: u16 = 1 << 4;
/// Status: something is in the slot.
pub const PRESENT: u16 = 1 << 6;
/// Status: the lock is engaged.
pub const LOCKED: u16 = 1 << 7;
/// Status bits that interrupt, and that ones clear.
const EVENTS: u16 = 0x1f;
/// Those that a port of ours has.
pub const SHOWN_EVENTS: u16 = BUTTON | PRESENCE_CHANGED | COMPLETED;
/// Control: events interrupt.
pub const INTERRUPTS: u16 = 1 << 5;
const ATTENTION_OFF: u16 = 3 << 6;
const INDICATOR: u16 = 3 << 8;
const INDICATOR_BLINKS: u16 = 2 << 8;
/// Control: the power indicator is off.
pub const INDICATOR_OFF: u16 = 3 << 8;
/// Control: the slot has no power.
pub const POWER_OFF: u16 = 1 << 10;
const TOGGLE_LOCK: u16 = 1 << 11;
/// Control bits that are kept.
const CONTROL: u16 = 0x07f9;

/// Capabilities: number in bits 19 and up, the rest says what the slot has.
pub fn capabilities(number: u16, hotplug: bool, power_controller: bool) -> u32 {
    // Attention button, both indicators, the lock; surprise removal and hot-plug; the power controller.
    let base = 0x0002_0019 | u32::from(number & 0x1fff) << 19;
    base | if hotplug { 0x60 } else { 0 } | if power_controller { 2 } else { 0 }
}

/// Control and status of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The control register.
    pub control: u16,
    /// The status register.
    pub status: u16,
    /// Whether the guest can switch power.
    pub power_controller: bool,
}

impl Slot {
    /// An empty slot.
    pub fn new(power_controller: bool) -> Self {
        let mut slot = Self { control: 0, status: 0, power_controller };
        slot.reset(false);
        slot
    }

    /// Power-on state; a slot with something in it has power.
    pub fn reset(&mut self, populated: bool) {
        self.control = ATTENTION_OFF | INDICATOR_OFF;
        if self.power_controller && !populated {
            self.control |= POWER_OFF;
        }
        self.status &= PRESENT;
    }

    /// The slot whose registers are these, of which bits that mean nothing are left out.
    pub fn from_registers(control: u16, status: u16, power_controller: bool) -> Self {
        let control = control & Self::writable(power_controller);
        Self { control, status: status & (EVENTS | PRESENT | LOCKED), power_controller }
    }

    /// Control bits that are kept when the guest writes them.
    pub fn writable(power_controller: bool) -> u16 {
        if power_controller { CONTROL } else { CONTROL & !POWER_OFF }
    }

    /// Whether what is in the slot works.
    pub fn has_power(&self) -> bool {
        !self.power_controller || self.control & POWER_OFF == 0
    }

    /// Whether the guest switched the slot off, so that nobody has to be asked before something is taken out.
    pub fn is_off(&self) -> bool {
        self.power_controller && self.control & POWER_OFF != 0 && self.control & INDICATOR == INDICATOR_OFF
    }

    /// Whether the guest is at work on the slot.
    pub fn is_busy(&self) -> bool {
        self.control & INDICATOR == INDICATOR_BLINKS
    }

    /// Whether the lock holds what is in the slot.
    pub fn is_locked(&self) -> bool {
        self.status & LOCKED != 0
    }

    /// Something was put in. `announce`: while the machine runs, and all functions of it are there.
    pub fn put_in(&mut self, announce: bool) {
        self.status |= PRESENT;
        if announce {
            self.status |= PRESENCE_CHANGED | BUTTON;
        }
    }

    /// The user wants something out.
    pub fn press_button(&mut self) {
        self.status |= BUTTON;
    }

    /// What was in the slot is out.
    pub fn taken_out(&mut self) {
        self.status = self.status & !PRESENT | PRESENCE_CHANGED;
    }

    /// Power for what somebody else plugged.
    pub fn switch_on(&mut self) {
        self.control &= !POWER_OFF;
    }

    /// A guest's write of the control register. Returns whether the guest let go of what is in the slot.
    pub fn write_control(&mut self, value: u16) -> bool {
        let was_off = self.is_off();
        self.control = value & Self::writable(self.power_controller);
        if value & TOGGLE_LOCK != 0 {
            self.status ^= LOCKED;
        }
        let empties = self.status & PRESENT != 0 && self.is_off() && !was_off;
        if empties {
            self.taken_out();
        }
        self.status |= COMPLETED;
        empties
    }

    /// What was in the slot is out again before the guest looked: nobody has to see to the button.
    pub fn withdrawn(&mut self) {
        self.taken_out();
        self.status &= !BUTTON;
    }

    /// A guest's write of the status register: ones clear events. As in QEMU nothing is cleared by a guest that clears what is not set, as
    /// some do when they start: it would lose what it has not seen.
    pub fn write_status(&mut self, value: u16) {
        if value & SHOWN_EVENTS & !self.status == 0 {
            self.status &= !(value & EVENTS);
        }
    }

    /// Whether the slot interrupts.
    pub fn interrupts(&self) -> bool {
        self.control & INTERRUPTS != 0 && self.status & self.control & EVENTS != 0
    }
}

#[cfg(test)]
mod tests;
