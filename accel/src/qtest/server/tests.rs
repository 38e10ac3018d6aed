//! Claims about the qtest server on a character device.

use std::io::{self, Write};
use std::sync::mpsc;
use std::time::Duration;

use chardev::{ChardevSet, Legacy, parse_legacy};
use mainloop::{Clock, MainLoop};
use memory::{AccessConstraints, Memory, RamSpec, RegionDesc, RegionOps, SIZE_ALL};

use super::*;
use crate::IrqChip;
use crate::irq::UserIrq;

/// A write of N to port 0 raises line N, a write to port 1 lowers it.
struct Lines(Arc<dyn IrqChip>);

impl RegionOps for Lines {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&self, offset: u64, _size: u8, value: u64) {
        self.0.set_gsi(value as u32, offset == 0);
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 4).implemented(1, 4)
    }
}

#[derive(Clone, Default)]
struct LogBytes(Arc<Mutex<Vec<u8>>>);

impl Write for LogBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A server on a unix socket, and the client's end of it.
struct Rig {
    main: MainLoop,
    set: ChardevSet,
    _server: Server,
    client: std::os::unix::net::UnixStream,
    log: LogBytes,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qtest");
        let main = MainLoop::new().unwrap();
        let set = ChardevSet::new(main.handle());
        let Ok(Legacy::New(options)) =
            parse_legacy("qtest", &format!("unix:{},server=on,wait=off", path.display()))
        else {
            panic!("a socket")
        };
        let chardev = set.add(&options, &mut |_| {}).unwrap();
        let memory = Memory::new();
        let chip = UserIrqChip::new();
        let block = memory.create_ram(RamSpec::anonymous("ram", 0x1000)).unwrap();
        let mut tx = memory.transaction();
        let root = tx.container(RegionDesc::new("system", SIZE_ALL));
        let ram = tx.ram(RegionDesc::new("ram", 0x1000), block);
        tx.add_subregion(root, 0x1000, ram, 0);
        let lines = Arc::new(Lines(Arc::new(UserIrq(Arc::clone(&chip)))));
        let ports = tx.io(RegionDesc::new("io", 0x1_0000), lines);
        let system = tx.address_space("memory", root);
        let io = tx.address_space("I/O", ports);
        tx.commit();
        let clock = main.handle().virtual_clock();
        clock.set_manual();
        let target = Target {
            system,
            io,
            clock,
            chip: Some(chip),
            is_gsis: Box::new(|path, direction| path == "ioapic" && direction == Direction::In),
        };
        let log = LogBytes::default();
        let server = Server::start(&chardev, Log::to(log.clone()), target).unwrap();
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.set_nonblocking(true).unwrap();
        Self { main, set, _server: server, client, log, _folder: folder }
    }

    /// Sends and runs the loop until `lines` lines came back.
    fn talk(&mut self, input: &str, lines: usize) -> String {
        self.client.write_all(input.as_bytes()).unwrap();
        let mut text = Vec::new();
        while text.iter().filter(|byte| **byte == b'\n').count() < lines {
            self.main.turn(Some(Duration::from_secs(5))).unwrap();
            let mut piece = [0; 4096];
            match io::Read::read(&mut self.client, &mut piece) {
                Ok(count) => text.extend_from_slice(&piece[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        String::from_utf8(text).unwrap()
    }
}

#[test]
fn a_client_on_a_socket_drives_memory_and_the_log_has_it_all() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.talk("writel 0x1000 0xabcd\nreadw 0x1000\nreadb 0x0\n", 3),
        "OK\nOK 0x000000000000abcd\nOK 0x0000000000000000\n"
    );
    let log = String::from_utf8(rig.log.0.lock().unwrap().clone()).unwrap();
    let without_times: Vec<_> = log
        .lines()
        .map(|line| {
            let (stamp, text) = line.split_once("] ").unwrap();
            format!("{} {text}", &stamp[..2])
        })
        .collect();
    assert_eq!(without_times[..4], ["[I OPENED", "[R writel 0x1000 0xabcd", "[S OK", "[R readw 0x1000"]);
    assert!(log.starts_with("[I 0.000000] OPENED\n[R +0."), "{log}");
    assert_eq!(rig.set.list().len(), 1);
}

#[test]
fn lines_are_reported_before_the_reply_of_the_command_that_moved_them() {
    let mut rig = Rig::new();
    assert_eq!(rig.talk("outb 0 4\n", 1), "OK\n");
    assert_eq!(
        rig.talk("irq_intercept_in /nowhere\nirq_intercept_in ioapic\noutb 1 4\noutb 0 9\n", 6),
        "FAIL Unknown device\nOK\nIRQ lower 4\nOK\nIRQ raise 9\nOK\n"
    );
}

#[test]
fn time_moves_only_by_command_and_runs_timers_before_the_reply() {
    let mut rig = Rig::new();
    let (sender, fired) = mpsc::channel();
    let timer = rig.main.handle().timer(Clock::Virtual, 1_000, move || sender.send(()).unwrap());
    assert_eq!(rig.talk("clock_step 999\n", 1), "OK 999\n");
    assert!(fired.try_recv().is_err());
    assert_eq!(rig.talk("clock_step\n", 1), "OK 1000\n");
    assert!(fired.try_recv().is_ok());
    assert_eq!(rig.talk("clock_step\nclock_set 5000\nclock_step 1\n", 3), "OK 1000\nOK 5000\nOK 5001\n");
    drop(timer);
}
