//! Accelerators: what executes the guest's code and delivers its interrupts.
//!
//! | name | what runs | interrupts | needs |
//! | --- | --- | --- | --- |
//! | `kvm` | vCPU threads in `/dev/kvm` | in-kernel PIC, IOAPIC, LAPIC, PIT | `/dev/kvm` |
//! | `qtest` | nothing; a test client plays the guest over a text protocol | recorded, reported on request | – |
//! | `sim` | the built-in guest's program on a host thread | wake the program | – |
//!
//! The board sees [`Accel`] and [`IrqChip`] only. Its order of calls: [`open`], [`Accel::attach`] with the address
//! spaces, devices built, [`Accel::create_vcpus`], [`Accel::set_boot`], [`Accel::reset`], [`Accel::resume`]; at the end
//! [`Accel::shutdown`].
//!
//! # Rules of the road
//!
//! - vCPU threads run device callbacks (port and memory-mapped I/O) with no lock of this crate held. Such a callback may
//!   call everything here, but it must not wait for the main loop thread (post instead): the main loop may be inside
//!   [`Accel::pause`], which waits for the callback to return.
//! - [`Accel::pause`] and [`Accel::reset`] are called with no lock held that a device callback may want.
//! - [`VcpuEvents`] is called on vCPU threads and only posts.
//!
//! ```
//! use accel::{AccelSpec, open};
//!
//! // A list as `-accel foo -accel qtest`: the first that works.
//! let specs = [AccelSpec::option("foo"), AccelSpec::option("qtest")];
//! let opened = open(&specs).unwrap();
//! assert_eq!(opened.accel.name(), "qtest");
//! assert_eq!(opened.messages, ["-accel foo: invalid accelerator foo", "falling back to qtest"]);
//! ```
//!
//! Left out: TCG and other emulation of instructions, split irqchip.

mod chips;
pub mod cpu;
pub mod irq;
pub mod kvm;
pub mod qtest;
mod registers;
mod select;
pub mod sim;
pub mod stats;
pub mod trace_events;

mod control;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use memory::{AddressSpace, Memory};
use vmstate::{Saved, StateShape};

pub use chips::{Chips, IoApic, LocalApic, Pic};
pub use cpu::CpuModel;
use cpu::{Facts, Supported};
pub use irq::{Interrupt, IrqChip, LineStatistics, MsiMessage, MsiRoute, UserIrqChip};
pub use registers::{DescriptorTable, Fpu, Registers, Segment};
pub use select::{ACCELERATORS, AccelSpec, Opened, help, open, register};
use stats::{Stat, StatTarget};

/// What a package (a socket) is made of. All numbers are at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Dies in a package.
    pub dies: u32,
    /// Modules in a die.
    pub modules: u32,
    /// Cores in a module.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

impl Topology {
    /// CPUs in a package.
    #[must_use]
    pub fn package_size(&self) -> u32 {
        [self.dies, self.modules, self.cores, self.threads].into_iter().fold(1, u32::saturating_mul)
    }
}

/// The vCPUs to create.
#[derive(Debug, Clone)]
pub struct VcpuConfig {
    /// APIC ID of each vCPU that there may be in order of index; the first is the boot processor. Never empty.
    pub apic_ids: Vec<u32>,
    /// How many of them, the first ones, there are from the start; the others can be [plugged](Accel::plug_vcpu).
    pub present: u32,
    /// What the IDs are made of.
    pub topology: Topology,
    /// What `-cpu` comes to here, the same for all.
    pub facts: Arc<Facts>,
    /// Physical address bits.
    pub phys_bits: u32,
}

impl VcpuConfig {
    /// `count` vCPUs (at least one) of a model under `accel`, cores of one package with consecutive APIC IDs.
    #[must_use]
    pub fn new(count: u32, cpu: &CpuModel, accel: &dyn Accel) -> Self {
        let count = count.max(1);
        let topology = Topology { dies: 1, modules: 1, cores: count, threads: 1 };
        let mut facts = cpu.facts(accel.supported_cpu());
        facts.realize(&topology, accel.supported_cpu());
        let phys_bits = cpu.phys_bits(accel.host_phys_bits().unwrap_or(0));
        Self { apic_ids: (0..count).collect(), present: count, topology, facts: Arc::new(facts), phys_bits }
    }
}

/// A created vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuInfo {
    /// Its place in [`VcpuConfig::apic_ids`].
    pub index: u32,
    /// Its local APIC's ID.
    pub apic_id: u32,
    /// The host's id of the thread that runs it; the process's id when it has none of its own.
    pub thread_id: i32,
}

/// How the boot processor starts after a reset, instead of at the reset vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootState {
    /// The Xen PVH boot protocol: 32-bit protected mode with flat segments, paging off, interrupts off.
    Pvh {
        /// Guest-physical address of the first instruction (`eip`).
        entry: u32,
        /// Guest-physical address of `hvm_start_info` (`ebx`).
        start_info: u32,
    },
    /// The 64-bit entry of the Linux boot protocol: long mode, memory mapped to itself, interrupts off. The board has put
    /// page tables and segment descriptors into memory.
    Linux64 {
        /// Guest-physical address of the first instruction (`rip`).
        entry: u64,
        /// Guest-physical address of `boot_params` (`rsi`).
        zero_page: u32,
        /// Guest-physical address of the top page table (`cr3`).
        page_tables: u32,
        /// Guest-physical address of the descriptor table; code is selector 10h, data 18h.
        descriptors: u32,
        /// Its last byte.
        descriptors_limit: u16,
    },
}

