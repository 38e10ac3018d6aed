//! A vCPU's state as it is in a stream. Names are QEMU's, where it has such a field.

use kvm_bindings::{
    kvm_debugregs, kvm_dtable, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_sregs, kvm_vcpu_events, kvm_vcpu_events__bindgen_ty_1, kvm_vcpu_events__bindgen_ty_2,
    kvm_vcpu_events__bindgen_ty_3, kvm_vcpu_events__bindgen_ty_4, kvm_vcpu_events__bindgen_ty_5, kvm_xcr,
    kvm_xcrs, kvm_xsave,
};
use vmstate::{LoadError, Result, vmstate};

use super::nested;
use super::processor::Processor;
use crate::kvm::state::{Extent, LiveState, VcpuState};

/// Bytes of a local APIC's registers.
const LAPIC: usize = 1024;
/// Bytes of an XSAVE area, as far as it goes without the parts that a program has to ask the kernel for.
const XSAVE: usize = 4096;

vmstate! {
    /// A segment register.
    pub(in crate::kvm) struct SegmentState: "segment", version 1 {
        selector: u16,
        base: u64,
        limit: u32,
        /// Type, from bit 4 on: code or data, two bits of privilege, present; from bit 12 on: available, long, default size,
        /// granularity, unusable.
        flags: u32,
    }
}

vmstate! {
    /// GDTR or IDTR.
    pub(in crate::kvm) struct TableState: "segment-table", version 1 {
        base: u64,
        limit: u16,
    }
}

vmstate! {
    /// What a vCPU has to deliver, as the kernel tells it (`KVM_GET_VCPU_EVENTS`).
    pub(in crate::kvm) struct EventState: "cpu/events", version 1 {
        exception_injected: u8,
        exception_nr: u8,
        has_error_code: u8,
        exception_pending: u8,
        error_code: u32,
        exception_has_payload: u8,
        exception_payload: u64,
        interrupt_injected: u8,
        interrupt_nr: u8,
        soft_interrupt: u8,
        interrupt_shadow: u8,
        nmi_injected: u8,
        nmi_pending: u8,
        nmi_masked: u8,
        sipi_vector: u32,
        smm: u8,
        smi_pending: u8,
        smm_inside_nmi: u8,
        init_latched: u8,
        triple_fault_pending: u8,
        /// Which of these count.
        flags: u32,
    }
}

vmstate! {
    /// See the module.
    pub(in crate::kvm) struct CpuState: "cpu", version 1 {
        processor: Processor,
        /// Whether what follows is the vCPU's: the source could not read it.
        lost: bool,
        /// In the order of the architecture's numbers.
        regs: [u64; 16],
        rip: u64,
        rflags: u64,
        /// ES, CS, SS, DS, FS, GS, LDT, TR.
        segs: [SegmentState; 8],
        gdt: TableState,
        idt: TableState,
        cr0: u64,
        cr2: u64,
        cr3: u64,
        cr4: u64,
        cr8: u64,
        efer: u64,
        apic_base: u64,
        interrupt_bitmap: [u64; 4],
        dr: [u64; 4],
        dr6: u64,
        dr7: u64,
        mp_state: u32,
        /// 0 if there is no such register.
        xcr0: u64,
        xsave: [u8; XSAVE],
        events: EventState,
        lapic: [u8; LAPIC],
        msr_indices: Vec<u32>,
        msr_values: Vec<u64>,
        /// What it is to guests of its own, as the kernel has it (`KVM_GET_NESTED_STATE`); empty if it can have none.
        nested: Vec<u8>,
        tsc: u64,
        /// 0 if it is not known.
        tsc_khz: u32,
        /// Halted until a reset, after an error or a triple fault.
        broken: bool,
    }
}

