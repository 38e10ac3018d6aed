//! The driver against a model device: policy, refusals, breakdowns, contents.

use super::*;
use crate::pci::Function;
use crate::testing::{ADDR, BLOCK, Device, Fault, Machine};
use crate::virtio::VirtioError;
use std::vec;
use std::vec::Vec;

const AT: Function = Function { bus: 0, device: 1, function: 0 };

fn opened(device: Device, touch: Touch) -> (Machine, Driver) {
    let mut machine = Machine::new(vec![device]);
    let mut arena = Machine::info("").arena();
    let driver = Driver::open(&mut machine, AT, &mut arena, touch).expect("a working device");
    (machine, driver)
}

/// Steps until there is nothing to do; the events on the way.
fn settle(machine: &mut Machine, driver: &mut Driver) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..10_000 {
        match driver.step(machine).expect("no breakdown") {
            Step::Event(event) => events.push(event),
            Step::Progress => {}
            Step::Idle | Step::Waiting => return events,
        }
    }
    panic!("does not settle: {events:?}");
}

#[test]
fn the_driver_follows_the_requested_size_both_ways() {
    let (mut machine, mut driver) = opened(Device::new(1, 64, 10), Touch::Page);
    assert_eq!(settle(&mut machine, &mut driver), [Event::Reached]);
    assert_eq!(driver.plugged(), 10 * BLOCK);
    machine.devices[0].request(64);
    assert_eq!(settle(&mut machine, &mut driver), [Event::Reached]);
    machine.devices[0].request(3);
    assert_eq!(settle(&mut machine, &mut driver), [Event::Reached]);
    assert_eq!(machine.devices[0].plugged, (0..3).collect());
    // One request each time, from the bottom up and from the top down.
    assert_eq!(machine.devices[0].requests, [(0, 0, 10), (0, 10, 54), (1, 3, 61)]);
}

#[test]
fn a_change_that_somebody_else_saw_first_is_followed_all_the_same() {
    let (mut machine, mut driver) = opened(Device::new(1, 64, 10), Touch::Page);
    settle(&mut machine, &mut driver);
    machine.devices[0].request(3);
    driver.refresh(&mut machine);
    assert_eq!(settle(&mut machine, &mut driver), [Event::Reached]);
    assert_eq!(driver.plugged(), 3 * BLOCK);
}

#[test]
fn the_driver_negotiates_what_it_promises() {
    let (machine, driver) = opened(Device::new(1, 4, 0), Touch::None);
    let device = &machine.devices[0].pci;
    assert_eq!(device.driver_features, F_ACPI_PXM | F_UNPLUGGED_INACCESSIBLE | 1 << 32);
    assert_eq!(device.status, 0x0f);
    assert_eq!(driver.node(), Some(3));
    assert!(driver.has_interrupts());
    assert_eq!(device.msix[..4], [0xfee0_0000, 0, 0x40, 0]);
    assert_eq!(device.msix[4..], [0xfee0_0000, 0, 0x41, 0]);
    // MSI-X enabled, memory space and bus master on.
    assert_eq!((device.config[0x9b] & 0x80, device.config[4]), (0x80, 6));
}

#[test]
fn a_device_that_wants_unknown_features_is_refused() {
    let mut device = Device::new(1, 4, 0);
    device.pci.features &= !(1 << 32);
    let mut machine = Machine::new(vec![device]);
    let mut arena = Machine::info("").arena();
    let refused = Driver::open(&mut machine, AT, &mut arena, Touch::None);
    assert_eq!(refused.err(), Some(VirtioError::NotModern));
    assert_eq!(machine.devices[0].pci.status & 0x80, 0x80);
}

#[test]
fn a_nack_makes_the_driver_read_the_size_again() {
    let mut device = Device::new(1, 16, 8);
    device.limit = Some(2 * BLOCK);
    let (mut machine, mut driver) = opened(device, Touch::None);
    assert_eq!(driver.step(&mut machine), Ok(Step::Progress));
    // The size changed before the device saw the request.
    machine.devices[0].request(2);
    assert_eq!(settle(&mut machine, &mut driver), [Event::Reached]);
    assert_eq!(driver.plugged(), 2 * BLOCK);
}

