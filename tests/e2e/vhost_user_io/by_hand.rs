//! The guest's drivers, moved by the test over qtest: what the back end is told with each single step, and what becomes of requests
//! whose buffers or rings are in memory that is not there.

use guest::arena::Arena;
use guest::blk::{self, Status};
use guest::bus::{Bus as _, pattern};
use guest::mem::{self, Step, Touch};
use guest::pci::Function;
use tests::vhost_user::Rule;
use tests::{QtestBus, pci};

use super::*;

/// A disk, and a memory device with parts of 1 GiB.
const DEVICES: &str = "-chardev socket,id=vhost,path=$RUN/vhost,reconnect-ms=10 \
    -device vhost-user-blk-pci,id=disk,chardev=vhost,num-queues=2,addr=1 -device virtio-mem-pci,id=vm0,memdev=mem0,addr=2";
/// Where device memory begins, and the parts.
const BASE: u64 = 0x1_0000_0000;

/// The `n`-th part of the memory device.
const fn part(n: u64) -> Region {
    Region { guest: BASE + n * G, size: G, offset: n * G }
}

/// The same as it is told to go.
const fn gone(n: u64) -> Region {
    Region { offset: 0, ..part(n) }
}

/// A machine and its drivers.
struct Hand {
    rig: Rig,
    arena: Arena,
    memory: mem::Driver,
    disk: blk::Driver,
}

impl Hand {
    fn new(options: Options, memory: &str) -> Self {
        let options = Options { queues: 2, ..options };
        let mut rig =
            Rig::own(Vm::new().qtest(), options, &DEVICES.replace("vm0,", &format!("vm0,{memory},")));
        let mut arena = Arena::new(64 * M, 96 * M);
        let (memory, disk) = open(&mut rig, &mut arena);
        rig.relay.wait_for(Request::SET_VRING_ENABLE);
        Self { rig, arena, memory, disk }
    }

    /// Has the memory driver follow this size.
    fn follow(&mut self, size: u64) {
        self.rig.vm.qmp().qom_set("vm0", "requested-size", json!(size));
        let bus = &mut QtestBus::new(self.rig.vm.qtest());
        while self.memory.step(bus).unwrap() != Step::Idle {}
        assert_eq!(self.memory.plugged(), size);
    }

    /// What the back end was told of memory since the last call, by address.
    fn told(&mut self) -> Vec<(Request, Vec<Region>)> {
        let mut told = about_memory(&self.rig.relay.take_seen());
        for (_, regions) in told.iter_mut().filter(|(request, _)| *request == REM) {
            // Says nothing when a region goes.
            regions.iter_mut().for_each(|region| region.offset = 0);
        }
        told.sort_by_key(|(_, regions)| regions.first().copied());
        told
    }

    /// Has the disk carry out a request on one of its queues.
    fn ask(&mut self, queue: usize, request: blk::Request) -> Status {
        self.try_ask(queue, request).unwrap_or_else(|| panic!("{request:?} is not answered"))
    }

