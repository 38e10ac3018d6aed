//! A virtual machine monitor just large enough for the bare-metal guest: memory, one vCPU, in-kernel interrupt
//! controllers and timer, a 16550 that is always ready to transmit, ACPI power off, reset.
#![expect(unsafe_code, reason = "KVM is told addresses of memory")]

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const START_INFO: u64 = 0x6000;
const MEMMAP: u64 = 0x7000;
const CMDLINE: u64 = 0x8000;
const SERIAL_IRQ: u32 = 4;

/// How the machine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    PowerOff,
    Reset,
}

/// What the vCPU thread saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub(crate) stop: Stop,
    /// CPU time of the vCPU's thread.
    pub(crate) busy: Duration,
}

#[derive(Default)]
struct Uart {
    input: VecDeque<u8>,
    ier: u8,
    lcr: u8,
    scratch: u8,
}

pub(crate) struct Vmm {
    vm: Arc<VmFd>,
    uart: Arc<Mutex<Uart>>,
    output: Receiver<u8>,
    thread: JoinHandle<Report>,
}

/// `None` where there is no KVM to test with.
pub(crate) fn start(image: &[u8], cmdline: &str, ram: u64) -> Option<Vmm> {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            eprintln!("skipped: no KVM: {error}");
            return None;
        }
    };
    let vm = Arc::new(kvm.create_vm().expect("a VM"));
    vm.set_tss_address(0xfffb_d000).expect("a TSS address");
    vm.create_irq_chip().expect("interrupt controllers");
    vm.create_pit2(kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() }).expect("a timer");
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), ram as usize)]).expect("guest memory");
    let host = memory.get_host_address(GuestAddress(0)).expect("it starts at 0");
    let region =
        kvm_userspace_memory_region { memory_size: ram, userspace_addr: host as u64, ..Default::default() };
    // SAFETY: the range is `memory`, which the vCPU thread owns and drops after the vCPU.
    unsafe { vm.set_user_memory_region(region) }.expect("a memory slot");
    let entry = load(&memory, image);
    write_start_info(&memory, cmdline, ram);

    let vcpu = vm.create_vcpu(0).expect("a vCPU");
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).expect("CPUID");
    vcpu.set_cpuid2(&cpuid).expect("CPUID is accepted");
    set_entry_state(&vcpu, entry);

    let uart = Arc::new(Mutex::new(Uart::default()));
    let (sender, output) = channel();
    let thread = {
        let uart = Arc::clone(&uart);
        std::thread::spawn(move || {
            let report = run(vcpu, &uart, &sender);
            drop(memory);
            report
        })
    };
    Some(Vmm { vm, uart, output, thread })
}

/// Copies the loadable segments; the PVH entry point.
fn load(memory: &GuestMemoryMmap, image: &[u8]) -> u32 {
    let long = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("8 bytes"));
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().expect("4 bytes"));
    assert_eq!(image[..4], *b"\x7fELF");
    let (headers, count) = (long(32) as usize, usize::from(image[56]));
    let mut entry = None;
    for header in (0..count).map(|n| headers + 56 * n) {
        let (offset, size) = (long(header + 8) as usize, long(header + 32) as usize);
        match word(header) {
            1 => memory
                .write_slice(&image[offset..offset + size], GuestAddress(long(header + 24)))
                .expect("the segment fits"),
            4 => {
                assert_eq!([word(offset), word(offset + 4), word(offset + 8)], [4, 4, 18], "PVH note");
                entry = Some(word(offset + 16));
            }
            _ => {}
        }
    }
    entry.expect("a note")
}

fn write_start_info(memory: &GuestMemoryMmap, cmdline: &str, ram: u64) {
    let put = |addr: u64, bytes: &[u8]| memory.write_slice(bytes, GuestAddress(addr)).expect("low memory");
    put(CMDLINE, cmdline.as_bytes());
    put(CMDLINE + cmdline.len() as u64, &[0]);
    for (index, (addr, size)) in [(0, 0xa_0000), (1 << 20, ram - (1 << 20))].into_iter().enumerate() {
        let entry: Vec<u8> = [addr, size, 1u64].iter().flat_map(|v: &u64| v.to_le_bytes()).collect();
        put(MEMMAP + 24 * index as u64, &entry);
    }
    let info: Vec<u8> =
        [0x1_336e_c578u64, 0, 0, CMDLINE, 0, MEMMAP, 2].iter().flat_map(|v| v.to_le_bytes()).collect();
    put(START_INFO, &info);
}

