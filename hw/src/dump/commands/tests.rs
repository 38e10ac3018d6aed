//! Claims about dumps of a machine with some memory plugged, and about what happens around them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use qapi::commands::RunStateCommands;
use qapi::types::DumpStatus;
use tempfile::TempDir;

use super::*;
use crate::mem::MemoryDevices;
use crate::testing::{Rig, config};

const M: u64 = 1 << 20;
/// Where device memory starts on this `pc`.
const BASE: u64 = 4 << 30;
const WAIT: std::time::Duration = std::time::Duration::from_secs(30);

struct Setup {
    rig: Rig,
    folder: TempDir,
}

impl Setup {
    /// 2 MiB at 2 MiB of 16 are plugged, and hold ones; there are two words in the RAM.
    fn new() -> Self {
        let backend = |machine: &Arc<Machine>| {
            let size = [("size", qom::Input::Keyval("16M"))];
            machine.tree().create_user_object("memory-backend-ram", "mem0", size).map(drop)
        };
        let rig = Rig::build_with(config("pc"), backend).unwrap();
        rig.add("virtio-mem-pci,id=vm0,memdev=mem0").unwrap();
        rig.machine.finish().unwrap();
        let space = rig.machine.system_space();
        let block =
            space.view().lookup(BASE).and_then(|range| range.block().cloned()).expect("device memory");
        block.discard_manager().unwrap().populate(2 * M..4 * M).unwrap();
        block.write(2 * M, &[1; 2 << 20]).unwrap();
        let _ = space.write(0x1000, b"first");
        let _ = space.write((1 << 30) - 4, b"last");
        let _ = rig.events();
        Self { rig, folder: tempfile::tempdir().unwrap() }
    }

    fn handlers(&self) -> MachineHandlers {
        MachineHandlers::new(Arc::clone(&self.rig.machine))
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("core")
    }

    fn dump(&self, detach: bool, filter: Option<(i64, i64)>) -> Result<()> {
        let protocol = format!("file:{}", self.file().display());
        let (begin, length) = filter.unzip();
        self.handlers().dump_guest_memory(false, protocol, Some(detach), begin, length, None)
    }

    fn events(&self) -> Vec<String> {
        // The sizes are not what is looked for here.
        let short = |event: String| event.replace(", \"completed\": 1075838976", "");
        self.rig.events().into_iter().map(short).collect()
    }

    fn wait(&mut self) {
        let dumps = Dumps::of(&self.rig.machine);
        let until = std::time::Instant::now() + WAIT;
        while dumps.in_progress() {
            assert!(std::time::Instant::now() < until);
            self.rig.main.turn(Some(WAIT)).unwrap();
        }
    }
}

fn desc<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().desc().to_owned()
}

/// Segments of memory of a wide file: contents by physical address.
fn memory_of(file: &[u8]) -> BTreeMap<u64, &[u8]> {
    let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
    let headers = (0..count).map(|index| number(32) as usize + 56 * index);
    let loads = headers.filter(|at| file[*at] == 1);
    loads
        .map(|at| {
            let [offset, linear, physical, in_file, in_memory] =
                [8, 16, 24, 32, 40].map(|field| number(at + field));
            assert_eq!((linear, in_file), (physical, in_memory));
            (physical, &file[offset as usize..(offset + in_file) as usize])
        })
        .collect()
}

const TOTAL: i64 = (1 << 30) + (2 << 20);

#[test]
fn a_dump_holds_all_memory_that_is_there_and_nothing_else() {
    let setup = Setup::new();
    setup.dump(false, None).unwrap();
    let bytes = std::fs::read(setup.file()).unwrap();
    let memory = memory_of(&bytes);
    let shape: Vec<_> = memory.iter().map(|(at, bytes)| (*at, bytes.len() as u64)).collect();
    assert_eq!(shape, [(0, 1 << 30), (BASE + 2 * M, 2 * M)]);
    assert_eq!(&memory[&0][0x1000..0x1008], b"first\0\0\0");
    assert_eq!(&memory[&0][(1 << 30) - 4..], b"last");
    assert!(memory[&(BASE + 2 * M)].iter().all(|byte| *byte == 1));
    // It takes as much room as the guest wrote, and the guest still takes as little.
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(setup.file()).unwrap();
    assert_eq!(meta.mode() & 0o777, MODE.bits());
    assert!(meta.blocks() * 512 < 4 * M, "{}", meta.blocks());
    let view = setup.rig.machine.system_space().view();
    let ram = view.lookup(0).unwrap().block().unwrap();
    assert!(ram.reader().next_data(16 * M..512 * M).is_empty());
}

