//! A driver goes on in another machine, as virtio-rng's: its ring is half used then.

use std::sync::Arc;

use mainloop::Clock;
use memory::DirtyClient;
use vmstate::{Decoder, Encoder, Errno};

use crate::testing::{Rig, carry, config};
use crate::virtio::features::{IN_ORDER, RING_EVENT_IDX, RING_INDIRECT_DESC};
use crate::virtio::testing::driver::{Driver, Piece};

const RNG: &str = "virtio-rng-pci";
const MSIX_TABLE: u64 = 0xe000_0000;

fn rig(text: &str) -> Rig {
    let rig = Rig::build(config("q35")).unwrap();
    rig.add(text).unwrap();
    rig
}

#[test]
fn a_ring_half_used_goes_on_with_and_without_event_indices() {
    for features in [0, RING_EVENT_IDX, RING_EVENT_IDX | RING_INDIRECT_DESC | IN_ORDER] {
        let text = "virtio-rng-pci,in_order=on";
        let mut driver = Driver::new(&[text]);
        driver.start(features, 1);
        for _ in 0..11 {
            assert_eq!(driver.send(0, &[Piece::In(16)]).len(), 16);
        }
        assert_eq!(driver.isr(), 1);
        driver.put(0, &[Piece::In(16)]);
        // Two are offered of which nobody was told before the machine stopped.
        driver.offer(0, &[Piece::In(24)]);
        driver.offer(0, &[Piece::In(32)]);
        let mut driver = driver.carried(rig(text));
        assert_eq!([16, 24, 32].map(|_| driver.take(0).map_or(0, |bytes| bytes.len())), [16, 24, 32]);
        assert_eq!(driver.status(), 0xf);
        let told = driver.isr();
        assert_eq!(told, u8::from(features & RING_EVENT_IDX == 0), "with an index, of the first buffer only");
        for _ in 0..20 {
            assert_eq!(driver.send(0, &[Piece::In(16)]).len(), 16);
        }
        driver.start(features, 1);
        assert_eq!(driver.send(0, &[Piece::In(16)]).len(), 16, "and can be reset");
    }
}

#[test]
fn what_the_driver_has_set_up_is_as_it_left_it() {
    let driver = Driver::new(&[RNG]);
    driver.write(20, 1, 3);
    driver.write(0, 4, 1);
    driver.write(8, 4, 1);
    driver.write(12, 4, 0x8000_0001);
    driver.write(22, 2, 5);
    driver.write(16, 2, 1);
    let look = |driver: &Driver| [0, 4, 8, 12, 16, 20, 22, 24].map(|at| driver.read(at, 4));
    let before = look(&driver);
    let driver = driver.carried(rig(RNG));
    assert_eq!(look(&driver), before);
    assert_eq!(before[3], 0x8000_0001, "also what is not offered");
}

