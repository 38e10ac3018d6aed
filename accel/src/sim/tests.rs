//! Claims about the built-in guest hosted on a thread.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

use memory::{RamSpec, RegionDesc, SIZE_ALL, UnassignedIo};

use super::*;
use crate::testing::{Console, Serial, start_info, until};
use crate::{CpuModel, MsiMessage};

const START_INFO: u32 = 0x1000;
struct Events(Mutex<Sender<String>>);

impl VcpuEvents for Events {
    fn triple_fault(&self, _cpu: u32) {}
    fn reset(&self, _cpu: u32) {}
    fn shutdown(&self, _cpu: u32) {}
    fn failed_access(&self, _cpu: u32, _addr: u64, _write: bool) {}
    fn internal_error(&self, cpu: u32, text: &str) {
        let _ = self.0.lock().unwrap().send(format!("{cpu}: {text}"));
    }
}

struct Rig {
    accel: Arc<SimAccel>,
    serial: Arc<Serial>,
    console: Console,
    errors: Receiver<String>,
    system: Arc<AddressSpace>,
}

impl Rig {
    fn new() -> Self {
        let (error_sender, errors) = mpsc::channel();
        let (serial, console) = Serial::new();
        let memory = Memory::new();
        let ram = memory.create_ram(RamSpec::anonymous("ram", 4 << 20)).unwrap();
        let mut tx = memory.transaction();
        let root = tx.container(RegionDesc::new("system", SIZE_ALL));
        let io_root = tx.io(RegionDesc::new("io", 0x1_0000), Arc::new(UnassignedIo));
        let ram = tx.ram(RegionDesc::new("ram", 4 << 20), ram);
        let port = tx.io(RegionDesc::new("serial", 8), Arc::<Serial>::clone(&serial));
        tx.add_subregion(root, 0, ram, 0);
        tx.add_subregion(io_root, 0x3f8, port, 0);
        let system = tx.address_space("memory", root);
        let io = tx.address_space("I/O", io_root);
        tx.commit();
        let accel = SimAccel::new();
        accel.attach(&memory, &system, &io).unwrap();
        accel
            .create_vcpus(
                VcpuConfig::new(2, &CpuModel::default(), &*accel),
                Arc::new(Events(Mutex::new(error_sender))),
            )
            .unwrap();
        Self { accel, serial, console, errors, system }
    }

    fn with_start_info() -> Self {
        let rig = Self::new();
        assert!(rig.system.write(u64::from(START_INFO), &start_info(START_INFO, 4 << 20)).is_ok());
        rig.accel.set_boot(Some(BootState::Pvh { entry: 0x10_0000, start_info: START_INFO }));
        rig.accel.reset();
        rig
    }
}

#[test]
fn the_program_runs_on_the_address_spaces_and_takes_commands() {
    let rig = Rig::with_start_info();
    rig.accel.resume();
    rig.console.type_line("peek 0x1000");
    rig.console.read_until("336ec578");
    let vcpus = rig.accel.vcpus();
    let process = i32::try_from(std::process::id()).unwrap();
    assert_eq!(vcpus.len(), 2);
    assert!(vcpus[0].thread_id != process && vcpus[1].thread_id == process);
    assert!(rig.errors.try_recv().is_err());
}

#[test]
fn while_paused_it_touches_nothing() {
    let rig = Rig::with_start_info();
    for _ in 0..20 {
        rig.accel.resume();
        let before = rig.serial.accesses();
        until("running", || {
            rig.accel.irq().send_msi(MsiMessage { address: 0xfee0_0000, data: 0x40 });
            rig.serial.accesses() != before
        });
        rig.accel.pause();
        let stopped_at = rig.serial.accesses();
        rig.accel.irq().set_gsi(4, true);
        rig.accel.irq().set_gsi(4, false);
        thread::yield_now();
        assert_eq!(rig.serial.accesses(), stopped_at);
    }
}

#[test]
fn a_reset_starts_the_program_again() {
    let rig = Rig::with_start_info();
    for _ in 0..3 {
        rig.accel.resume();
        rig.console.type_line("peek 0x1000");
        rig.console.read_until("336ec578");
        rig.accel.pause();
        rig.console.drain();
        rig.accel.reset();
    }
    // Also after it ended by itself.
    rig.accel.resume();
    rig.console.type_line("off");
    rig.console.read_until("powering off");
    rig.accel.pause();
    rig.accel.resume();
    rig.accel.pause();
    rig.accel.reset();
    rig.accel.resume();
    rig.console.type_line("peek 0x1000");
    rig.console.read_until("336ec578");
}

#[test]
fn an_interrupt_ends_the_idle_wait_even_if_it_came_first() {
    let wake = Wake::default();
    wake.raise();
    let start = Instant::now();
    wake.wait();
    assert!(start.elapsed() < IDLE);
}

#[test]
fn without_a_boot_state_it_is_halted_and_with_a_bad_one_it_says_so() {
    let rig = Rig::new();
    rig.accel.reset();
    rig.accel.resume();
    rig.accel.pause();
    assert!(rig.errors.try_recv().is_err());
    rig.accel.set_boot(Some(BootState::Pvh { entry: 0, start_info: 0x2000 }));
    rig.accel.reset();
    rig.accel.resume();
    let error = rig.errors.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(error, "0: sim: no start information at 0x2000: Magic(0)");
    rig.accel.shutdown();
}
