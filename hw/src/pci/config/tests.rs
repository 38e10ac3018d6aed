//! Claims about configuration space and its write masks.

use super::*;

fn virtio() -> ConfigSpace {
    let info = PciInfo { revision: 1, interrupt_pin: 1, ..PciInfo::new(0x1af4, 0x1058, 0x00ff) };
    ConfigSpace::new(&info)
}

#[test]
fn the_header_is_laid_out_as_in_the_oracle() {
    let mut space = virtio();
    space.add_capability(9, 16).unwrap();
    assert_eq!(space.bytes()[..16], [0xf4, 0x1a, 0x58, 0x10, 0, 0, 0x10, 0, 1, 0, 0xff, 0, 0, 0, 0, 0]);
    assert_eq!(space.get32(reg::SUBSYSTEM_VENDOR), 0x1100_1af4);
}

#[test]
fn capabilities_pack_and_link_to_the_earlier_one() {
    let mut space = virtio();
    let at: Vec<_> = [16, 16, 16, 20, 20, 12].map(|size| space.add_capability(9, size).unwrap()).to_vec();
    assert_eq!(at, [0x40, 0x50, 0x60, 0x70, 0x84, 0x98]);
    assert_eq!(space.read(reg::CAPABILITIES, 1), 0x98);
    assert_eq!(space.read(0x99, 1), 0x84);
    assert_eq!(space.read(0x41, 1), 0);
    assert_eq!(space.find_capability(9), Some(0x98));
    assert_eq!(space.find_capability(5), None);
}

#[test]
fn only_writable_bits_change() {
    let mut space = virtio();
    space.write(reg::VENDOR_ID, 4, 0);
    space.write(reg::COMMAND, 2, 0xffff);
    assert_eq!(space.get32(0), 0x1058_1af4);
    assert_eq!(space.command(), 0x0507);
    space.set16(reg::STATUS, 0x8010);
    space.write(reg::STATUS, 2, 0xffff);
    assert_eq!(space.get16(reg::STATUS), 0x0010);
    space.reset();
    assert_eq!((space.command(), space.get16(reg::STATUS)), (0, 0x0010));
}

#[test]
fn accesses_beyond_the_end_are_harmless() {
    let mut space = virtio();
    space.write(0xfe, 4, 0xffff_ffff);
    assert_eq!(space.read(0xfe, 4), 0xffff_ffff);
    assert_eq!(space.read(0xfff0, 4), 0xffff_ffff);
    while space.add_capability(9, 16).is_some() {}
    assert_eq!(space.add_capability(9, 4).is_some(), space.bytes().len() > 4096);
}
