//! Negotiation, running, breaking and resetting.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::virtio::testing::{Echo, NEEDED};

const GENERIC: Generic = Generic {
    indirect_desc: true,
    event_idx: false,
    iommu_platform: false,
    packed: false,
    in_order: false,
    queue_reset: true,
};

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap()
}

fn running(device: &Echo) -> VirtioState {
    let mut state = VirtioState::new(device, GENERIC);
    state.set_status(device, 3);
    state.accept(VERSION_1 | NEEDED);
    assert_eq!(state.set_status(device, 0xb), StatusChange::None);
    assert_eq!(state.status(), 0xb);
    let queue = state.selected_mut().unwrap();
    (queue.desc, queue.avail, queue.used, queue.vector) = (0x1000, 0x2000, 0x3000, 1);
    assert!(state.enable_selected(1).violation.is_none());
    assert_eq!(state.set_status(device, 0xf), StatusChange::Started);
    state
}

fn offer(memory: &GuestMemoryMmap, text: &[u8], index: u16) {
    memory.write_slice(text, GuestAddress(0x8000)).unwrap();
    let put = |at: u64, bytes: &[u8]| memory.write_slice(bytes, GuestAddress(at)).unwrap();
    put(0x1000, &0x8000u64.to_le_bytes());
    put(0x1008, &(text.len() as u32).to_le_bytes());
    put(0x100c, &[1, 0, 1, 0]);
    put(0x1010, &0x9000u64.to_le_bytes());
    put(0x1018, &16u32.to_le_bytes());
    put(0x101c, &[2, 0, 0, 0]);
    put(0x2002, &index.to_le_bytes());
}

#[test]
fn features_ok_does_not_stick_without_what_the_device_needs() {
    let device = Echo::default();
    let mut state = VirtioState::new(&device, GENERIC);
    assert_eq!(state.offered(), VERSION_1 | RING_INDIRECT_DESC | RING_RESET | 3);
    state.set_status(&device, 3);
    state.accept(VERSION_1 | 1 | 1 << 20);
    assert_eq!(state.accepted(), VERSION_1 | 1, "only what was offered");
    state.set_status(&device, 0xb);
    assert_eq!(state.status(), 3);
    state.accept(VERSION_1 | NEEDED);
    state.set_status(&device, 0xb);
    assert_eq!(state.status(), 0xb);
    state.accept(VERSION_1);
    assert_eq!(state.accepted(), VERSION_1 | NEEDED, "negotiation is over");
}

#[test]
fn platform_addresses_are_not_optional() {
    let device = Echo::default();
    let mut state = VirtioState::new(&device, Generic { iommu_platform: true, ..GENERIC });
    state.accept(VERSION_1 | NEEDED);
    state.set_status(&device, 0xb);
    assert_eq!(state.status(), 0);
    state.accept(VERSION_1 | NEEDED | ACCESS_PLATFORM);
    state.set_status(&device, 0xb);
    assert_eq!(state.status(), 0xb);
}

#[test]
fn a_buffer_is_served_and_the_queue_vector_is_due() {
    let (device, memory) = (Echo::default(), memory());
    let mut state = running(&device);
    assert!(!state.has_buffers(0, &memory));
    offer(&memory, b"ping", 1);
    assert!(
        state.has_buffers(0, &memory) && !state.has_buffers(1, &memory) && !state.has_buffers(7, &memory)
    );
    let served = state.serve(0, &memory, &device, 16);
    assert!(served.violation.is_none() && !served.more && served.used && served.empty);
    assert!(!state.has_buffers(0, &memory));
    assert_eq!(served.due, Due { config: None, queue: Some(1) });
    assert_eq!(state.isr(), 1);
    let mut answer = [0; 4];
    memory.read_slice(&mut answer, GuestAddress(0x9000)).unwrap();
    assert_eq!(&answer, b"ping");
    let again = state.serve(0, &memory, &device, 16);
    assert_eq!(again.due, Due::default(), "nothing new, no interrupt");
    assert!(!again.used && again.empty);
    offer(&memory, b"ping", 2);
    state.set_disabled(true);
    assert!(!state.has_buffers(0, &memory), "none for a device that does not run");
}

#[test]
fn the_budget_bounds_one_turn() {
    let (device, memory) = (Echo::default(), memory());
    let mut state = running(&device);
    offer(&memory, b"ping", 5);
    let served = state.serve(0, &memory, &device, 2);
    assert!(served.more);
    assert!(!state.serve(0, &memory, &device, 16).more);
}