#[test]
fn a_busy_device_is_asked_again_later_and_reported_once() {
    let mut device = Device::new(1, 16, 8);
    device.busy = true;
    let (mut machine, mut driver) = opened(device, Touch::Page);
    assert_eq!(settle(&mut machine, &mut driver), [Event::Busy]);
    machine.now += 10_000_000_000;
    assert_eq!(settle(&mut machine, &mut driver), []);
    machine.devices[0].busy = false;
    assert_eq!(settle(&mut machine, &mut driver), [], "the pause is not over");
    machine.now += 10_000_000_000;
    assert_eq!(settle(&mut machine, &mut driver), [Event::Reached]);
    assert_eq!(driver.plugged(), 8 * BLOCK);
}

#[test]
fn a_refusal_of_many_blocks_is_answered_with_fewer() {
    let mut device = Device::new(1, 64, 64);
    device.most = 5;
    let (mut machine, mut driver) = opened(device, Touch::Page);
    assert_eq!(settle(&mut machine, &mut driver), [Event::Reached]);
    assert_eq!(driver.plugged(), 64 * BLOCK);
    machine.devices[0].request(0);
    assert_eq!(settle(&mut machine, &mut driver), [Event::Reached]);
    assert_eq!(driver.plugged(), 0);
}

#[test]
fn an_error_makes_the_driver_believe_the_device() {
    let mut device = Device::new(1, 8, 4);
    device.plugged.insert(2);
    let (mut machine, mut driver) = opened(device, Touch::Page);
    // As if the device forgot what UNPLUG_ALL did.
    machine.devices[0].requested = 0;
    assert_eq!(settle(&mut machine, &mut driver), [Event::UnpluggedAll, Event::Reached]);
    machine.devices[0].plugged.insert(1);
    machine.devices[0].request(4);
    settle(&mut machine, &mut driver);
    assert_eq!(driver.plugged(), 4 * BLOCK);
    assert_eq!(machine.devices[0].plugged, (0..4).collect());
    assert_eq!(driver.check(&mut machine).unknown, 1);
}

#[test]
fn memory_still_plugged_at_the_start_is_given_back_first() {
    let mut device = Device::new(1, 8, 3);
    device.plugged.extend([0, 5, 6, 7]);
    device.busy = true;
    let (mut machine, mut driver) = opened(device, Touch::Page);
    assert_eq!(settle(&mut machine, &mut driver), [Event::Busy]);
    machine.devices[0].busy = false;
    machine.now += 10_000_000_000;
    assert_eq!(settle(&mut machine, &mut driver), [Event::UnpluggedAll, Event::Reached]);
    assert_eq!(machine.devices[0].plugged, (0..3).collect());
}

#[test]
fn a_full_usable_region_is_reported_once_and_left_alone_until_it_grows() {
    let mut device = Device::new(1, 8, 6);
    device.usable = 4 * BLOCK;
    let (mut machine, mut driver) = opened(device, Touch::None);
    assert_eq!(settle(&mut machine, &mut driver), [Event::Full]);
    assert_eq!(settle(&mut machine, &mut driver), []);
    machine.devices[0].usable = 8 * BLOCK;
    machine.devices[0].request(6);
    assert_eq!(settle(&mut machine, &mut driver), [Event::Reached]);
}

#[test]
fn changed_memory_is_found_by_check_and_before_unplugging() {
    for touch in [Touch::Page, Touch::All] {
        let (mut machine, mut driver) = opened(Device::new(1, 8, 4), touch);
        settle(&mut machine, &mut driver);
        assert_eq!(driver.check(&mut machine), CheckResult { blocks: 4, ..CheckResult::default() });
        machine.memory.write(ADDR + 3 * BLOCK + 8, &[0; 8]);
        let result = driver.check(&mut machine);
        assert_eq!((result.mismatches, result.first), (1, Some(ADDR + 3 * BLOCK)));
        machine.devices[0].request(2);
        let mismatch = Event::Mismatch(ADDR + 3 * BLOCK, 1);
        assert_eq!(settle(&mut machine, &mut driver), [mismatch, Event::Reached]);
    }
}

#[test]
fn replugged_memory_that_kept_its_old_contents_is_found() {
    let (mut machine, mut driver) = opened(Device::new(1, 8, 1), Touch::Page);
    settle(&mut machine, &mut driver);
    let mut old = [0; 4096];
    machine.memory.read(ADDR, &mut old);
    for blocks in [0, 1] {
        machine.devices[0].request(blocks);
        settle(&mut machine, &mut driver);
    }
    machine.memory.write(ADDR, &old);
    assert_eq!(driver.check(&mut machine).mismatches, 512);
}

