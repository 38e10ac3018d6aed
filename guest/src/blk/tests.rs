//! The driver against a model disk: requests, several at once, and devices that do not keep to what they were asked.

use super::*;
use crate::arena::Arena;
use crate::pci::Function;
use crate::testing::{Disk, DiskFault, Machine};
use crate::virtio::VirtioError;
use proptest::prelude::*;
use std::vec::Vec;

const AT: Function = Function { bus: 0, device: 2, function: 0 };
const BUFFER: u64 = 0x200_0000;

fn arena() -> Arena {
    Machine::info("").arena()
}

fn with_disk(disk: Disk) -> Machine {
    let mut machine = Machine::new(Vec::new());
    machine.disks.push(disk);
    machine
}

fn opened(disk: Disk) -> (Machine, Driver) {
    let mut machine = with_disk(disk);
    let memory = Memory::take(&mut arena()).expect("room for rings");
    let driver = Driver::open(&mut machine, AT, memory).expect("a working device");
    (machine, driver)
}

fn write(sector: u64, addr: u64) -> Request {
    Request::Write { sector, addr, len: 1024 }
}

fn read(sector: u64, addr: u64) -> Request {
    Request::Read { sector, addr, len: 1024 }
}

#[test]
fn what_was_written_is_read_back_and_nothing_else() {
    let (mut machine, mut driver) = opened(Disk::new(2, 64));
    machine.pattern_write(BUFFER, 1024, 5);
    assert_eq!(driver.request(&mut machine, write(62, BUFFER)), Ok(Status::Ok));
    assert_eq!(driver.request(&mut machine, Request::Flush), Ok(Status::Ok));
    assert_eq!(driver.request(&mut machine, read(61, BUFFER + 8192)), Ok(Status::Ok));
    let first = crate::bus::pattern(BUFFER, 5);
    assert_eq!(machine.sequence_verify(BUFFER + 8192 + 512, 512, first), 0);
    assert_eq!(machine.memory.word(BUFFER + 8192, 8), 0, "sector 61 was never written");
    assert_eq!(driver.request(&mut machine, read(63, BUFFER)), Ok(Status::IoError), "beyond the end");
    assert_eq!(driver.request(&mut machine, Request::GetId { addr: BUFFER }), Ok(Status::Ok));
    let mut id = [0xff; 21];
    machine.memory.read(BUFFER, &mut id);
    assert_eq!(&id[..7], b"model\0\0");
    assert_eq!(driver.in_flight().count(), 0);
}

#[test]
fn the_driver_takes_the_features_it_knows_and_reads_the_configuration_by_them() {
    let mut disk = Disk::new(2, 100);
    // SIZE_MAX, SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, DISCARD.
    disk.pci.features |= 1 << 1 | 1 << 2 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 13;
    disk.size_max = 4000;
    let (machine, driver) = opened(disk);
    assert_eq!(machine.disks[0].pci.driver_features, 1 << 32 | 1 << 1 | 1 << 6 | 1 << 9);
    assert_eq!(*driver.config(), Config { capacity: 100, size_max: 4000, blk_size: 4096, num_queues: 1 });
    assert_eq!((driver.max_len(65536), driver.max_len(1536)), (3584, 1536));
    assert!(driver.has_interrupts() && driver.can_flush() && !driver.is_read_only());
    assert_eq!(machine.disks[0].pci.status, 0x0f);
}

#[test]
fn a_limit_of_nothing_is_none() {
    let mut disk = Disk::new(2, 64);
    disk.pci.features |= F_SIZE_MAX;
    let (_, driver) = opened(disk);
    assert_eq!((driver.config().size_max, driver.max_len(65536)), (u32::MAX, 65536));
}