#[test]
fn a_buffer_that_takes_time_stays_next_and_is_looked_at_anew_each_time() {
    let (device, memory) = (Echo::default(), memory());
    let mut state = running(&device);
    offer(&memory, b"ping", 1);
    assert!(!state.serve(0, &memory, &device, 16).more);
    device.again.lock().unwrap().0 = 3;
    offer(&memory, b"~one", 2);
    for text in [b"~one", b"~two", b"~two"] {
        offer(&memory, text, 2);
        let served = state.serve(0, &memory, &device, 16);
        assert!(served.more && served.again && served.violation.is_none() && !served.empty);
        assert_eq!((served.due, state.queues()[0].next_avail()), (Due::default(), 1), "nothing was used");
    }
    let served = state.serve(0, &memory, &device, 16);
    assert!(!served.more && !served.again);
    assert_eq!((served.due.queue, state.queues()[0].next_avail()), (Some(1), 2));
    let mut answer = [0; 4];
    memory.read_slice(&mut answer, GuestAddress(0x9000)).unwrap();
    assert_eq!(&answer, b"~two", "what was in it when it was served");
    assert_eq!(device.again.lock().unwrap().1, [b"~one", b"~two", b"~two"]);
}

#[test]
fn what_was_served_before_a_buffer_that_takes_time_is_told_at_once_and_a_reset_forgets_it() {
    let (device, memory) = (Echo::default(), memory());
    let mut state = running(&device);
    device.again.lock().unwrap().0 = u32::MAX;
    // Entry 1 of the available ring names descriptor 2, with one more buffer.
    offer(&memory, b"ping", 2);
    memory.write_slice(&[2, 0], GuestAddress(0x2006)).unwrap();
    memory.write_slice(b"~", GuestAddress(0x8100)).unwrap();
    memory.write_slice(&0x8100u64.to_le_bytes(), GuestAddress(0x1020)).unwrap();
    memory.write_slice(&[1, 0, 0, 0, 0, 0, 0, 0], GuestAddress(0x1028)).unwrap();
    let served = state.serve(0, &memory, &device, 16);
    assert!(served.again && served.due.queue == Some(1));
    assert_eq!(state.set_status(&device, 0), StatusChange::Reset);
    let served = state.serve(0, &memory, &device, 16);
    assert!(!served.more && !served.again, "nobody runs");
}

#[test]
fn a_buffer_that_waits_stays_first_and_keeps_nobody_busy() {
    let (device, memory) = (Echo::default(), memory());
    let mut state = running(&device);
    offer(&memory, b".wait", 1);
    for _ in 0..2 {
        let served = state.serve(0, &memory, &device, 16);
        assert!(!served.more && !served.again && served.violation.is_none());
        assert_eq!((served.due, state.queues()[0].next_avail()), (Due::default(), 0), "nothing was used");
    }
    device.open.store(true, std::sync::atomic::Ordering::Relaxed);
    let served = state.serve(0, &memory, &device, 16);
    assert_eq!((served.due.queue, state.queues()[0].next_avail(), served.more), (Some(1), 1, false));
}

#[test]
fn a_device_hears_of_each_start_and_what_was_accepted() {
    let device = Echo::default();
    let mut state = running(&device);
    state.set_status(&device, 0xf);
    state.set_status(&device, 0xb);
    state.set_status(&device, 0xf);
    assert_eq!(*device.starts.lock().unwrap(), [VERSION_1 | NEEDED; 2]);
}

#[test]
fn nothing_is_served_before_driver_ok_or_while_the_bus_master_is_off() {
    let (device, memory) = (Echo::default(), memory());
    let mut state = running(&device);
    offer(&memory, b"ping", 1);
    state.set_disabled(true);
    assert_eq!(state.serve(0, &memory, &device, 16).due, Due::default());
    state.set_disabled(false);
    state.set_status(&device, 0xb);
    assert_eq!(state.serve(0, &memory, &device, 16).due, Due::default());
    state.set_status(&device, 0xf);
    assert_eq!(state.serve(0, &memory, &device, 16).due.queue, Some(1));
    assert_eq!(state.serve(7, &memory, &device, 16).due, Due::default(), "no such queue");
}

#[test]
fn a_violation_stops_the_device_until_it_is_reset() {
    let (device, memory) = (Echo::default(), memory());
    let mut state = running(&device);
    offer(&memory, b"!", 1);
    let served = state.serve(0, &memory, &device, 16);
    assert_eq!(served.violation.unwrap().0, "virtio-echo protocol violation: shouting");
    assert_eq!(served.due, Due { config: Some(NO_VECTOR), queue: None });
    assert_eq!(state.status(), 0x4f);
    offer(&memory, b"ping", 2);
    state.set_status(&device, 0xf);
    assert_eq!(
        state.serve(0, &memory, &device, 16).due,
        Due::default(),
        "writing the bit away does not help"
    );
    assert_eq!(state.set_status(&device, 0), StatusChange::Reset);
    assert!(!state.is_broken() && state.status() == 0 && !state.queues()[0].is_enabled());
}

#[test]
fn a_config_change_counts_once_the_driver_runs() {
    let device = Echo::default();
    let mut idle = VirtioState::new(&device, GENERIC);
    assert_eq!(idle.config_changed(), Due::default());
    assert_eq!((idle.generation(), idle.isr()), (0, 0));
    let mut state = running(&device);
    assert!(state.config_changed().config.is_some());
    assert_eq!((state.generation(), state.take_isr(), state.isr()), (1, 3, 0));
}