#[test]
fn a_pin_and_messages_work_on() {
    let mut driver = Driver::new(&[RNG]);
    let pin = |driver: &Driver| driver.rig.config_read(1, 0, 4) >> 19 & 1;
    driver.start(0, 1);
    driver.send(0, &[Piece::In(16)]);
    assert_eq!(pin(&driver), 1);
    let mut driver = driver.carried(rig(RNG));
    assert_eq!(pin(&driver), 1);
    assert_eq!((driver.isr(), pin(&driver)), (1, 0));

    // A message to memory, so that it can be seen; masked at first.
    driver.rig.config_write(1, 0, 0x14, MSIX_TABLE as u32);
    let cap = (0x40..0x100).step_by(4).find(|at| driver.rig.config_read(1, 0, *at) & 0xff == 0x11).unwrap();
    let control = driver.rig.config_read(1, 0, cap);
    driver.rig.config_write(1, 0, cap, control | 1 << 31);
    let set = |driver: &Driver, word: u64, value: u64| {
        let _ = driver.rig.machine.system_space().write_uint(MSIX_TABLE + 16 + 4 * word, 4, value);
    };
    let message = |driver: &Driver| driver.ram(0x41_0000, 4);
    set(&driver, 0, 0x41_0000);
    set(&driver, 2, 0xabcd);
    driver.write(22, 2, 0);
    driver.write(26, 2, 1);
    driver.send(0, &[Piece::In(16)]);
    let pending = |driver: &Driver| driver.rig.machine.system_space().read_uint(MSIX_TABLE + 0x800, 4).0;
    assert_eq!((pending(&driver), message(&driver)), (2, vec![0; 4]));
    let mut driver = driver.carried(rig(RNG));
    assert_eq!((pending(&driver), message(&driver)), (2, vec![0; 4]));
    set(&driver, 3, 0);
    assert_eq!((pending(&driver), message(&driver)), (0, vec![0xcd, 0xab, 0, 0]));
    driver.set_ram(0x41_0000, &[0; 4]);
    driver.send(0, &[Piece::In(16)]);
    assert_eq!(message(&driver), [0xcd, 0xab, 0, 0]);
    assert_eq!((driver.read(26, 2), pin(&driver)), (1, 0));
}

#[test]
fn what_a_device_writes_is_noted_for_whoever_sends_memory() {
    let mut driver = Driver::new(&[RNG]);
    driver.start(0, 1);
    driver.send(0, &[Piece::In(16)]);
    let memory = Arc::clone(driver.rig.machine.memory());
    memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
    let range = driver.rig.machine.system_space().ram_range(0x40_0000, 0x1_0000).unwrap();
    let log = range.block().dirty_log(DirtyClient::Migration).unwrap();
    let head = driver.offer(0, &[Piece::In(16)]);
    log.clean(range.offset(), 0x1_0000);
    driver.notify(0);
    let data = Driver::data(0, head);
    let dirty =
        [0x40_0000, 0x40_2000, 0x40_3000, data].map(|at| log.is_dirty(range.offset() + at - 0x40_0000));
    assert_eq!(dirty, [false, false, true, true], "descriptors, available ring, used ring, data");
    memory.stop_global_dirty_log(DirtyClient::Migration);
}

#[test]
fn a_period_ends_when_it_would_have() {
    let text = "virtio-rng-pci,max-bytes=10,period=1000";
    let mut driver = Driver::new(&[text]);
    let clock = driver.rig.main.handle().virtual_clock();
    clock.set_manual();
    clock.advance_to(5_000_000_000);
    driver.start(0, 1);
    assert_eq!(driver.send(0, &[Piece::In(8)]).len(), 8);
    assert_eq!(driver.send(0, &[Piece::In(8)]).len(), 2);
    driver.put(0, &[Piece::In(8)]);
    clock.advance_to(5_400_000_000);
    let to = rig(text);
    let handle = to.main.handle();
    let clock = handle.virtual_clock();
    clock.set_manual();
    clock.advance_to(5_400_000_000);
    let mut driver = driver.carried(to);
    assert_eq!(handle.now_ns(Clock::Virtual), 5_400_000_000);
    clock.advance_to(5_999_000_000);
    driver.turn();
    assert_eq!(driver.take(0), None, "it had what there was for now");
    clock.advance_to(6_001_000_000);
    driver.turn();
    assert_eq!(driver.take(0).map(|bytes| bytes.len()), Some(8));
}

#[test]
fn a_device_that_is_broken_stays_so_and_a_strange_index_breaks_it() {
    let mut driver = Driver::new(&[RNG]);
    driver.start(0, 1);
    driver.send(0, &[Piece::In(16)]);
    driver.isr();
    // The index of the ring of available buffers.
    driver.set_ram(0x40_2002, &40u16.to_le_bytes());
    let mut driver = driver.carried_with(rig(RNG), false);
    assert_eq!((driver.status(), driver.isr()), (0x4f, 3), "the driver is told");
    driver.set_ram(0x40_2002, &2u16.to_le_bytes());
    driver.put(0, &[Piece::In(16)]);
    assert_eq!(driver.take(0), None);
    let mut driver = driver.carried(rig(RNG));
    assert_eq!(driver.status(), 0x4f);
    driver.put(0, &[Piece::In(16)]);
    assert_eq!(driver.take(0), None);
    driver.start(0, 1);
    assert_eq!(driver.send(0, &[Piece::In(16)]).len(), 16);
}