#[test]
fn every_queue_has_its_doorbell_and_its_vector_as_far_as_there_are_vectors() {
    let (mut machine, mut driver) = opened(Disk::new(2, 64).with_queues(6));
    assert_eq!(driver.queues(), MAX_QUEUES, "further ones are left alone");
    // The model has two vectors: one for changes of configuration, one that all queues share.
    let vectors: Vec<u16> = machine.disks[0].pci.queues.iter().map(|queue| queue.vector).collect();
    assert_eq!(vectors, [1, 1, 1, 1, 0xffff, 0xffff]);
    for queue in 0..MAX_QUEUES {
        assert!(driver.submit(&mut machine, queue, write(queue as u64, BUFFER)).is_some());
    }
    assert_eq!(driver.submit(&mut machine, MAX_QUEUES, Request::Flush), None);
    assert_eq!(machine.disks[0].queues, [0, 1, 2, 3]);
    let mut back: Vec<u8> = Vec::new();
    while let Some(done) = driver.poll(&mut machine).expect("no breakdown") {
        assert_eq!((done.status, done.written), (Status::Ok, 1));
        back.push(done.tag.queue);
    }
    back.sort_unstable();
    assert_eq!(back, [0, 1, 2, 3]);
}

#[test]
fn requests_come_back_in_any_order_and_a_full_queue_takes_no_more() {
    let mut disk = Disk::new(2, 64);
    disk.faults.extend([DiskFault::Late; CHAINS]);
    let (mut machine, mut driver) = opened(disk);
    for sector in 0..CHAINS as u64 {
        assert!(driver.submit(&mut machine, 0, write(sector, BUFFER)).is_some());
    }
    assert_eq!(driver.submit(&mut machine, 0, Request::Flush), None);
    assert_eq!(driver.poll(&mut machine), Ok(None));
    let Machine { disks, memory, devices, .. } = &mut machine;
    disks[0].answer_all(memory, devices);
    for sector in (0..CHAINS as u64).rev() {
        let done = driver.poll(&mut machine).expect("no breakdown").expect("an answer");
        assert_eq!((done.request, done.status), (write(sector, BUFFER), Status::Ok));
        assert_eq!(usize::from(done.tag.chain), sector as usize);
    }
    assert_eq!(driver.poll(&mut machine), Ok(None));
    assert!(driver.submit(&mut machine, 0, Request::Flush).is_some());
}

#[test]
fn a_short_queue_takes_as_many_requests_as_it_has_room_for() {
    let mut disk = Disk::new(2, 64);
    disk.pci.size = 8;
    disk.pci.set_queues(1);
    disk.faults.extend([DiskFault::Late; 8]);
    let (mut machine, mut driver) = opened(disk);
    let taken = (0..8).filter(|_| driver.submit(&mut machine, 0, Request::Flush).is_some());
    assert_eq!(taken.count(), 2);
    let mut disk = Disk::new(2, 64);
    disk.pci.size = 2;
    disk.pci.set_queues(1);
    let memory = Memory::take(&mut arena()).expect("room for rings");
    let refused = Driver::open(&mut with_disk(disk), AT, memory);
    assert_eq!(refused.err(), Some(VirtioError::NoQueue(0)));
}

#[test]
fn a_silent_device_makes_nobody_wait_and_gives_its_buffers_back_when_it_is_reset() {
    let mut disk = Disk::new(2, 64);
    disk.faults.push_back(DiskFault::Late);
    let (mut machine, mut driver) = opened(disk);
    driver.submit(&mut machine, 0, write(0, BUFFER)).expect("room");
    for _ in 0..1000 {
        assert_eq!(driver.poll(&mut machine), Ok(None));
    }
    assert_eq!(driver.in_flight().collect::<Vec<_>>(), [write(0, BUFFER)]);
    machine.stopped = true;
    machine.disks[0].faults.push_back(DiskFault::Late);
    assert_eq!(driver.request(&mut machine, Request::Flush), Err(VirtioError::Stopped));
    assert_eq!(driver.restart(&mut machine), Ok(()));
    assert_eq!((driver.in_flight().count(), machine.disks[0].kept()), (0, 0));
    assert_eq!(driver.request(&mut machine, write(0, BUFFER)), Ok(Status::Ok));
}

#[test]
fn a_device_that_uses_what_it_was_not_given_is_broken() {
    for fault in [
        // A descriptor in the middle of a chain, a chain that is not in flight, none that exists, more than there are.
        DiskFault::Uses(1),
        DiskFault::Uses(3),
        DiskFault::Uses(126),
        DiskFault::Uses(127),
        DiskFault::Uses(128),
        DiskFault::Uses(u32::MAX),
        DiskFault::Jumps(2),
        DiskFault::Jumps(0x8000),
    ] {
        let mut disk = Disk::new(2, 64);
        disk.faults.push_back(fault);
        let (mut machine, mut driver) = opened(disk);
        assert_eq!(
            driver.request(&mut machine, write(0, BUFFER)),
            Err(VirtioError::BadUsedRing),
            "{fault:?}"
        );
        assert_eq!(driver.restart(&mut machine), Ok(()));
        assert_eq!(driver.request(&mut machine, write(0, BUFFER)), Ok(Status::Ok), "after {fault:?}");
    }
}