impl CpuState {
    /// Of a vCPU; without one it says that the vCPU could not be read.
    pub(super) fn new(processor: Processor, live: Option<&LiveState>) -> Self {
        let nothing = LiveState::default();
        let lost = live.is_none();
        let LiveState { state, tsc, tsc_khz, broken } = live.unwrap_or(&nothing);
        let VcpuState { mp_state, regs, sregs, xsave, xcrs, debug, events, lapic, msrs, nested } = state;
        let kvm_sregs {
            cs,
            ds,
            es,
            fs,
            gs,
            ss,
            tr,
            ldt,
            gdt,
            idt,
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            interrupt_bitmap,
        } = *sregs;
        let mut area = [0; XSAVE];
        for (bytes, word) in area.chunks_exact_mut(4).zip(xsave.region) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let used = xcrs.xcrs.len().min(xcrs.nr_xcrs as usize);
        Self {
            processor,
            lost,
            regs: general(regs),
            rip: regs.rip,
            rflags: regs.rflags,
            segs: [es, cs, ss, ds, fs, gs, ldt, tr].map(|segment| SegmentState::from(&segment)),
            gdt: TableState { base: gdt.base, limit: gdt.limit },
            idt: TableState { base: idt.base, limit: idt.limit },
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            interrupt_bitmap,
            dr: debug.db,
            dr6: debug.dr6,
            dr7: debug.dr7,
            mp_state: mp_state.mp_state,
            xcr0: xcrs.xcrs[..used].iter().find(|xcr| xcr.xcr == 0).map_or(0, |xcr| xcr.value),
            xsave: area,
            events: EventState::from(events),
            lapic: lapic.regs.map(i8::cast_unsigned),
            msr_indices: msrs.iter().map(|msr| msr.index).collect(),
            msr_values: msrs.iter().map(|msr| msr.data).collect(),
            nested: nested.as_deref().map(nested::bytes).unwrap_or_default(),
            tsc: *tsc,
            tsc_khz: *tsc_khz,
            broken: *broken,
        }
    }

    /// What a vCPU of that extent is to take over.
    pub(super) fn live(self, extent: &Extent) -> Result<LiveState> {
        if self.lost {
            return Err(LoadError::invalid("the source could not read the registers of this CPU"));
        }
        let msrs = self.msrs(extent.msrs())?;
        let Self {
            // Seen to by those who call this.
            processor: _,
            lost: _,
            regs,
            rip,
            rflags,
            segs: [es, cs, ss, ds, fs, gs, ldt, tr],
            gdt,
            idt,
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            interrupt_bitmap,
            dr,
            dr6,
            dr7,
            mp_state,
            xcr0,
            xsave: area,
            events,
            lapic,
            msr_indices: _,
            msr_values: _,
            nested,
            tsc,
            tsc_khz,
            broken,
        } = self;
        let mut xsave = Box::new(kvm_xsave::default());
        for (word, bytes) in xsave.region.iter_mut().zip(area.chunks_exact(4)) {
            *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        }
        let mut xcrs = kvm_xcrs::default();
        if xcr0 != 0 {
            xcrs.nr_xcrs = 1;
            xcrs.xcrs[0] = kvm_xcr { xcr: 0, value: xcr0, ..Default::default() };
        }
        let [es, cs, ss, ds, fs, gs, ldt, tr] =
            [es, cs, ss, ds, fs, gs, ldt, tr].map(|segment| kvm_segment::from(&segment));
        let table =
            |table: TableState| kvm_dtable { base: table.base, limit: table.limit, ..Default::default() };
        let sregs = kvm_sregs {
            cs,
            ds,
            es,
            fs,
            gs,
            ss,
            tr,
            ldt,
            gdt: table(gdt),
            idt: table(idt),
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            interrupt_bitmap,
        };
        let state = VcpuState {
            mp_state: kvm_mp_state { mp_state },
            regs: from_general(&regs, rip, rflags),
            sregs,
            xsave,
            xcrs,
            debug: kvm_debugregs { db: dr, dr6, dr7, ..Default::default() },
            events: kvm_vcpu_events::from(&events),
            lapic: Box::new(kvm_lapic_state { regs: lapic.map(u8::cast_signed) }),
            msrs,
            nested: nested::state(&nested, extent.has_nested())?,
        };
        Ok(LiveState { state, tsc, tsc_khz, broken })
    }

    /// Registers to set. One that there is not here is not missed if it is 0.
    fn msrs(&self, known: &[u32]) -> Result<Vec<kvm_msr_entry>> {
        if self.msr_indices.len() != self.msr_values.len() {
            return Err(LoadError::invalid("as many MSRs as values are expected"));
        }
        let mut values = vec![None; known.len()];
        for (nth, (index, value)) in self.msr_indices.iter().zip(&self.msr_values).enumerate() {
            // Between machines of one kind they come in the order in which they are known.
            let in_place = (known.get(nth) == Some(index)).then_some(nth);
            match in_place.or_else(|| known.iter().position(|known| known == index)) {
                Some(at) => values[at] = Some(*value),
                None if *value == 0 => {}
                None => {
                    return Err(LoadError::invalid(format!(
                        "error: failed to set MSR {index:#x} to {value:#x}"
                    )));
                }
            }
        }
        let entry = |(index, data): (&u32, Option<u64>)| {
            Some(kvm_msr_entry { index: *index, data: data?, ..Default::default() })
        };
        Ok(known.iter().zip(values).filter_map(entry).collect())
    }
}