/// What vCPUs tell the board. Called on vCPU threads; implementations post to the main loop and return at once.
///
/// After each of these the vCPU executes no further instruction until [`Accel::reset`], except that
/// [`VcpuEvents::shutdown`] and [`VcpuEvents::reset`] leave the decision to the board, and that
/// [`VcpuEvents::failed_access`] changes nothing.
pub trait VcpuEvents: Send + Sync {
    /// The processor shut itself down (a fault while delivering a double fault).
    fn triple_fault(&self, cpu: u32);
    /// The guest asked the hypervisor for a reset.
    fn reset(&self, cpu: u32);
    /// The guest asked the hypervisor to power off.
    fn shutdown(&self, cpu: u32);
    /// An access to the system address space failed: nothing is there, or the memory there is unplugged and protected. Reads
    /// gave zeroes, writes were dropped, and the vCPU goes on. Called for every one, however often the guest tries.
    fn failed_access(&self, cpu: u32, addr: u64, write: bool);
    /// The accelerator cannot continue this vCPU; `text` is for a log or the person at the terminal.
    fn internal_error(&self, cpu: u32, text: &str);
}

/// An accelerator. Methods may be called from any thread unless said otherwise; the calls that change the run state
/// ([`Accel::reset`], [`Accel::resume`], [`Accel::pause`], [`Accel::shutdown`]) exclude each other, so that a second caller
/// waits.
pub trait Accel: Send + Sync {
    /// `kvm`, `qtest` or `sim`.
    fn name(&self) -> &'static str;

    /// Connects to the address spaces: from now on guest accesses go there, and RAM that appears there appears to
    /// the guest. Called once, before [`Accel::create_vcpus`].
    ///
    /// # Errors
    /// The host has no memory or descriptors left, or this accelerator was attached before.
    fn attach(
        &self,
        memory: &Arc<Memory>,
        system: &Arc<AddressSpace>,
        io: &Arc<AddressSpace>,
    ) -> qapi::Result<()>;

    /// Creates the vCPUs that there are from the start, paused and in reset state.
    ///
    /// # Errors
    /// More than the accelerator can have, a feature it does not know, not attached, or called twice.
    fn create_vcpus(&self, config: VcpuConfig, events: Arc<dyn VcpuEvents>) -> qapi::Result<()>;

    /// Adds vCPU `index` of those that may be there ([`VcpuConfig::apic_ids`]), in reset state: one of a machine that runs waits for another
    /// to start it. Excludes [`Accel::unplug_vcpu`] and the calls that change the run state.
    ///
    /// # Errors
    /// There is one of that index already, there may be none, or the host has no more.
    fn plug_vcpu(&self, index: u32) -> qapi::Result<()>;

    /// Takes vCPU `index` away: when this returns, it executes nothing and no device callback any more. Nothing happens if there is none. Never
    /// on a vCPU thread, and with no lock held that a device callback may want.
    fn unplug_vcpu(&self, index: u32);

    /// The vCPUs that there are, in order of index. Indices may be missing between those of two.
    fn vcpus(&self) -> Vec<VcpuInfo>;

    /// Registers of vCPU `cpu` as of now. One that runs is taken out of the guest for a moment (what QEMU calls synchronizing),
    /// one that is paused stays so; several that are to agree are read while paused. `None` if there is no such vCPU, it has
    /// ended, or what it runs has no registers (`sim`). Called with no lock held that a device callback may want, and never
    /// by such a callback.
    #[doc(alias = "cpu_synchronize_state")]
    fn registers(&self, _cpu: u32) -> Option<Registers> {
        None
    }

    /// The local APIC of vCPU `cpu` as of now, on the terms of [`Accel::registers`]. `None` if there is none that could be read.
    fn local_apic(&self, _cpu: u32) -> Option<LocalApic> {
        None
    }

    /// PIC pair and IOAPIC as of now; `None` where nobody models them.
    fn chips(&self) -> Option<Chips> {
        None
    }

    /// Delivers a non-maskable interrupt to every vCPU, as boards wire it: to input LINT1 of a local APIC that is enabled, which
    /// the guest may have masked, and past one that is not. Returns before they take it.
    ///
    /// # Errors
    /// What runs here has no such interrupt.
    fn inject_nmi(&self) -> qapi::Result<()> {
        Err(qapi::Error::generic("machine does not provide NMIs"))
    }

    /// The boot processor's state at the next resets; `None` is the architecture's reset vector.
    fn set_boot(&self, boot: Option<BootState>);

