//! A machine for hand-assembled guests: RAM, a ROM with the program, devices that report to the test.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use memory::{
    AccessConstraints, AddressSpace, Memory, RamBlock, RamSpec, RegionDesc, RegionId, RegionOps, SIZE_ALL,
    UnassignedIo,
};

use super::super::KvmAccel;
use crate::testing::PATIENCE;
use crate::{Accel, BootState, CpuModel, VcpuConfig, VcpuEvents};

/// RAM from address 0, bytes.
pub(super) const RAM: u64 = 0x8000;
/// A device of one page.
pub(super) const MMIO: u64 = 0xa000;
/// 64 KiB with the program at its start; ends at 4 GiB, where a reset vCPU starts.
const ROM: u64 = 0xffff_0000;
const ROM_SIZE: u64 = 0x1_0000;
/// `jmp` to the start of the ROM, at the reset vector.
const RESET_VECTOR: (u64, [u8; 3]) = (0xfff0, [0xe9, 0x0d, 0x00]);

/// What devices and vCPUs report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    Port(u16, u8, u64),
    Mmio(u64, u8, u64),
    TripleFault(u32),
    FailedAccess { cpu: u32, addr: u64, write: bool },
    Error(u32, String),
}

/// Reports writes; a read gives its offset plus 0x50.
pub(super) struct Probe {
    reports: Mutex<Sender<Report>>,
    report: fn(u64, u8, u64) -> Report,
    /// Called on the vCPU thread at each write, before the report.
    pub(super) hook: Mutex<Option<Box<dyn FnMut() + Send>>>,
}

impl RegionOps for Probe {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        offset + 0x50
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        if let Some(hook) = &mut *self.hook.lock().unwrap() {
            hook();
        }
        // The test may have seen enough.
        let _ = self.reports.lock().unwrap().send((self.report)(offset, size, value));
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 8).implemented(1, 8).unaligned()
    }
}

struct Events(Mutex<Sender<Report>>);

impl Events {
    fn report(&self, report: Report) {
        let _ = self.0.lock().unwrap().send(report);
    }
}

impl VcpuEvents for Events {
    fn triple_fault(&self, cpu: u32) {
        self.report(Report::TripleFault(cpu));
    }

    fn reset(&self, cpu: u32) {
        self.report(Report::Error(cpu, "reset".into()));
    }

    fn shutdown(&self, cpu: u32) {
        self.report(Report::Error(cpu, "shutdown".into()));
    }

    fn failed_access(&self, cpu: u32, addr: u64, write: bool) {
        self.report(Report::FailedAccess { cpu, addr, write });
    }

    fn internal_error(&self, cpu: u32, text: &str) {
        self.report(Report::Error(cpu, text.into()));
    }
}

pub(super) struct Rig {
    pub(super) accel: Arc<KvmAccel>,
    pub(super) memory: Arc<Memory>,
    pub(super) system: Arc<AddressSpace>,
    pub(super) system_root: RegionId,
    pub(super) ports: RegionId,
    pub(super) mmio: RegionId,
    pub(super) port_probe: Arc<Probe>,
    pub(super) mmio_probe: Arc<Probe>,
    pub(super) ram: Arc<RamBlock>,
    sender: Sender<Report>,
    reports: Receiver<Report>,
}

/// KVM, or `None` after saying that there is none.
pub(super) fn kvm() -> Option<Arc<KvmAccel>> {
    kvm_with(&[])
}

/// The same with options of `-accel kvm`.
pub(crate) fn kvm_with(options: &[(&str, &str)]) -> Option<Arc<KvmAccel>> {
    let options: Vec<_> =
        options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    match KvmAccel::open(&options) {
        Ok(accel) => Some(accel),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI needs KVM: {error}");
            eprintln!("SKIPPED, no KVM: {error}");
            None
        }
    }
}

impl Rig {
    /// `program` starts at the start of the ROM, in real mode, or in protected mode with `pvh`. Paused after a reset.
    pub(super) fn new(program: &[u8], cpus: u32, pvh: bool) -> Option<Self> {
        Self::with_model("qemu64", program, cpus, pvh)
    }

    /// The same with other processors.
    pub(super) fn with_model(model: &str, program: &[u8], cpus: u32, pvh: bool) -> Option<Self> {
        Some(Self::on(kvm()?, model, program, cpus, pvh))
    }

