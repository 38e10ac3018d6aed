use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

use memory::{AccessConstraints, RamSpec, RegionDesc, RegionOps, SIZE_ALL, UnassignedIo};

use super::*;
use crate::{CpuModel, MsiMessage};

const START_INFO: u32 = 0x1000;
/// The line status register: room to send, something received.
const LSR_IDLE: u64 = 0x60;
const LSR_DATA: u64 = 1;

/// A serial port at 3f8h.
struct Serial {
    output: Mutex<Sender<u8>>,
    input: Mutex<Receiver<u8>>,
    next: Mutex<Option<u8>>,
    accesses: AtomicU64,
    scratch: AtomicU64,
}

impl RegionOps for Serial {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        self.accesses.fetch_add(1, Ordering::SeqCst);
        let mut next = self.next.lock().unwrap();
        if next.is_none() {
            *next = self.input.lock().unwrap().try_recv().ok();
        }
        match offset {
            0 => next.take().map_or(0, u64::from),
            7 => self.scratch.load(Ordering::SeqCst),
            5 => LSR_IDLE | if next.is_some() { LSR_DATA } else { 0 },
            _ => 0,
        }
    }

    fn write(&self, offset: u64, _size: u8, value: u64) {
        match offset {
            // The test may have seen enough.
            0 => _ = self.output.lock().unwrap().send(value as u8),
            7 => self.scratch.store(value, Ordering::SeqCst),
            _ => {}
        }
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 1)
    }
}

struct Events(Mutex<Sender<String>>);

impl VcpuEvents for Events {
    fn triple_fault(&self, _cpu: u32) {}
    fn reset(&self, _cpu: u32) {}
    fn shutdown(&self, _cpu: u32) {}
    fn internal_error(&self, cpu: u32, text: &str) {
        let _ = self.0.lock().unwrap().send(format!("{cpu}: {text}"));
    }
}

struct Rig {
    accel: Arc<SimAccel>,
    serial: Arc<Serial>,
    output: Receiver<u8>,
    input: Sender<u8>,
    errors: Receiver<String>,
    system: Arc<AddressSpace>,
}

impl Rig {
    fn new() -> Self {
        let (sender, output) = mpsc::channel();
        let (input, receiver) = mpsc::channel();
        let (error_sender, errors) = mpsc::channel();
        let serial = Arc::new(Serial {
            output: Mutex::new(sender),
            input: Mutex::new(receiver),
            next: Mutex::default(),
            accesses: AtomicU64::new(0),
            scratch: AtomicU64::new(0),
        });
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
            .create_vcpus(VcpuConfig::new(2, CpuModel::default()), Arc::new(Events(Mutex::new(error_sender))))
            .unwrap();
        Self { accel, serial, output, input, errors, system }
    }

    /// Writes start information with one range of RAM.
    fn with_start_info() -> Self {
        let rig = Self::new();
        let mut info = [0_u8; 56];
        info[0..4].copy_from_slice(&0x336e_c578_u32.to_le_bytes());
        info[4] = 1;
        info[40..48].copy_from_slice(&0x1100_u64.to_le_bytes());
        info[48] = 1;
        assert!(rig.system.write(u64::from(START_INFO), &info).is_ok());
        let mut entry = [0_u8; 24];
        entry[8..16].copy_from_slice(&(4_u64 << 20).to_le_bytes());
        entry[16] = 1;
        assert!(rig.system.write(0x1100, &entry).is_ok());
        rig.accel.set_boot(Some(BootState::Pvh { entry: 0x10_0000, start_info: START_INFO }));
        rig.accel.reset();
        rig
    }

    /// Output up to `end`.
    fn read_until(&self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            let byte = self.output.recv_timeout(Duration::from_secs(20)).expect("the guest writes");
            text.push(char::from(byte));
        }
        text
    }

    fn type_line(&self, line: &str) {
        line.bytes().chain([b'\r']).for_each(|byte| self.input.send(byte).unwrap());
    }
}

#[test]
fn the_program_runs_on_the_address_spaces_and_takes_commands() {
    let rig = Rig::with_start_info();
    rig.accel.resume();
    rig.type_line("peek 0x1000");
    rig.read_until("336ec578");
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
        let before = rig.serial.accesses.load(Ordering::SeqCst);
        while rig.serial.accesses.load(Ordering::SeqCst) == before {
            rig.accel.irq().send_msi(MsiMessage { address: 0xfee0_0000, data: 0x40 });
            thread::yield_now();
        }
        rig.accel.pause();
        let stopped_at = rig.serial.accesses.load(Ordering::SeqCst);
        rig.accel.irq().set_gsi(4, true);
        rig.accel.irq().set_gsi(4, false);
        thread::yield_now();
        assert_eq!(rig.serial.accesses.load(Ordering::SeqCst), stopped_at);
    }
}

#[test]
fn a_reset_starts_the_program_again() {
    let rig = Rig::with_start_info();
    for _ in 0..3 {
        rig.accel.resume();
        rig.type_line("peek 0x1100");
        rig.read_until("0x1100");
        rig.accel.pause();
        while rig.output.try_recv().is_ok() {}
        rig.accel.reset();
    }
    // Also after it ended by itself.
    rig.accel.resume();
    rig.type_line("off");
    rig.read_until("powering off");
    rig.accel.pause();
    rig.accel.resume();
    rig.accel.pause();
    rig.accel.reset();
    rig.accel.resume();
    rig.type_line("peek 0x1000");
    rig.read_until("336ec578");
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