    /// Has the vCPUs start, at the next resets that have a boot state, with the memory types that firmware sets: uncached from
    /// `start`, a power of two below 4 GiB, up to there, and write-back elsewhere. `None` is the architecture's reset state.
    /// Nothing happens where memory types do not matter.
    fn set_device_window(&self, _start: Option<u32>) {}

    /// Puts vCPUs, interrupt controllers and the PIT into reset state. Only while paused.
    fn reset(&self);

    /// Does now what the first [`Accel::resume`] would make the guest wait for, milliseconds of the kernel's: for a machine in which a
    /// guest arrives that runs elsewhere meanwhile. After [`Accel::create_vcpus`], on any thread, and as often as one likes.
    fn make_ready(&self) {}

    /// Lets the vCPUs run. Nothing happens if they do.
    fn resume(&self);

    /// Stops the vCPUs. On return none executes guest code, and none is inside a device callback except the
    /// calling thread itself if it is a vCPU thread (it stops before its next instruction).
    fn pause(&self);

    /// Has vCPUs begin to put down what their sections ([`Accel::saved`]) tell when they are saved next, which are not waited for before.
    /// Only while paused.
    fn begin_save(&self) {}

    /// State of vCPUs and interrupt controllers, for a migration. Sections are saved and loaded on the main loop's thread while
    /// paused, and loaded after a [`Accel::reset`] that no [`Accel::resume`] followed.
    fn saved(&self) -> Saved;

    /// Keeps each vCPU out of the guest for `percent` of the time, in rounds of 10 ms in the guest, so that a migration gets ahead of
    /// what the guest writes. 0 is not at all, more than 99 is 99. Nobody waits for a vCPU that is kept out.
    #[doc(alias = "cpu_throttle_set")]
    fn set_throttle(&self, _percent: u8) {}

    /// What [`Accel::set_throttle`] set; 0 where nothing can be kept out.
    #[doc(alias = "cpu_throttle_get_percentage")]
    fn throttle(&self) -> u8 {
        0
    }

    /// Ends and joins the vCPU threads (but not the calling thread). No other method but [`Accel::vcpus`] is of use afterwards.
    fn shutdown(&self);

    /// The interrupt controller.
    fn irq(&self) -> Arc<dyn IrqChip>;

    /// The controller outside the kernel, if that is what [`Accel::irq`] leads to.
    fn user_chip(&self) -> Option<&Arc<UserIrqChip>> {
        None
    }

    /// The machine has no interval timer. Before vCPUs run.
    fn omit_pit(&self) {}

    /// What its vCPUs can have; asked for before there are any, too.
    fn supported_cpu(&self) -> &Supported;

    /// Ticks of the vCPUs' time stamp counters in a second, if it is known.
    fn tsc_frequency(&self) -> Option<u64> {
        None
    }

    /// Statistics that are kept about `target`, with the values of now; empty where none are kept, or there is no such vCPU.
    ///
    /// # Errors
    /// They cannot be read.
    fn statistics(&self, _target: StatTarget) -> qapi::Result<Vec<(Stat, Vec<u64>)>> {
        Ok(Vec::new())
    }

    /// Physical address bits of the host's processor as guests can have them, if this accelerator runs on it.
    fn host_phys_bits(&self) -> Option<u32> {
        None
    }

    /// Physical address bits of the host's processor itself, if this accelerator runs on it.
    fn processor_phys_bits(&self) -> Option<u32> {
        None
    }

    /// Memory slots in all and those not in use; `None` when there is no such limit.
    fn memory_slots(&self) -> Option<MemorySlots> {
        None
    }

    /// Entries of the ring in which each vCPU's writes are found while memory is logged; 0 without rings.
    fn dirty_ring_size(&self) -> u32 {
        0
    }

    /// Pages that vCPU `cpu` wrote while memory was logged, counted anew whenever they had been looked at; as of the last
    /// [`Memory::sync_dirty_log`]. `None` without rings, or if there is no such vCPU.
    fn dirty_pages(&self, _cpu: u32) -> Option<u64> {
        None
    }

    /// Limits how fast vCPU `cpu` writes memory while that is logged, in bytes a second, or takes its limit; only with rings.
    /// [`Accel::pace_dirty`] is called several times a second meanwhile.
    fn limit_dirty(&self, _cpu: u32, _limit: Option<u64>) {}

    /// Has vCPUs rest that wrote more than their limits allow.
    fn pace_dirty(&self) {}

    /// Whether that many vCPUs, and as many as may come later, can be had; `warn` is told of more than the host recommends.
    ///
    /// # Errors
    /// More than the host has.
    fn check_cpus(&self, _cpus: u32, _maxcpus: u32, _warn: &mut dyn FnMut(&str)) -> qapi::Result<()> {
        Ok(())
    }

    /// Whether guest code may be run by hardware (`query-kvm`).
    fn is_kvm(&self) -> bool {
        self.name() == "kvm"
    }
}

/// How many memory slots an accelerator has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySlots {
    /// All that it can have.
    pub max: u32,
    /// Not in use now.
    pub free: u32,
}
/// What accelerators declare that a migration takes along of them, whatever of them this host has.
pub fn declared_states() -> Vec<StateShape> {
    kvm::declared_states()
}