    /// As [`Hand::ask`]; nothing if no answer comes in time, or what comes makes no sense.
    fn try_ask(&mut self, queue: usize, request: blk::Request) -> Option<Status> {
        let bus = &mut QtestBus::new(self.rig.vm.qtest());
        self.disk.submit(bus, queue, request).unwrap();
        let until = Instant::now() + patience();
        while Instant::now() < until {
            match self.disk.poll(bus) {
                Ok(Some(done)) => return Some(done.status),
                Ok(None) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// That the disk writes what is at one address and reads it to another.
    fn copies(&mut self, from: u64, to: u64) {
        let len = 16384;
        let bus = &mut QtestBus::new(self.rig.vm.qtest());
        bus.sequence_write(from, len.into(), pattern(from, 1));
        bus.sequence_write(to, len.into(), 0);
        for (queue, request) in [
            (0, blk::Request::Write { sector: 8, addr: from, len }),
            (1, blk::Request::Read { sector: 8, addr: to, len }),
        ] {
            assert_eq!(self.ask(queue, request), Status::Ok, "{request:x?}");
        }
        let bus = &mut QtestBus::new(self.rig.vm.qtest());
        assert_eq!(bus.sequence_verify(to, len.into(), pattern(from, 1)), 0, "{from:#x} to {to:#x}");
    }
}

/// Opens both drivers, with addresses for their devices.
fn open(rig: &mut Rig, arena: &mut Arena) -> (mem::Driver, blk::Driver) {
    for (slot, nth) in [(1, 0), (2, 1)] {
        let function = pci::Function::at(slot);
        function.assign(rig.vm.qtest(), 0xfe00_0000 + nth * 0x1_0000, 0xfe80_0000 + nth * 0x1000);
    }
    let at = |device| Function { bus: 0, device, function: 0 };
    let bus = &mut QtestBus::new(rig.vm.qtest());
    let queues = blk::Memory::take(arena).unwrap();
    let disk = blk::Driver::open(bus, at(1), queues).unwrap();
    (mem::Driver::open(bus, at(2), arena, Touch::None).unwrap(), disk)
}

/// A machine under qtest, if there is one.
fn hand(options: Options, memory: &str) -> Option<Hand> {
    have(&[Need::QtestAccel]).then(|| Hand::new(options, memory))
}

const ADD: Request = Request::ADD_MEM_REG;
const REM: Request = Request::REM_MEM_REG;

#[test]
fn a_back_end_is_told_of_each_part_once_and_of_nothing_else() {
    let Some(mut hand) = hand(Options::default(), "dynamic-memslots=on") else { return };
    let base = Region { guest: 0, size: 512 * M, offset: 0 };
    assert_eq!(hand.told(), [(ADD, vec![base])]);
    hand.follow(64 * M);
    assert_eq!(hand.told(), [(ADD, vec![part(0)])]);
    // In the part that is mapped.
    hand.follow(512 * M);
    assert_eq!(hand.told(), []);
    hand.follow(3 * G);
    assert_eq!(hand.told(), [(ADD, vec![part(1)]), (ADD, vec![part(2)])]);
    assert_eq!(hand.rig.agree(), [base, part(0), part(1), part(2)]);
    hand.follow(G + 2 * M);
    assert_eq!(hand.told(), [(REM, vec![gone(2)])]);
    hand.follow(0);
    assert_eq!(hand.told(), [(REM, vec![gone(0)]), (REM, vec![gone(1)])]);
    assert_eq!(hand.rig.agree(), [base]);
}

#[test]
fn fixed_parts_are_told_as_the_usable_region_grows_and_shrinks() {
    let Some(mut hand) = hand(Options::default(), "memslots=4,unplugged-protection=off") else { return };
    hand.told();
    // The usable region is larger than what is requested.
    hand.follow(G);
    assert_eq!(hand.told(), [(ADD, vec![part(0)]), (ADD, vec![part(1)])]);
    hand.follow(4 * G);
    assert_eq!(hand.told(), [(ADD, vec![part(2)]), (ADD, vec![part(3)])]);
    // It shrinks only when everything is given back.
    hand.follow(2 * M);
    assert_eq!(hand.told(), []);
    assert_eq!(hand.rig.agree().len(), 5);
    hand.rig.vm.qmp().ok("system_reset", json!({}));
    hand.rig.vm.qmp().wait_event("RESET", |_| true);
    assert_eq!(hand.told(), [(REM, vec![gone(1)]), (REM, vec![gone(2)]), (REM, vec![gone(3)])]);
}

#[test]
fn fixed_parts_of_which_nothing_is_plugged_are_given_to_nobody() {
    let Some(mut hand) = hand(Options::default(), "memslots=4") else { return };
    hand.told();
    hand.follow(G);
    assert_eq!(hand.told(), [(ADD, vec![part(0)])]);
    hand.follow(2 * G + 2 * M);
    assert_eq!(hand.told(), [(ADD, vec![part(1)]), (ADD, vec![part(2)])]);
    hand.follow(2 * G);
    assert_eq!(hand.told(), [(REM, vec![gone(2)])]);
    // They stay mapped for the guest.
    let mapped = hand.rig.vm.hmp().run("info mtree -f").matches(": mem0").count();
    assert!(mapped >= 3, "{mapped}");
    hand.rig.agree();
    hand.follow(0);
    assert_eq!(hand.told(), [(REM, vec![gone(0)]), (REM, vec![gone(1)])]);
}

#[test]
fn a_back_end_that_takes_all_regions_at_once_gets_the_whole_table_each_time() {
    let options = Options { configure_mem_slots: false, ..Options::default() };
    let Some(mut hand) = hand(options, "dynamic-memslots=on") else { return };
    let base = Region { guest: 0, size: 512 * M, offset: 0 };
    assert_eq!(hand.told(), [(Request::SET_MEM_TABLE, vec![base])]);
    // Eight regions are too few to make parts of memory that may need many: there is one.
    hand.follow(2 * G);
    let all = Region { size: 4 * G, ..part(0) };
    assert_eq!(hand.told(), [(Request::SET_MEM_TABLE, vec![base, all])]);
    assert_eq!(hand.rig.agree(), [base, all]);
    hand.copies(16 * M, BASE);
    hand.follow(0);
    assert_eq!(hand.told(), [(Request::SET_MEM_TABLE, vec![base])]);
    assert_eq!(hand.rig.agree(), [base]);
}

#[test]
fn buffers_may_be_in_any_part_and_across_two() {
    let Some(mut hand) = hand(Options::default(), "dynamic-memslots=on") else { return };
    hand.follow(3 * G);
    for addr in [BASE, BASE + 4096 - 8, BASE + G - 8192, BASE + 2 * G - 512, BASE + 3 * G - 16384] {
        hand.copies(16 * M, addr);
        hand.copies(addr, 17 * M);
    }
    hand.copies(BASE + G - 8192, BASE + 2 * G - 8192);
    assert_eq!(hand.rig.backend().unmapped(), 0);
}

#[test]
fn a_request_into_unplugged_memory_fails_and_touches_nothing() {
    let Some(mut hand) = hand(Options::default(), "dynamic-memslots=on") else { return };
    hand.follow(2 * M);
    let outside = [BASE + G, BASE + 4 * G - 4096, BASE + 64 * G, 600 * M, u64::MAX - 4095];
    for (count, addr) in (1..).zip(outside) {
        for request in [
            blk::Request::Read { sector: 0, addr, len: 4096 },
            blk::Request::Write { sector: 0, addr, len: 4096 },
        ] {
            assert_eq!(hand.ask(0, request), Status::IoError, "{request:x?}");
        }
        assert_eq!(hand.rig.backend().unmapped(), 2 * count);
    }
    // The memory is not there, and the disk is as well as before.
    hand.copies(16 * M, BASE);
}

#[test]
fn rings_in_memory_that_is_unplugged_cost_the_disk_only() {
    let Some(mut hand) = hand(Options::default(), "dynamic-memslots=on") else { return };
    hand.follow(2 * G);
    let (function, queues) = (hand.disk.function(), |arena: &mut Arena| blk::Memory::take(arena).unwrap());
    let plugged = queues(&mut Arena::new(BASE + G, BASE + G + M));
    hand.disk = blk::Driver::open(&mut QtestBus::new(hand.rig.vm.qtest()), function, plugged).unwrap();
    hand.copies(16 * M, BASE);
    hand.follow(2 * M);
    // The rings are gone, and so is whoever could answer.
    let bus = &mut QtestBus::new(hand.rig.vm.qtest());
    hand.disk.submit(bus, 0, blk::Request::Flush);
    assert!(matches!(hand.disk.poll(bus), Ok(None) | Err(_)));
    hand.follow(2 * G);
    hand.follow(2 * M);
    // With rings that are there it works again.
    let base = queues(&mut hand.arena);
    hand.disk = blk::Driver::open(&mut QtestBus::new(hand.rig.vm.qtest()), function, base).unwrap();
    hand.copies(16 * M, BASE);
    hand.rig.agree();
}

#[test]
fn a_part_that_the_back_end_refuses_is_not_plugged_and_nothing_else_comes_of_it() {
    let Some(mut hand) = hand(Options::default(), "dynamic-memslots=on") else { return };
    hand.follow(64 * M);
    hand.rig.relay.rule(Rule::Refuse(ADD));
    hand.rig.vm.qmp().qom_set("vm0", "requested-size", json!(2 * G));
    let block = mem::Request::Plug(mem::Run { first: G / (2 * M), count: 1 });
    let bus = &mut QtestBus::new(hand.rig.vm.qtest());
    assert_eq!(hand.memory.request(bus, block).unwrap(), mem::Response::Busy);
    hand.rig.relay.obey();
    assert_eq!(hand.rig.vm.qmp().qom_get("vm0", "size"), 64 * M);
    hand.rig.agree();
    hand.copies(16 * M, BASE);
    hand.follow(2 * G);
    hand.rig.agree();
    hand.copies(16 * M, BASE + 2 * G - 16384);
    assert_eq!(hand.rig.relay.connections(), 1);
}

#[test]
fn after_each_of_many_steps_the_back_end_has_what_is_mapped() {
    let Some(mut hand) = hand(Options::default(), "dynamic-memslots=on") else { return };
    // The same steps in every run.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |limit: u64| {
        seed ^= seed >> 12;
        seed ^= seed << 25;
        seed ^= seed >> 27;
        seed.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    };
    for step in 0..200 {
        match below(12) {
            0 => {
                let n = hand.rig.relay.connections();
                let Rig { relay, server: Server::Own(backend), .. } = &hand.rig else {
                    unreachable!("by hand")
                };
                backend.die(|| relay.hang_up());
                relay.wait_for_connection(n + 1);
            }
            1 => {
                let n = hand.rig.relay.connections();
                hand.rig.relay.rule(Rule::Garble(ADD, vec![0; 20]));
                hand.follow(4 * G);
                hand.rig.relay.obey();
                hand.rig.relay.wait_for_connection(n);
            }
            2 => {
                hand.rig.vm.qmp().ok("system_reset", json!({}));
                hand.rig.vm.qmp().wait_event("RESET", |_| true);
                (hand.memory, hand.disk) = open(&mut hand.rig, &mut Arena::new(64 * M, 96 * M));
            }
            3 => {
                let bus = &mut QtestBus::new(hand.rig.vm.qtest());
                hand.memory.request(bus, mem::Request::UnplugAll).unwrap();
                hand.memory.restart(bus).unwrap();
            }
            _ => {}
        }
        // Blocks are 2 MiB; few sizes are near a border of parts.
        let size = match below(3) {
            0 => below(5) * G,
            1 => below(4) * G + 2 * M,
            _ => below(2049) * 2 * M,
        };
        hand.follow(size);
        hand.rig.agree();
        if size > 0 {
            hand.copies(16 * M, BASE + size - 16384);
        }
        assert_eq!(hand.rig.backend().unmapped(), 0, "step {step}");
    }
}