#[test]
fn what_is_dumped_can_be_chosen() {
    let setup = Setup::new();
    setup.dump(false, Some((0xfff, 8))).unwrap();
    let bytes = std::fs::read(setup.file()).unwrap();
    assert_eq!(memory_of(&bytes), BTreeMap::from([(0xfff, &b"\0first\0\0"[..])]));
    setup.dump(false, Some((BASE.cast_signed(), 1 << 40))).unwrap();
    let bytes = std::fs::read(setup.file()).unwrap();
    assert_eq!(memory_of(&bytes).keys().collect::<Vec<_>>(), [&(BASE + 2 * M)]);
    let none = "dump: no guest memory to dump";
    assert_eq!(desc(setup.dump(false, Some((BASE.cast_signed(), 2 << 20)))), none, "unplugged");
    assert_eq!(desc(setup.dump(false, Some((1 << 44, 4096)))), none);
    assert_eq!(desc(setup.dump(false, Some((-1, 4096)))), none);
    let failed = DumpQueryResult { status: DumpStatus::Failed, completed: 0, total: 0 };
    assert_eq!(setup.handlers().query_dump().unwrap(), failed);
}

#[test]
fn mistakes_are_answered_in_qemus_words_and_order() {
    use DumpGuestMemoryFormat::{KdumpLzo, KdumpZlib, WinDmp};
    let setup = Setup::new();
    let h = setup.handlers();
    let dump = |paging, protocol: &str, begin, length, format| {
        desc(h.dump_guest_memory(paging, protocol.into(), None, begin, length, format))
    };
    let filter = "kdump-compressed format doesn't support paging or filter";
    for (paging, protocol, begin, length, format, expected) in [
        (true, "foo", None, None, Some(KdumpZlib), filter),
        (false, "foo", Some(0), None, Some(KdumpLzo), filter),
        (true, "foo", Some(0), Some(4096), Some(WinDmp), filter),
        (true, "foo", Some(0), None, None, "Parameter 'length' is missing"),
        (false, "foo", None, Some(1), None, "Parameter 'begin' is missing"),
        (false, "foo", None, None, Some(KdumpLzo), "kdump-lzo is not available now"),
        (false, "foo", None, None, Some(WinDmp), "win-dmp is not available now"),
        (false, "foo", Some(0), Some(0), None, "parameter 'protocol' must start with 'file:' or 'fd:'"),
        (false, "fd:nope", None, None, None, "File descriptor named 'nope' has not been found"),
        (false, "file:", None, None, None, "Could not create '': No such file or directory"),
        (
            false,
            "file:/nope/x",
            Some(0),
            Some(0),
            None,
            "Could not create '/nope/x': No such file or directory",
        ),
        (false, "file:/dev/null", Some(0), Some(0), None, "parameter 'length' expects a non-zero size"),
        (
            false,
            "file:/dev/full",
            None,
            None,
            None,
            "dump: failed to write elf header: No space left on device",
        ),
    ] {
        assert_eq!(dump(paging, protocol, begin, length, format), expected);
    }
    assert_eq!(h.query_dump_guest_memory_capability().unwrap().formats, [DumpGuestMemoryFormat::Elf]);
}

