//! PIC pair, IOAPIC and PIT as they are in a stream. Names are QEMU's.
//!
//! Not saved: where the IOAPIC is, which the board decides; which inputs of a PIC can be level triggered, which the chip does; when the
//! PIT's counters were loaded, which is a time of the host's: they count anew from the moment when they are loaded.

#![expect(unsafe_code, reason = "the kernel's structures are unions")]

use std::sync::Arc;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_ioapic_state,
    kvm_ioapic_state__bindgen_ty_1, kvm_pic_state, kvm_pit_channel_state, kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use vmstate::{LoadError, Result, Section, StateShape, VmState as _, vmstate};

use crate::kvm::state::chip;
use crate::kvm::{Shared, os_error};

type KvmResult<T> = std::result::Result<T, kvm_ioctls::Error>;

/// The longest that a counter of the PIT counts.
const MAX_COUNT: u32 = 0x1_0000;
/// The highest mode of a counter.
const MAX_MODE: u8 = 5;

vmstate! {
    /// One of the two 8259A.
    pub(super) struct PicState: "i8259", version 1 {
        last_irr: u8,
        irr: u8,
        imr: u8,
        isr: u8,
        priority_add: u8,
        irq_base: u8,
        read_reg_select: u8,
        poll: u8,
        special_mask: u8,
        init_state: u8,
        auto_eoi: u8,
        rotate_on_auto_eoi: u8,
        special_fully_nested_mode: u8,
        init4: u8,
        elcr: u8,
    }
}

vmstate! {
    /// The IOAPIC.
    pub(super) struct IoApicState: "ioapic", version 1 {
        id: u8,
        ioregsel: u8,
        irr: u32,
        ioredtbl: [u64; 24],
    }
}

vmstate! {
    /// One counter of the PIT.
    pub(super) struct PitChannel: "pit channel", version 1 {
        count: u32,
        latched_count: u16,
        count_latched: u8,
        status_latched: u8,
        status: u8,
        read_state: u8,
        write_state: u8,
        write_latch: u8,
        rw_mode: u8,
        mode: u8,
        bcd: u8,
        gate: u8,
    }
}

vmstate! {
    /// The PIT.
    pub(super) struct PitState: "i8254", version 1 {
        channels: [PitChannel; 3],
        /// The kernel's: whether a HPET has taken its first counter's place, whether its speaker is a dummy, whether that is on.
        flags: u32,
    }
}

/// What [`sections`] consist of.
pub(super) fn declared() -> [StateShape; 3] {
    [PicState::declared(), IoApicState::declared(), PitState::declared()]
}

pub(super) fn sections(shared: &Arc<Shared>) -> Vec<Section> {
    let mut all =
        vec![pic(shared, KVM_IRQCHIP_PIC_MASTER), pic(shared, KVM_IRQCHIP_PIC_SLAVE), ioapic(shared)];
    if !shared.omits_pit() {
        all.push(pit(shared));
    }
    all
}

/// What is told of a chip that cannot be read is its power-on state.
fn or_default<T: Default>(result: KvmResult<T>) -> T {
    result
        .inspect_err(|error| tracing::error!(%error, "an interrupt controller cannot be read"))
        .unwrap_or_default()
}

fn refused(what: &str, error: kvm_ioctls::Error) -> LoadError {
    LoadError::invalid(format!("{what} failed: {}", qapi::strerror(&os_error(error))))
}

fn pic(shared: &Arc<Shared>, id: u32) -> Section {
    let (from, to) = (Arc::clone(shared), Arc::clone(shared));
    Section::new(
        move || PicState::from(or_default(read_pic(&from.vm, id))),
        move |state: PicState| {
            let load = || {
                let mut new = chip(&to.vm, id)?;
                // SAFETY: the kernel filled this member, since a PIC was asked for; integers of any value are valid.
                let old = unsafe { new.chip.pic };
                new.chip.pic = state.over(&old);
                to.vm.set_irqchip(&new)
            };
            load().map_err(|error| refused("KVM_SET_IRQCHIP", error))
        },
    )
}

fn read_pic(vm: &VmFd, id: u32) -> KvmResult<kvm_pic_state> {
    let chip = chip(vm, id)?;
    // SAFETY: as in `pic`.
    Ok(unsafe { chip.chip.pic })
}

impl From<kvm_pic_state> for PicState {
    fn from(state: kvm_pic_state) -> Self {
        let kvm_pic_state {
            last_irr,
            irr,
            imr,
            isr,
            priority_add,
            irq_base,
            read_reg_select,
            poll,
            special_mask,
            init_state,
            auto_eoi,
            rotate_on_auto_eoi,
            special_fully_nested_mode,
            init4,
            elcr,
            elcr_mask: _,
        } = state;
        Self {
            last_irr,
            irr,
            imr,
            isr,
            priority_add,
            irq_base,
            read_reg_select,
            poll,
            special_mask,
            init_state,
            auto_eoi,
            rotate_on_auto_eoi,
            special_fully_nested_mode,
            init4,
            elcr,
        }
    }
}