#[test]
fn touch_none_leaves_memory_untouched() {
    let (mut machine, mut driver) = opened(Device::new(1, 8, 8), Touch::None);
    settle(&mut machine, &mut driver);
    assert_eq!(machine.memory.word(ADDR, 8), 0);
    assert_eq!(driver.check(&mut machine).unknown, 8);
}

#[test]
fn a_silent_device_makes_nobody_wait() {
    let mut device = Device::new(1, 8, 8);
    device.faults.push_back(Fault::Silent);
    let (mut machine, mut driver) = opened(device, Touch::None);
    assert_eq!(driver.step(&mut machine), Ok(Step::Progress));
    for _ in 0..1000 {
        assert_eq!(driver.step(&mut machine), Ok(Step::Waiting));
    }
    machine.devices[0].faults.push_back(Fault::Silent);
    machine.stopped = true;
    assert_eq!(driver.request(&mut machine, Request::UnplugAll), Err(VirtioError::Stopped));
}

#[test]
fn a_broken_device_is_noticed_and_comes_back_after_a_restart() {
    for (fault, error) in
        [(Fault::Breaks, VirtioError::NeedsReset), (Fault::BadUsedRing, VirtioError::BadUsedRing)]
    {
        let mut device = Device::new(1, 8, 8);
        device.faults.push_back(fault);
        let (mut machine, mut driver) = opened(device, Touch::Page);
        let found = (0..1000).find_map(|_| driver.step(&mut machine).err());
        assert_eq!(found, Some(error));
        assert_eq!(driver.restart(&mut machine), Ok(()));
        assert_eq!(settle(&mut machine, &mut driver).last(), Some(&Event::Reached));
        assert_eq!(driver.plugged(), 8 * BLOCK);
    }
}

#[test]
fn a_device_whose_region_changed_is_not_taken_back() {
    let (mut machine, mut driver) = opened(Device::new(1, 8, 8), Touch::None);
    machine.devices[0].region *= 2;
    assert_eq!(driver.restart(&mut machine), Err(VirtioError::BadConfig));
}

#[test]
fn garbage_ends_with_a_working_device_and_intact_memory() {
    let (mut machine, mut driver) = opened(Device::new(1, 8, 4), Touch::Page);
    settle(&mut machine, &mut driver);
    let result = driver.garbage(&mut machine, 500, 7).expect("the device comes back");
    assert_eq!(result.sent, 500);
    assert_eq!(result.answered + result.resets + result.ignored, 500);
    assert!(result.answered > 0 && result.resets > 0, "{result:?}");
    settle(&mut machine, &mut driver);
    assert_eq!(driver.plugged(), 4 * BLOCK);
    assert_eq!(driver.check(&mut machine).mismatches, 0);
}

#[test]
fn requests_by_hand_give_the_devices_answers() {
    let (mut machine, mut driver) = opened(Device::new(1, 8, 4), Touch::None);
    let run = |first, count| Run { first, count };
    let mut ask = |request| driver.request(&mut machine, request).expect("an answer");
    assert!(matches!(ask(Request::Plug(run(0, 2))), Response::Ack(_)));
    assert_eq!(ask(Request::Plug(run(2, 3))), Response::Nack);
    assert_eq!(ask(Request::Plug(run(1, 1))), Response::Error);
    assert_eq!(ask(Request::State(run(0, 2))), Response::Ack(BlockState::Plugged));
    assert_eq!(ask(Request::State(run(1, 2))), Response::Ack(BlockState::Mixed));
    assert_eq!(ask(Request::State(run(2, 1))), Response::Ack(BlockState::Unplugged));
}

#[test]
fn what_was_offered_back_is_neither_written_nor_verified() {
    let (mut machine, mut driver) = opened(Device::new(1, 64, 10), Touch::All);
    settle(&mut machine, &mut driver);
    machine.devices[0].faults.push_back(Fault::Silent);
    machine.devices[0].request(4);
    settle(&mut machine, &mut driver);
    assert!(driver.wants_less());
    assert_eq!([driver.rewrite(&mut machine, 3), driver.rewrite(&mut machine, 4)], [Some(4), None]);
    machine.memory.write(ADDR + 5 * BLOCK, &[1; 8]);
    assert_eq!(driver.check(&mut machine), CheckResult { blocks: 4, ..CheckResult::default() });
}