/// The section of the device, and what loading it after a change of its bytes gives. `find` is where the change goes.
fn refused(text: &str, find: &[u8], put: &[u8]) -> Vec<String> {
    let mut driver = Driver::new(&["virtio-rng-pci,packed=on"]);
    driver.start(0, 1);
    driver.send(0, &[Piece::In(16)]);
    let to = rig(text);
    to.machine.finish().unwrap();
    let (_, from) =
        carry::sections(&driver.rig.machine).into_iter().find(|(_, s)| s.name() == "virtio-rng").unwrap();
    let (_, to) = carry::sections(&to.machine).into_iter().find(|(_, s)| s.name() == "virtio-rng").unwrap();
    let mut out = Encoder::new();
    from.save(&mut out);
    let mut bytes = out.into_bytes();
    if !find.is_empty() {
        let at = bytes.windows(find.len()).rposition(|window| window == find).expect("it is there");
        bytes[at..at + put.len()].copy_from_slice(put);
    }
    let error = to.load(&mut Decoder::new(&bytes[..]), 1).unwrap_err();
    let features = error.lines[0].starts_with("Features");
    assert_eq!(error.errno, if features { Errno::NotPermitted } else { Errno::Invalid });
    assert_eq!(error.lines.last().unwrap(), "Failed to load virtio-rng:virtio");
    error.lines
}

#[test]
fn what_cannot_be_is_refused_with_qemus_words() {
    // Size, no vector; the addresses.
    let (num, desc) = ([0, 8, 0xff, 0xff], [0, 0, 0, 0, 0, 0x40, 0, 0]);
    let last = "Failed to load virtio-rng:virtio";
    let text = "virtio-rng-pci,packed=on";
    // Features: VERSION_1 alone.
    let features = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        refused(text, &features, &[0x80, 0, 0, 1]),
        [
            "Features 0x8000000100000000 unsupported. Allowed features: 0x10579000000".to_owned(),
            last.to_owned()
        ]
    );
    assert_eq!(
        refused(text, &num, &[1, 8]),
        ["VQ 0 size 0x108 is not possible with 0x8".to_owned(), last.to_owned()]
    );
    assert_eq!(refused(text, &num, &[0, 7])[0], "VQ 0 size 0x7 is not possible with 0x8");
    assert_eq!(refused(text, &num, &[0, 8, 0, 2])[0], "Invalid interrupt vector 0x2");
    assert_eq!(refused(text, &desc, &[0; 8])[0], "VQ 0 address 0x0 inconsistent with Host index 0x1");
    // A ring that is there, where the device is in it.
    let ring = [1, 0, 1, 1, 0, 1, 1];
    assert_eq!(refused(text, &ring, &[1, 0, 0x20])[0], "VQ 0 size 0x8 < last_avail_idx 0x20 - used_idx 0x1");
    assert_eq!(
        refused("virtio-rng-pci,packed=on,vectors=0", &[], &[]),
        [
            "get_pci_config_device: Bad config data: i=0x34 read: 98 device: 84 cmask: ff wmask: 0 w1cmask:0",
            "Failed to load PCIDevice:config",
            last
        ]
    );
}

#[test]
fn bad_state_does_no_harm() {
    let mut driver = Driver::new(&["virtio-rng-pci,packed=on"]);
    driver.start(0, 1);
    driver.put(0, &[Piece::In(16)]);
    driver.rig.machine.stop();
    carry::spoil(&driver.rig.machine, "virtio-rng");
    driver.turn();
}