    /// In protected mode, with `cpus` vCPUs where `room` may be.
    pub(super) fn with_room(program: &[u8], cpus: u32, room: u32) -> Option<Self> {
        Some(Self::of(kvm()?, "qemu64", program, (cpus, room), true))
    }

    /// The same on an accelerator that was just opened.
    pub(super) fn on(accel: Arc<KvmAccel>, model: &str, program: &[u8], cpus: u32, pvh: bool) -> Self {
        Self::of(accel, model, program, (cpus, cpus), pvh)
    }

    fn of(accel: Arc<KvmAccel>, model: &str, program: &[u8], (cpus, room): (u32, u32), pvh: bool) -> Self {
        let memory = Memory::new();
        let (sender, reports) = mpsc::channel();
        let probe =
            |report| Arc::new(Probe { reports: Mutex::new(sender.clone()), report, hook: Mutex::default() });
        let port_probe = probe(|offset, size, value| Report::Port(offset as u16, size, value));
        let mmio_probe = probe(Report::Mmio);
        let ram = memory.create_ram(RamSpec::anonymous("ram", RAM)).unwrap();
        let rom = memory.create_ram(RamSpec::anonymous("rom", ROM_SIZE)).unwrap();
        rom.write(0, program).unwrap();
        rom.write(RESET_VECTOR.0, &RESET_VECTOR.1).unwrap();
        let mut tx = memory.transaction();
        let system_root = tx.container(RegionDesc::new("system", SIZE_ALL));
        let io_root = tx.io(RegionDesc::new("io", 0x1_0000), Arc::new(UnassignedIo));
        let ram_region = tx.ram(RegionDesc::new("ram", u128::from(RAM)), Arc::clone(&ram));
        let rom_region = tx.rom(RegionDesc::new("rom", u128::from(ROM_SIZE)), rom);
        let mmio = tx.io(RegionDesc::new("mmio", 0x1000), Arc::<Probe>::clone(&mmio_probe));
        let ports = tx.io(RegionDesc::new("ports", 0x100), Arc::<Probe>::clone(&port_probe));
        tx.add_subregion(system_root, 0, ram_region, 0);
        tx.add_subregion(system_root, ROM, rom_region, 0);
        tx.add_subregion(system_root, MMIO, mmio, 0);
        tx.add_subregion(io_root, 0, ports, 0);
        let system = tx.address_space("memory", system_root);
        let io = tx.address_space("I/O", io_root);
        tx.commit();
        accel.attach(&memory, &system, &io).unwrap();
        let events = Arc::new(Events(Mutex::new(sender.clone())));
        let config = VcpuConfig::new(room, &CpuModel::parse(model).unwrap(), &*accel);
        accel.create_vcpus(VcpuConfig { present: cpus, ..config }, events).unwrap();
        if pvh {
            accel.set_boot(Some(BootState::Pvh { entry: ROM as u32, start_info: 0x1234 }));
        }
        accel.reset();
        Self { accel, memory, system, system_root, ports, mmio, port_probe, mmio_probe, ram, sender, reports }
    }

    /// Reports what vCPUs tell.
    pub(super) fn events(&self) -> Arc<dyn VcpuEvents> {
        Arc::new(Events(Mutex::new(self.sender.clone())))
    }

    pub(super) fn report(&self) -> Report {
        self.reports.recv_timeout(PATIENCE).expect("the guest reports")
    }

    /// Takes reports up to the first that is `wanted`: a guest that does not come to that, or breaks down, is one that never `does` so.
    pub(super) fn await_report(&self, does: &str, wanted: impl Fn(&Report) -> bool) {
        let end = Instant::now() + PATIENCE;
        for others in 0.. {
            let left = end.saturating_duration_since(Instant::now());
            match self.reports.recv_timeout(left) {
                Ok(report) if wanted(&report) => return,
                Ok(report @ (Report::TripleFault(_) | Report::Error(..))) => {
                    panic!("the guest never {does}: {report:?}")
                }
                Ok(_) if !left.is_zero() => {}
                // Its registers are not asked for: one that is stuck does not tell.
                _ => panic!("the guest never {does}, in {others} reports"),
            }
        }
    }

    /// What was reported, if anything was.
    pub(super) fn try_report(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    /// Forgets what was reported so far and says how much it was.
    pub(super) fn drain(&self) -> usize {
        self.reports.try_iter().count()
    }
}