#[test]
fn the_guest_stands_still_meanwhile_and_everybody_hears_of_it_in_qemus_order() {
    let mut setup = Setup::new();
    let h = setup.handlers();
    let none = DumpQueryResult { status: DumpStatus::None, completed: 0, total: 0 };
    assert_eq!(h.query_dump().unwrap(), none);
    h.cont().unwrap();
    let _ = setup.events();
    setup.dump(false, None).unwrap();
    let completed =
        format!("DUMP_COMPLETED {{\"result\": {{\"total\": {TOTAL}, \"status\": \"completed\"}}}}");
    assert_eq!(setup.events(), ["STOP", &completed, "RESUME"]);
    // On a thread: nobody has to wait, and nobody can move the guest.
    setup.dump(true, None).unwrap();
    assert_eq!(setup.events(), ["STOP"]);
    let status = h.query_status().unwrap();
    assert_eq!((status.running, status.status), (false, qapi::types::RunState::SaveVm));
    assert!(MemoryDevices::of(&setup.rig.machine).is_frozen());
    assert_eq!(h.query_dump().unwrap().status, DumpStatus::Active);
    let please_wait = "There is a dump in process, please wait.";
    assert_eq!(desc(h.stop()), please_wait);
    assert_eq!(desc(h.cont()), please_wait);
    assert_eq!(desc(h.dump_guest_memory(true, "foo".into(), None, Some(0), None, None)), please_wait);
    // A reset would show in the file.
    h.system_reset().unwrap();
    assert_eq!(setup.events(), [""; 0]);
    setup.wait();
    let unplugged =
        "MEMORY_DEVICE_SIZE_CHANGE {\"size\": 0, \"qom-path\": \"/machine/peripheral/vm0\", \"id\": \"vm0\"}";
    let reset = "RESET {\"guest\": false, \"reason\": \"host-qmp-system-reset\"}";
    assert_eq!(setup.events(), [&completed, unplugged, reset, "RESUME"]);
    assert!(!MemoryDevices::of(&setup.rig.machine).is_frozen());
    let done = DumpQueryResult { status: DumpStatus::Completed, completed: TOTAL, total: TOTAL };
    assert_eq!(h.query_dump().unwrap(), done);
    assert!(h.query_status().unwrap().running);
}

#[test]
fn a_dump_that_fails_lets_the_guest_go_on() {
    let mut setup = Setup::new();
    let h = setup.handlers();
    h.cont().unwrap();
    let _ = setup.events();
    let error = "dump: failed to write elf header: No space left on device";
    for detach in [false, true] {
        let result = h.dump_guest_memory(false, "file:/dev/full".into(), Some(detach), None, None, None);
        assert_eq!(result.err().map(|e| e.desc().to_owned()), (!detach).then(|| error.to_owned()));
        setup.wait();
        let failed = format!(
            "DUMP_COMPLETED {{\"result\": {{\"total\": {TOTAL}, \"status\": \"failed\", \"completed\": 0}}, \"error\": \"{error}\"}}"
        );
        assert_eq!(setup.events(), ["STOP", &failed, "RESUME"]);
        assert_eq!(h.query_dump().unwrap().status, DumpStatus::Failed);
    }
    // One that cannot begin tells nobody but the client.
    desc(setup.dump(false, Some((0, 0))));
    assert_eq!(setup.events(), ["STOP", "RESUME"]);
    desc(h.dump_guest_memory(false, "file:/nope/x".into(), None, None, None, None));
    assert_eq!(setup.events(), [""; 0]);
}

#[test]
fn a_pipe_gets_the_same_bytes_as_a_file_and_one_that_breaks_is_an_error() {
    let setup = Setup::new();
    setup.dump(false, Some((0, 4 << 20))).unwrap();
    let machine = &setup.rig.machine;
    let write_to = |file: File| {
        let plan = plan(machine, false, Some((0, 4 << 20))).unwrap();
        write::write(&plan, file, &Progress::default())
    };
    let (mut reader, writer) = std::io::pipe().unwrap();
    let piped = std::thread::scope(|scope| {
        let piped = scope.spawn(move || {
            let mut all = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut all).unwrap();
            all
        });
        write_to(File::from(std::os::fd::OwnedFd::from(writer))).unwrap();
        piped.join().unwrap()
    });
    assert!(piped == std::fs::read(setup.file()).unwrap());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let broken = |result| desc(result).replace("Broken pipe", "…");
    let no_header = write_to(File::from(std::os::fd::OwnedFd::from(writer)));
    assert_eq!(broken(no_header), "dump: failed to write elf header: …");
    let (mut reader, writer) = std::io::pipe().unwrap();
    let no_memory = std::thread::scope(|scope| {
        scope.spawn(move || std::io::Read::read_exact(&mut reader, &mut vec![0; 1 << 20]).unwrap());
        write_to(File::from(std::os::fd::OwnedFd::from(writer)))
    });
    assert_eq!(broken(no_memory), "dump: failed to save memory: …");
}

