//! Claims about the commands, on a machine with half of a virtio-mem device plugged.

use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::testing::{Rig, config};

const M: u64 = 1 << 20;
/// Where device memory starts on this `pc`.
const BASE: u64 = 4 << 30;

struct Setup {
    rig: Rig,
    folder: TempDir,
}

impl Setup {
    /// The first 2 MiB of 16 are plugged, and hold ones.
    fn new(protection: &str) -> Self {
        let backend = |machine: &Arc<Machine>| {
            let size = [("size", qom::Input::Keyval("16M"))];
            machine.tree().create_user_object("memory-backend-ram", "mem0", size).map(drop)
        };
        let rig = Rig::build_with(config("pc"), backend).unwrap();
        rig.add(&format!("virtio-mem-pci,id=vm0,memdev=mem0,unplugged-protection={protection}")).unwrap();
        rig.machine.finish().unwrap();
        let view = rig.machine.system_space().view();
        let block = view.lookup(BASE).and_then(|range| range.block().cloned()).expect("device memory");
        block.discard_manager().unwrap().populate(0..2 * M).unwrap();
        block.write(0, &[1; 2 << 20]).unwrap();
        Self { rig, folder: tempfile::tempdir().unwrap() }
    }

    fn handlers(&self) -> MachineHandlers {
        MachineHandlers::new(Arc::clone(&self.rig.machine))
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("f")
    }

    fn pmemsave(&self, addr: u64, size: u64) -> Result<Vec<u8>> {
        let name = self.file().to_str().unwrap().to_owned();
        self.handlers().pmemsave(addr.cast_signed(), size.cast_signed(), name)?;
        Ok(std::fs::read(self.file()).unwrap())
    }

    fn memsave(&self, addr: u64, size: u64, cpu: Option<i64>) -> Result<Vec<u8>> {
        let name = self.file().to_str().unwrap().to_owned();
        self.handlers().memsave(addr.cast_signed(), size.cast_signed(), name, cpu)?;
        Ok(std::fs::read(self.file()).unwrap())
    }

    fn read(&self, addr: u64, size: u64, physical: bool) -> String {
        self.handlers().x_pliant_read_memory(addr, size, Some(physical), None).unwrap().data
    }
}

fn desc<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().desc().to_owned()
}

#[test]
fn memory_is_saved_by_either_kind_of_address() {
    let setup = Setup::new("block");
    let _ = setup.rig.machine.system_space().write(0x1000, b"hello");
    assert_eq!(setup.pmemsave(0x1000, 6).unwrap(), b"hello\0");
    assert_eq!(setup.memsave(0x1000, 6, Some(0)).unwrap(), b"hello\0", "no paging");
    assert_eq!(setup.pmemsave(0, 0).unwrap(), b"");
    // More than is read in one go.
    let all = setup.pmemsave(BASE, 2 * M).unwrap();
    assert!(all.len() as u64 == 2 * M && all.iter().all(|byte| *byte == 1));
}

#[test]
fn what_is_not_plugged_is_an_error_and_what_came_before_is_saved() {
    for protection in ["block", "slot", "off"] {
        let setup = Setup::new(protection);
        assert_eq!(desc(setup.pmemsave(BASE + 2 * M, 1)), "Memory at 0x0000000100200000 is not plugged");
        assert_eq!(desc(setup.pmemsave(BASE + 2 * M - 8, 16)), "Memory at 0x0000000100200000 is not plugged");
        assert_eq!(std::fs::read(setup.file()).unwrap(), [1; 8]);
        assert_eq!(desc(setup.memsave(BASE + 4 * M, 4, None)), "Memory at 0x0000000100400000 is not plugged");
        assert_eq!(setup.read(BASE + 2 * M - 2, 8, true), "0101");
        assert_eq!(setup.read(BASE + 2 * M, 8, true), "");
        assert_eq!(setup.read(BASE + 4 * M, 8, false), "");
    }
}

#[test]
fn where_nothing_is_pmemsave_writes_zeroes_and_memsave_fails() {
    let setup = Setup::new("off");
    let nowhere = 1 << 44;
    assert_eq!(setup.pmemsave(nowhere, 4).unwrap(), [0; 4]);
    // From the end of RAM into nothing; from the end of all addresses to the start.
    assert_eq!(setup.pmemsave((1 << 30) - 2, 5).unwrap(), [0; 5]);
    assert_eq!(setup.pmemsave(u64::MAX, 4).unwrap(), [0; 4]);
    let invalid = "Invalid addr 0x0000100000000000/size 4 specified";
    assert_eq!(desc(setup.memsave(nowhere, 4, None)), invalid);
    let invalid = "Invalid addr 0xffffffffffffffff/size 4 specified";
    assert_eq!(desc(setup.memsave(u64::MAX, 4, None)), invalid);
    let invalid = "Invalid addr 0x0000000000000000/size 18446744073709551615 specified";
    assert_eq!(desc(setup.memsave(0, u64::MAX, None)), invalid);
    assert_eq!(setup.read(nowhere, 4, true), "");
}

#[test]
fn files_and_cpus_that_are_not_there_are_named() {
    let setup = Setup::new("off");
    let h = setup.handlers();
    let nonexistent = "Could not open '/nonexistent/x': No such file or directory";
    assert_eq!(desc(h.pmemsave(0, 4, "/nonexistent/x".into())), nonexistent);
    assert_eq!(desc(h.memsave(0, 4, "/nonexistent/x".into(), None)), nonexistent);
    assert_eq!(desc(h.memsave(0, 4, "/dev/full".into(), None)), "writing memory to '/dev/full' failed");
    let no_cpu = "Parameter 'cpu-index' expects a CPU number";
    for index in [1, -1, i64::MAX] {
        assert_eq!(desc(setup.memsave(0, 4, Some(index))), no_cpu);
        assert_eq!(desc(h.x_pliant_read_memory(0, 4, None, Some(index))), no_cpu);
        assert_eq!(desc(h.x_pliant_query_registers(Some(index))), no_cpu);
    }
    let much = desc(h.x_pliant_read_memory(0, M + 1, None, None));
    assert_eq!(much, "Parameter 'size' expects a number of at most 1048576");
}

#[test]
fn a_machine_without_a_cpu_has_physical_memory_only() {
    let memory = crate::core::MemoryConfig { size: Some(M), ..Default::default() };
    let rig = Rig::build(crate::core::MachineConfig { memory, ..config("none") }).unwrap();
    let h = MachineHandlers::new(Arc::clone(&rig.machine));
    assert_eq!(h.x_pliant_read_memory(0, 2, Some(true), None).unwrap().data, "0000");
    assert_eq!(desc(h.x_pliant_read_memory(0, 2, None, None)), "Can not dump without CPU");
    assert_eq!(desc(h.memsave(0, 2, "f".into(), None)), "Parameter 'cpu-index' expects a CPU number");
}

#[test]
fn registers_are_told_by_their_names() {
    let setup = Setup::new("off");
    let registers = setup.handlers().x_pliant_query_registers(None).unwrap();
    assert_eq!((registers.rip, registers.cs.base, registers.cs.selector), (0xfff0, 0xffff_0000, 0xf000));
}
