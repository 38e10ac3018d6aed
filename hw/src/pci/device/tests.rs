//! Functions that come and go: under a guest that programs them meanwhile, again and again, and when something fails late.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use memory::MtreeOptions;
use qom::{Input, ObjectRef};

use crate::core::{Device, qdev};
use crate::pci::PciDevice;
use crate::testing::Rig;

/// Where the guest puts BAR 4.
const REGISTERS: u64 = 0xc0 << 32;
const STATUS: u64 = REGISTERS + 20;
const DRIVER_OK: u64 = 4;

fn running() -> Rig {
    let rig = Rig::ready("pc");
    rig.machine.start();
    rig
}

fn backend(rig: &Rig) {
    let options = [("size", Input::Keyval("1G"))];
    rig.machine.tree().create_user_object("memory-backend-ram", "mem0", options).unwrap();
}

/// Everything that a device could leave behind.
fn traces(rig: &Rig) -> String {
    let mut paths = Vec::new();
    rig.machine.tree().visit(rig.machine.tree().root(), &mut |object: &ObjectRef| paths.push(object.path()));
    let options = MtreeOptions { owner: true, disabled: true, ..MtreeOptions::default() };
    let flat = MtreeOptions { flatview: true, ..MtreeOptions::default() };
    let memory = rig.machine.memory();
    format!(
        "{}\n{}{}{}{:?}",
        paths.join("\n"),
        memory.mtree_text(options),
        memory.mtree_text(flat),
        memory.ramblock_text(),
        // Watches and posted work.
        rig.main
    )
}

fn come_and_go(rig: &mut Rig) -> Weak<dyn Device> {
    backend(rig);
    let device = rig.add("virtio-mem-pci,id=vm0,memdev=mem0,addr=2,dynamic-memslots=on").unwrap();
    for (offset, value) in [(4, 7), (0x14, 0xfebf_0000), (0x20, 0), (0x24, 0xc0)] {
        rig.config_write(2, 0, offset, value);
    }
    let _ = rig.machine.system_space().write_uint(STATUS, 1, DRIVER_OK);
    assert!(!rig.machine.system_space().view().ioeventfds().is_empty(), "the device runs");
    qdev::device_del(&rig.machine, "vm0").unwrap();
    rig.outl(0xae08, 1 << 2);
    rig.turn();
    rig.machine.tree().delete_user_object("mem0").unwrap();
    rig.turn();
    rig.events();
    Arc::downgrade(&device)
}

#[test]
fn a_device_that_went_leaves_nothing() {
    let mut rig = running();
    come_and_go(&mut rig);
    let before = traces(&rig);
    for _ in 0..16 {
        assert_eq!(come_and_go(&mut rig).strong_count(), 0);
    }
    assert_eq!(traces(&rig), before);
}

#[test]
fn a_device_that_is_refused_leaves_nothing() {
    let rig = running();
    backend(&rig);
    let refused = |more: &str| rig.add(&format!("virtio-mem-pci,id=vm0,memdev=mem0{more}")).is_err();
    let late = [",node=3", ",requested-size=3M", ",block-size=2G", ",addr=1", ",memaddr=1"];
    assert!(refused(late[0]));
    let before = traces(&rig);
    for more in late {
        assert!(refused(more), "{more}");
        assert_eq!(traces(&rig), before, "{more}");
    }
}

#[test]
fn the_lowest_bits_of_the_address_name_a_byte_too() {
    let rig = running();
    backend(&rig);
    rig.add("virtio-mem-pci,id=vm0,memdev=mem0,addr=2").unwrap();
    let io = rig.machine.io_space();
    let read = |address: u64, port: u64, size: u8| {
        let _ = io.write_uint(0xcf8, 4, 1 << 31 | 2 << 11 | address);
        io.read_uint(port, size).0
    };
    let whole = read(0, 0xcfc, 4);
    assert_eq!(whole & 0xffff, 0x1af4);
    // As drivers do it, as QEMU's test programs do it, and both.
    assert_eq!(read(0, 0xcfe, 2), whole >> 16);
    assert_eq!(read(2, 0xcfc, 2), whole >> 16);
    assert_eq!(read(2, 0xcfe, 2), whole >> 16);
    // Four bytes from the last one on are one byte: extended space is not behind the ports.
    assert_eq!(read(0xff, 0xcfc, 4), read(0xff, 0xcfc, 1));
}

#[test]
fn a_guest_may_program_a_function_while_it_goes_away() {
    let mut rig = running();
    backend(&rig);
    let stop = Arc::new(AtomicBool::new(false));
    let (machine, stopped) = (Arc::clone(&rig.machine), Arc::clone(&stop));
    let guest = std::thread::spawn(move || {
        let (io, memory) = (machine.io_space(), machine.system_space());
        while !stopped.load(Ordering::Relaxed) {
            for (offset, value) in [(4, 7), (0x20, 0), (0x24, 0xc0), (0x14, 0xfebf_0000)] {
                let _ = io.write_uint(0xcf8, 4, 1 << 31 | 2 << 11 | offset);
                let _ = io.write_uint(0xcfc, 4, value);
            }
            for status in [DRIVER_OK, 0, DRIVER_OK] {
                let _ = memory.write_uint(STATUS, 1, status);
            }
        }
    });
    for _ in 0..100 {
        let device = rig.add("virtio-mem-pci,id=vm0,memdev=mem0,addr=2").unwrap();
        qdev::complete_unplug(&rig.machine, &device);
        rig.turn();
    }
    stop.store(true, Ordering::Relaxed);
    guest.join().expect("the guest's thread did not panic");
    rig.add("virtio-mem-pci,id=vm0,memdev=mem0,addr=2").unwrap();
}

#[test]
fn a_guest_that_is_inside_an_access_finds_nothing_to_map() {
    let mut rig = running();
    backend(&rig);
    let device = rig.add("virtio-mem-pci,id=vm0,memdev=mem0,addr=2").unwrap();
    let program = |rig: &Rig| {
        let function = qom::cast::<dyn PciDevice>(&(Arc::clone(&device) as ObjectRef)).unwrap();
        for (offset, value) in [(4, 7), (0x20, 0), (0x24, 0xc0)] {
            super::config_write(&function, offset, 4, value);
        }
        rig.machine.system_space().view().lookup(STATUS).map(memory::FlatRange::region)
    };
    let region = program(&rig).expect("the registers are mapped");
    let memory::RegionKind::Io(registers) = rig.machine.memory().transaction().kind(region) else {
        panic!("registers are no memory")
    };
    qom::cast::<dyn PciDevice>(&(Arc::clone(&device) as ObjectRef)).unwrap().pci().retire_bars();
    assert_eq!(program(&rig), None, "between unmapping and destroying");
    qdev::complete_unplug(&rig.machine, &device);
    assert_eq!(program(&rig), None);
    for status in [DRIVER_OK, 0, DRIVER_OK] {
        registers.write(20, 1, status);
    }
    rig.turn();
}

#[test]
fn a_guest_that_ejects_again_and_again_fills_no_queue() {
    let mut rig = running();
    for _ in 0..1000 {
        rig.outl(0xae08, u32::MAX);
    }
    assert!(format!("{:?}", rig.main).contains("posted: 1,"), "{:?}", rig.main);
    rig.turn();
}