impl PicState {
    /// This state in the chip that has `old`.
    fn over(self, old: &kvm_pic_state) -> kvm_pic_state {
        let Self {
            last_irr,
            irr,
            imr,
            isr,
            priority_add,
            irq_base,
            read_reg_select,
            poll,
            special_mask,
            init_state,
            auto_eoi,
            rotate_on_auto_eoi,
            special_fully_nested_mode,
            init4,
            elcr,
        } = self;
        kvm_pic_state {
            last_irr,
            irr,
            imr,
            isr,
            priority_add: priority_add & 7,
            irq_base,
            read_reg_select,
            poll,
            special_mask,
            init_state,
            auto_eoi,
            rotate_on_auto_eoi,
            special_fully_nested_mode,
            init4,
            elcr: elcr & old.elcr_mask,
            elcr_mask: old.elcr_mask,
        }
    }
}

fn ioapic(shared: &Arc<Shared>) -> Section {
    let (from, to) = (Arc::clone(shared), Arc::clone(shared));
    Section::new(
        move || {
            let state = or_default(read_ioapic(&from.vm));
            // SAFETY: both members of the union are the same 64 bits.
            let ioredtbl = state.redirtbl.map(|entry| unsafe { entry.bits });
            IoApicState { id: state.id as u8, ioregsel: state.ioregsel as u8, irr: state.irr, ioredtbl }
        },
        move |IoApicState { id, ioregsel, irr, ioredtbl }: IoApicState| {
            let load = || {
                let mut new = chip(&to.vm, KVM_IRQCHIP_IOAPIC)?;
                // SAFETY: as in `read_ioapic`.
                let base_address = unsafe { new.chip.ioapic.base_address };
                new.chip.ioapic = kvm_ioapic_state {
                    base_address,
                    ioregsel: ioregsel.into(),
                    id: id.into(),
                    irr,
                    pad: 0,
                    redirtbl: ioredtbl.map(|bits| kvm_ioapic_state__bindgen_ty_1 { bits }),
                };
                to.vm.set_irqchip(&new)
            };
            load().map_err(|error| refused("KVM_SET_IRQCHIP", error))
        },
    )
}

fn read_ioapic(vm: &VmFd) -> KvmResult<kvm_ioapic_state> {
    let chip = chip(vm, KVM_IRQCHIP_IOAPIC)?;
    // SAFETY: the kernel filled this member, since the IOAPIC was asked for; integers of any value are valid.
    Ok(unsafe { chip.chip.ioapic })
}

fn pit(shared: &Arc<Shared>) -> Section {
    let (from, to) = (Arc::clone(shared), Arc::clone(shared));
    Section::new(
        move || {
            // A PIT that is made now is as it will be when the machine runs.
            let _reset = from.pit();
            let kvm_pit_state2 { channels, flags, reserved: _ } = or_default(from.vm.get_pit2());
            PitState { channels: channels.map(PitChannel::from), flags }
        },
        move |state: PitState| {
            let state = state.judged()?;
            let _reset = to.pit();
            to.vm.set_pit2(&state).map_err(|error| refused("KVM_SET_PIT2", error))
        },
    )
}

impl From<kvm_pit_channel_state> for PitChannel {
    fn from(state: kvm_pit_channel_state) -> Self {
        let kvm_pit_channel_state {
            count,
            latched_count,
            count_latched,
            status_latched,
            status,
            read_state,
            write_state,
            write_latch,
            rw_mode,
            mode,
            bcd,
            gate,
            count_load_time: _,
        } = state;
        Self {
            count,
            latched_count,
            count_latched,
            status_latched,
            status,
            read_state,
            write_state,
            write_latch,
            rw_mode,
            mode,
            bcd,
            gate,
        }
    }
}

impl PitState {
    /// For the kernel, if it can be.
    fn judged(self) -> Result<kvm_pit_state2> {
        let Self { channels, flags } = self;
        // 0xff is a counter that was never set.
        let wrong = channels.iter().any(|c| c.count > MAX_COUNT || (c.mode > MAX_MODE && c.mode != 0xff));
        if wrong {
            return Err(LoadError::invalid("a counter of the PIT cannot be like that"));
        }
        let channels = channels.map(|channel| {
            let PitChannel {
                count,
                latched_count,
                count_latched,
                status_latched,
                status,
                read_state,
                write_state,
                write_latch,
                rw_mode,
                mode,
                bcd,
                gate,
            } = channel;
            kvm_pit_channel_state {
                count,
                latched_count,
                count_latched,
                status_latched,
                status,
                read_state,
                write_state,
                write_latch,
                rw_mode,
                mode,
                bcd,
                gate,
                count_load_time: 0,
            }
        });
        Ok(kvm_pit_state2 { channels, flags, reserved: [0; 9] })
    }
}