#[test]
fn a_machine_that_goes_away_ends_its_dump() {
    let setup = Setup::new();
    let dumps = Dumps::of(&setup.rig.machine);
    dumps.begin(&setup.rig.machine);
    let plan = plan(&setup.rig.machine, false, None).unwrap();
    let progress = dumps.set_total(plan.total());
    drop(dumps);
    drop(setup);
    assert_eq!(desc(write::write(&plan, File::create("/dev/null").unwrap(), &progress)), "dump: cancelled");
}

#[test]
fn a_descriptor_with_a_name_is_written_to_once() {
    let setup = Setup::new();
    let h = setup.handlers();
    let names = Arc::new(chardev::fds::NamedFds::default());
    let dump = |name: &str| {
        let dump = || h.dump_guest_memory(false, format!("fd:{name}"), None, Some(0), Some(4096), None);
        setup.rig.machine.chardevs().fds().during(&names, dump)
    };
    names.put("a".into(), File::create(setup.file()).unwrap().into());
    dump("a").unwrap();
    let bytes = std::fs::read(setup.file()).unwrap();
    assert_eq!(memory_of(&bytes).keys().collect::<Vec<_>>(), [&0]);
    assert_eq!(desc(dump("a")), "File descriptor named 'a' has not been found");
    names.put("readonly".into(), File::open(setup.file()).unwrap().into());
    assert_eq!(desc(dump("readonly")), "dump: failed to write elf header: Bad file descriptor");
}

#[test]
fn the_note_of_a_guest_that_tells_where_it_is_comes_last() {
    let rig = Rig::build(config("pc")).unwrap();
    rig.add("vmcoreinfo").unwrap();
    rig.machine.finish().unwrap();
    let setup = Setup { rig, folder: tempfile::tempdir().unwrap() };
    let notes = || {
        setup.dump(false, Some((0, 4096))).unwrap();
        let file = std::fs::read(setup.file()).unwrap();
        let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
        // The first program header of a 64-bit file, or of a 32-bit one.
        let half = |at: usize| word(at) & 0xffff_ffff;
        let (at, len) = if file[4] == 2 {
            let first = word(32);
            (word(first + 8), word(first + 32))
        } else {
            let first = half(28);
            (half(first + 4), half(first + 16))
        };
        file[at..at + len].to_vec()
    };
    let before = notes();
    let note = [&[3u8, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0][..], b"vm\0\0", b"info"].concat();
    let space = setup.rig.machine.system_space();
    assert!(space.write(0x8000, &note).is_ok());
    let said = |format: u8, size: u32, address: u64| {
        let bytes = [&[1, 0, format, 0][..], &size.to_le_bytes(), &address.to_le_bytes()].concat();
        assert!(space.write(0x9000, &bytes).is_ok());
        let key = (0x20u16..0x40).find(|key| {
            let io = setup.rig.machine.io_space();
            assert!(io.write_uint(0x510, 2, (*key).into()).is_ok());
            // `etc/table-loader` begins with a 1, too, and goes on with a name.
            let start: Vec<u64> = (0..5).map(|_| io.read_uint(0x511, 1).0).collect();
            start[..2] == [1, 0] && start[4] != u64::from(b'e')
        });
        let control = u32::from(key.unwrap()) << 16 | 8 | 0x10;
        let request = [&control.to_be_bytes()[..], &16u32.to_be_bytes(), &0x9000u64.to_be_bytes()].concat();
        assert!(space.write(0xa000, &request).is_ok());
        assert!(setup.rig.machine.io_space().write_uint(0x514, 8, 0xa000u64.swap_bytes()).is_ok());
        assert_eq!(space.read_uint(0xa000, 4).0, 0);
    };
    said(1, 64, 0x8000);
    assert_eq!(notes(), [&before[..], &note].concat());
    for (format, size, address) in
        [(0, 64, 0x8000), (2, 64, 0x8000), (1, 19, 0x8000), (1, u32::MAX, 0x8000), (1, 64, 1 << 40)]
    {
        said(format, size, address);
        assert_eq!(notes(), before, "{format} {size} {address:#x}");
    }
    said(1, 64, 0x8000);
    setup.rig.machine.request_reset(qapi::types::ShutdownCause::GuestReset);
    let mut setup = setup;
    setup.rig.turn();
    assert_eq!(vmcoreinfo::place(&setup.rig.machine), None);
}