fn set_entry_state(vcpu: &VcpuFd, entry: u32) {
    let mut sregs = vcpu.get_sregs().expect("registers");
    let data = kvm_segment {
        limit: u32::MAX,
        selector: 0x10,
        type_: 3,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment { selector: 8, type_: 11, ..data };
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
    sregs.cr0 = 0x11;
    sregs.cr4 = 0;
    sregs.efer = 0;
    vcpu.set_sregs(&sregs).expect("registers");
    let mut regs = vcpu.get_regs().expect("registers");
    (regs.rip, regs.rbx, regs.rflags) = (u64::from(entry), START_INFO, 2);
    vcpu.set_regs(&regs).expect("registers");
}

fn run(mut vcpu: VcpuFd, uart: &Mutex<Uart>, output: &Sender<u8>) -> Report {
    let stop = loop {
        match vcpu.run().expect("the vCPU runs") {
            VcpuExit::IoOut(port @ 0x3f8..=0x3ff, data) => {
                let mut uart = uart.lock().expect("no thread panicked");
                match (port & 7, uart.lcr & 0x80) {
                    (0, 0) => output.send(data[0]).unwrap_or_default(),
                    (1, 0) => uart.ier = data[0],
                    (3, _) => uart.lcr = data[0],
                    (7, _) => uart.scratch = data[0],
                    _ => {}
                }
            }
            VcpuExit::IoIn(port @ 0x3f8..=0x3ff, data) => {
                let mut uart = uart.lock().expect("no thread panicked");
                data[0] = match port & 7 {
                    0 => uart.input.pop_front().unwrap_or(0),
                    5 => 0x60 | u8::from(!uart.input.is_empty()),
                    7 => uart.scratch,
                    _ => 0,
                };
            }
            VcpuExit::IoOut(0x604, [0, 0x20]) => break Stop::PowerOff,
            VcpuExit::IoOut(0xcf9, [6]) => break Stop::Reset,
            VcpuExit::IoIn(_, data) | VcpuExit::MmioRead(_, data) => data.fill(0xff),
            VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..) => {}
            exit => panic!("unexpected exit {exit:?}"),
        }
    };
    let busy = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Report { stop, busy: Duration::new(busy.tv_sec as u64, busy.tv_nsec as u32) }
}

impl Vmm {
    /// Types a line on the serial port.
    pub(crate) fn send(&self, line: &str) {
        let mut uart = self.uart.lock().expect("no thread panicked");
        uart.input.extend(line.bytes());
        uart.input.push_back(b'\r');
        if uart.ier & 1 != 0 {
            self.vm.set_irq_line(SERIAL_IRQ, true).expect("an interrupt");
            self.vm.set_irq_line(SERIAL_IRQ, false).expect("an interrupt");
        }
    }

    /// Reads output up to and including `text`; panics after `patience`.
    pub(crate) fn expect(&self, text: &str, patience: Duration) -> String {
        let mut seen = String::new();
        let end = std::time::Instant::now() + patience;
        while !seen.ends_with(text) {
            match self.output.recv_timeout(end.saturating_duration_since(std::time::Instant::now())) {
                Ok(byte) => seen.push(char::from(byte)),
                Err(error) => panic!("{error}: no {text:?} in {seen:?}"),
            }
        }
        seen
    }

    /// Waits for output that should not come; what came in `time`.
    pub(crate) fn silence(&self, time: Duration) -> String {
        let mut seen = String::new();
        let end = std::time::Instant::now() + time;
        while let Ok(byte) =
            self.output.recv_timeout(end.saturating_duration_since(std::time::Instant::now()))
        {
            seen.push(char::from(byte));
        }
        seen
    }

    /// Waits until the machine stops.
    pub(crate) fn join(self) -> Report {
        self.thread.join().expect("the vCPU thread ended well")
    }
}
