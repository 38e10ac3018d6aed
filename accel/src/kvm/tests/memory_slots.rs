//! Slots and ioeventfds follow the address spaces.

use std::sync::Arc;

use memory::{DirtyClient, RamSpec, RegionDesc, RegionId};
use vmm_sys_util::eventfd::EventFd;

use super::rig::{MMIO, RAM, Report, Rig};
use crate::Accel;

const MIB: u64 = 1 << 20;

#[test]
fn one_ioctl_a_change_and_none_for_what_stays() {
    // out 10h,al; hlt
    let Some(rig) = Rig::new(&[0xe6, 0x10, 0xf4], 1, false) else { return };
    let changes = || rig.accel.stats().slot_changes;
    // Nothing before the first run, then RAM and ROM.
    assert_eq!(changes(), 0);
    rig.accel.resume();
    rig.report();
    assert_eq!(changes(), 2);
    let slots = rig.accel.memory_slots().unwrap();
    assert_eq!(slots.max - slots.free, 2);
    let parts = parts(&rig, 16);
    assert_eq!(changes(), 2);
    for (index, part) in (1..).zip(&parts) {
        rig.memory.transaction().set_enabled(*part, true);
        assert_eq!(changes(), 2 + index);
    }
    // Several at once are one ioctl each; the numbers are used again.
    let mut tx = rig.memory.transaction();
    parts[3..7].iter().for_each(|part| tx.set_enabled(*part, false));
    tx.commit();
    assert_eq!(changes(), 22);
    assert_eq!(rig.accel.memory_slots().unwrap().free, slots.max - 14);
    let mut tx = rig.memory.transaction();
    parts[3..7].iter().for_each(|part| tx.set_enabled(*part, true));
    tx.commit();
    assert_eq!((changes(), rig.accel.memory_slots().unwrap().free), (26, slots.max - 18));
}

/// Adjacent unmergeable aliases of one block, none shown.
fn parts(rig: &Rig, count: u64) -> Vec<RegionId> {
    let block = rig.memory.create_ram(RamSpec::anonymous("big", count * MIB)).unwrap();
    let mut tx = rig.memory.transaction();
    let ram = tx.ram(RegionDesc::new("big", u128::from(count * MIB)), block);
    let part = |index| {
        let alias = tx.alias(RegionDesc::new(format!("part{index}"), u128::from(MIB)), ram, index * MIB);
        tx.set_unmergeable(alias, true);
        tx.set_enabled(alias, false);
        tx.add_subregion(rig.system_root, 0x1_0000_0000 + index * MIB, alias, 0);
        alias
    };
    (0..count).map(part).collect()
}

#[test]
fn one_part_among_512_is_one_ioctl_when_it_goes_and_one_when_it_comes() {
    // out 10h,al; hlt
    let Some(rig) = Rig::new(&[0xe6, 0x10, 0xf4], 1, false) else { return };
    let slots = || rig.accel.memory_slots().unwrap();
    let parts = parts(&rig, 512);
    let mut tx = rig.memory.transaction();
    parts.iter().for_each(|part| tx.set_enabled(*part, true));
    tx.commit();
    rig.accel.resume();
    rig.report();
    // RAM and ROM besides.
    let mut changes = 514;
    assert_eq!((rig.accel.stats().slot_changes, slots().max - slots().free), (changes, 514));
    for part in [0, 1, 255, 256, 510, 511] {
        for (shown, used) in [(false, 513), (true, 514)] {
            rig.memory.transaction().set_enabled(parts[part], shown);
            changes += 1;
            let now = (rig.accel.stats().slot_changes, slots().max - slots().free);
            assert_eq!(now, (changes, used), "part {part} shown: {shown}");
        }
    }
}