fn general(regs: &kvm_regs) -> [u64; 16] {
    let kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: _,
        rflags: _,
    } = *regs;
    [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15]
}

fn from_general(regs: &[u64; 16], rip: u64, rflags: u64) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = *regs;
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

impl From<&kvm_segment> for SegmentState {
    fn from(segment: &kvm_segment) -> Self {
        let kvm_segment {
            base,
            limit,
            selector,
            type_,
            present,
            dpl,
            db,
            s,
            l,
            g,
            avl,
            unusable,
            padding: _,
        } = *segment;
        let at = |value: u8, bit: u32| u32::from(value) << bit;
        let flags = [
            (type_, 0),
            (s, 4),
            (dpl, 5),
            (present, 7),
            (avl, 12),
            (l, 13),
            (db, 14),
            (g, 15),
            (unusable, 16),
        ];
        let flags = flags.into_iter().fold(0, |flags, (value, bit)| flags | at(value, bit));
        Self { selector, base, limit, flags }
    }
}

impl From<&SegmentState> for kvm_segment {
    fn from(segment: &SegmentState) -> Self {
        let SegmentState { selector, base, limit, flags } = *segment;
        let at = |bit: u32, mask: u32| (flags >> bit & mask) as u8;
        Self {
            base,
            limit,
            selector,
            type_: at(0, 0xf),
            s: at(4, 1),
            dpl: at(5, 3),
            present: at(7, 1),
            avl: at(12, 1),
            l: at(13, 1),
            db: at(14, 1),
            g: at(15, 1),
            unusable: at(16, 1),
            padding: 0,
        }
    }
}

impl From<&kvm_vcpu_events> for EventState {
    fn from(events: &kvm_vcpu_events) -> Self {
        let kvm_vcpu_events {
            exception,
            interrupt,
            nmi,
            sipi_vector,
            flags,
            smi,
            triple_fault,
            reserved: _,
            exception_has_payload,
            exception_payload,
        } = *events;
        Self {
            exception_injected: exception.injected,
            exception_nr: exception.nr,
            has_error_code: exception.has_error_code,
            exception_pending: exception.pending,
            error_code: exception.error_code,
            exception_has_payload,
            exception_payload,
            interrupt_injected: interrupt.injected,
            interrupt_nr: interrupt.nr,
            soft_interrupt: interrupt.soft,
            interrupt_shadow: interrupt.shadow,
            nmi_injected: nmi.injected,
            nmi_pending: nmi.pending,
            nmi_masked: nmi.masked,
            sipi_vector,
            smm: smi.smm,
            smi_pending: smi.pending,
            smm_inside_nmi: smi.smm_inside_nmi,
            init_latched: smi.latched_init,
            triple_fault_pending: triple_fault.pending,
            flags,
        }
    }
}

impl From<&EventState> for kvm_vcpu_events {
    fn from(state: &EventState) -> Self {
        let EventState {
            exception_injected,
            exception_nr,
            has_error_code,
            exception_pending,
            error_code,
            exception_has_payload,
            exception_payload,
            interrupt_injected,
            interrupt_nr,
            soft_interrupt,
            interrupt_shadow,
            nmi_injected,
            nmi_pending,
            nmi_masked,
            sipi_vector,
            smm,
            smi_pending,
            smm_inside_nmi,
            init_latched,
            triple_fault_pending,
            flags,
        } = *state;
        Self {
            exception: kvm_vcpu_events__bindgen_ty_1 {
                injected: exception_injected,
                nr: exception_nr,
                has_error_code,
                pending: exception_pending,
                error_code,
            },
            interrupt: kvm_vcpu_events__bindgen_ty_2 {
                injected: interrupt_injected,
                nr: interrupt_nr,
                soft: soft_interrupt,
                shadow: interrupt_shadow,
            },
            nmi: kvm_vcpu_events__bindgen_ty_3 {
                injected: nmi_injected,
                pending: nmi_pending,
                masked: nmi_masked,
                pad: 0,
            },
            sipi_vector,
            flags,
            smi: kvm_vcpu_events__bindgen_ty_4 {
                smm,
                pending: smi_pending,
                smm_inside_nmi,
                latched_init: init_latched,
            },
            triple_fault: kvm_vcpu_events__bindgen_ty_5 { pending: triple_fault_pending },
            exception_has_payload,
            exception_payload,
            ..Self::default()
        }
    }
}