#[test]
fn a_device_that_needs_a_reset_is_noticed() {
    let mut disk = Disk::new(2, 64);
    disk.faults.push_back(DiskFault::Breaks);
    let (mut machine, mut driver) = opened(disk);
    assert_eq!(driver.request(&mut machine, write(0, BUFFER)), Err(VirtioError::NeedsReset));
    assert!(driver.is_live(&mut machine), "its driver is still there");
    machine.disks[0].pci.present = false;
    assert_eq!(driver.restart(&mut machine), Err(VirtioError::ResetTimeout));
    assert_eq!((driver.queues(), driver.submit(&mut machine, 0, Request::Flush)), (0, None));
}

#[test]
fn a_status_that_makes_no_sense_is_told_from_an_error() {
    for (byte, status) in [
        (1, Status::IoError),
        (2, Status::Unsupported),
        (3, Status::Nonsense(3)),
        (0xff, Status::Nonsense(0xff)),
    ] {
        let mut disk = Disk::new(2, 64);
        disk.faults.push_back(DiskFault::Says(byte));
        let (mut machine, mut driver) = opened(disk);
        assert_eq!(driver.request(&mut machine, read(0, BUFFER)), Ok(status));
    }
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let mut small = Disk::new(2, 64);
    small.pci.features |= F_SIZE_MAX;
    small.size_max = 511;
    let none = Disk::new(2, 64).with_queues(0);
    for disk in [small, none] {
        let mut machine = with_disk(disk);
        let memory = Memory::take(&mut arena()).expect("room for rings");
        assert_eq!(Driver::open(&mut machine, AT, memory).err(), Some(VirtioError::BadConfig));
        assert_eq!(machine.disks[0].pci.status & 0x80, 0x80);
    }
}

#[test]
fn a_capacity_that_changes_is_read_again() {
    let (mut machine, mut driver) = opened(Disk::new(2, 64));
    machine.disks[0].capacity = 128;
    driver.refresh(&mut machine);
    assert_eq!(driver.config().capacity, 64, "not announced");
    machine.disks[0].pci.generation += 1;
    driver.refresh(&mut machine);
    assert_eq!(driver.config().capacity, 128);
}

fn fault() -> impl Strategy<Value = Option<DiskFault>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(DiskFault::Late)),
        1 => Just(Some(DiskFault::Breaks)),
        1 => any::<u32>().prop_map(|id| Some(DiskFault::Uses(id % 200))),
        1 => any::<u16>().prop_map(|step| Some(DiskFault::Jumps(step))),
        1 => any::<u8>().prop_map(|byte| Some(DiskFault::Says(byte))),
    ]
}

proptest! {
    /// Whatever the device does: no panic, no more answers than requests, and after a reset it is as new.
    #[test]
    fn no_device_confuses_the_driver(faults in proptest::collection::vec((fault(), 0..4usize), 1..40)) {
        let (mut machine, mut driver) = opened(Disk::new(2, 64).with_queues(3));
        let (mut given, mut back, mut lost) = (0, 0, 0);
        for (fault, queue) in faults {
            machine.disks[0].faults.extend(fault);
            given += usize::from(driver.submit(&mut machine, queue, write(1, BUFFER)).is_some());
            loop {
                match driver.poll(&mut machine) {
                    Ok(Some(_)) => back += 1,
                    Ok(None) => break,
                    Err(_) => {
                        // What was in flight, and the one that a broken element named.
                        let before = driver.in_flight().count();
                        prop_assert!(before <= given - back - lost);
                        lost = given - back;
                        prop_assert_eq!(driver.restart(&mut machine), Ok(()));
                    }
                }
            }
            prop_assert!(driver.in_flight().count() + back + lost <= given);
        }
        machine.disks[0].faults.clear();
        driver.restart(&mut machine).expect("an honest device");
        prop_assert_eq!(driver.request(&mut machine, write(1, BUFFER)), Ok(Status::Ok));
    }
}