#[test]
fn the_guest_sees_memory_that_appears_while_it_runs() {
    // next: mov al,[0c000h]; out 10h,al; jmp next
    let program = [0xa0, 0x00, 0xc0, 0xe6, 0x10, 0xeb, 0xf9];
    let Some(rig) = Rig::new(&program, 1, false) else { return };
    rig.accel.resume();
    rig.report();
    let block = rig.memory.create_ram(RamSpec::anonymous("late", 0x1000)).unwrap();
    block.write(0, &[0x99]).unwrap();
    let mut tx = rig.memory.transaction();
    let ram = tx.ram(RegionDesc::new("late", 0x1000), block);
    tx.add_subregion(rig.system_root, 0xc000, ram, 0);
    tx.commit();
    while rig.report() != Report::Port(0x10, 1, 0x99) {}
    rig.memory.transaction().del_subregion(rig.system_root, ram);
    while rig.report() == Report::Port(0x10, 1, 0x99) {}
}

#[test]
fn the_dirty_log_names_the_pages_that_the_guest_wrote() {
    // mov [3000h],al; mov [5fffh],ax; out 10h,al; jmp $
    let program = [0xa2, 0x00, 0x30, 0xa3, 0xff, 0x5f, 0xe6, 0x10, 0xeb, 0xfe];
    let Some(rig) = Rig::new(&program, 1, false) else { return };
    rig.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
    rig.accel.resume();
    rig.report();
    let changes = rig.accel.stats().slot_changes;
    // The first look at a log may find everything.
    rig.memory.sync_dirty_log();
    assert!(!rig.memory.take_dirty(DirtyClient::Migration, &rig.ram, 0, RAM).is_empty());
    rig.accel.pause();
    rig.accel.reset();
    rig.accel.resume();
    rig.report();
    rig.memory.sync_dirty_log();
    let log = rig.ram.dirty_log(DirtyClient::Migration).unwrap();
    let dirty: Vec<u64> = (0..RAM / 0x1000).filter(|page| log.is_dirty(page * 0x1000)).collect();
    assert_eq!(dirty, [3, 5, 6]);
    rig.memory.stop_global_dirty_log(DirtyClient::Migration);
    // RAM and ROM.
    assert_eq!(rig.accel.stats().slot_changes, changes + 2);
}

#[test]
fn ioeventfds_fire_without_an_exit_to_us() {
    // mov ax,5; out 30h,ax; mov [0a040h],ax; mov [0a044h],al; mov ax,6; mov [0a040h],ax; out 10h,al; jmp $
    let program = [
        0xb8, 0x05, 0x00, 0xe7, 0x30, 0xa3, 0x40, 0xa0, 0xa2, 0x44, 0xa0, 0xb8, 0x06, 0x00, 0xa3, 0x40, 0xa0,
        0xe6, 0x10, 0xeb, 0xfe,
    ];
    let Some(rig) = Rig::new(&program, 1, false) else { return };
    let fds: Vec<_> = (0..3).map(|_| Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap())).collect();
    let mut tx = rig.memory.transaction();
    tx.add_ioeventfd(rig.ports, 0x30, 2, None, Arc::clone(&fds[0]));
    tx.add_ioeventfd(rig.mmio, 0x40, 2, Some(5), Arc::clone(&fds[1]));
    tx.add_ioeventfd(rig.mmio, 0x44, 0, None, Arc::clone(&fds[2]));
    tx.commit();
    rig.accel.resume();
    // The value that does not match reaches the device.
    assert_eq!(rig.report(), Report::Mmio(0x40, 2, 6));
    assert_eq!(rig.report(), Report::Port(0x10, 1, 6));
    assert_eq!(fds.iter().map(|fd| fd.read().unwrap()).collect::<Vec<_>>(), [1, 1, 1]);
    // Taken back, writes reach the devices again.
    rig.accel.pause();
    let mut tx = rig.memory.transaction();
    tx.del_ioeventfd(rig.ports, 0x30, 2, None, &fds[0]);
    tx.del_ioeventfd(rig.mmio, 0x40, 2, Some(5), &fds[1]);
    tx.del_ioeventfd(rig.mmio, 0x44, 0, None, &fds[2]);
    tx.commit();
    rig.accel.reset();
    rig.accel.resume();
    assert_eq!(rig.report(), Report::Port(0x30, 2, 5));
    assert_eq!(rig.report(), Report::Mmio(0x40, 2, 5));
    assert_eq!(rig.report(), Report::Mmio(0x44, 1, 5));
    assert_eq!(rig.system.read_uint(MMIO, 1).0, 0x50);
    assert!(rig.port_probe.hook.lock().unwrap().is_none());
}
