//! Claims about a port on the move; what its registers do is looked at beside them.

use ::chardev::{ChardevOptions, DataFormat};

use super::super::uart::UartState;
use super::*;
use crate::core::Machine;
use crate::testing::carry::{carry, spoil};
use crate::testing::{Rig, config};

const DATA: u64 = 0x3f8;

/// A machine whose port is on a ring buffer, and the port.
fn build(incoming: bool) -> (Rig, Arc<IsaSerial>) {
    let rig = Rig::build(config("pc")).unwrap();
    let options =
        [("backend", "ringbuf"), ("id", "c0")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    rig.machine.chardevs().add(&ChardevOptions::parse(&options).unwrap(), &mut |_| {}).unwrap();
    let port = rig.add("isa-serial,chardev=c0").unwrap() as qom::ObjectRef;
    if incoming {
        rig.machine.expect_incoming();
    }
    rig.machine.finish().unwrap();
    (rig, port.downcast().unwrap())
}

fn interrupt(port: &IsaSerial) -> bool {
    port.line.get().unwrap().irq.level()
}

fn state(port: &Arc<IsaSerial>) -> UartState {
    port.line.get().unwrap().uart().saved_state()
}

fn sent(machine: &Machine) -> String {
    machine.chardevs().ringbuf_read("c0", 64, DataFormat::Utf8).unwrap()
}

#[test]
fn a_byte_that_the_guest_has_not_read_is_read_there() {
    let (source, port) = build(false);
    source.machine.start();
    source.outb(DATA + 2, 0x01);
    source.outb(DATA + 1, 0x01);
    for (offset, value) in [(3, 0x83), (0, 3), (1, 1), (3, 0x03), (7, 0x5a)] {
        source.outb(DATA + offset, value);
    }
    let mut from_host = FromHost(Arc::downgrade(port.line.get().unwrap()));
    assert_eq!(from_host.can_read(), 16);
    from_host.read(b"ab");
    from_host.event(CharEvent::Break);
    assert!(interrupt(&port));

    let (destination, port) = build(true);
    let mut from_host = FromHost(Arc::downgrade(port.line.get().unwrap()));
    assert_eq!(from_host.can_read(), 0, "what came now would be lost");
    assert!(!interrupt(&port));
    carry(&source.machine, &destination.machine);
    assert!(interrupt(&port));
    assert_eq!(from_host.can_read(), 0);
    destination.machine.incoming_done(qapi::types::RunState::Running);
    let read = |offset: u64| destination.read(DATA + offset, 1);
    assert_eq!([read(2), read(7)], [0xc4, 0x5a]);
    assert_eq!([read(5), read(5)], [0x71, 0x61], "a break, once");
    assert_eq!([read(0), read(0), read(0)], [0x61, 0x62, 0]);
    assert!(!interrupt(&port));
    destination.outb(DATA + 3, 0x80);
    assert_eq!([read(0), read(1)], [3, 1], "the divisor");
}

#[test]
fn what_the_line_has_not_taken_is_sent_when_the_guest_goes_on() {
    let (mut destination, port) = build(true);
    let waiting = UartState { ier: 2, xmit_fifo: b"hi".to_vec(), ..state(&port) };
    let Saved::Sections(all) = Arc::<IsaSerial>::clone(&port).saved() else { panic!("it has state") };
    let mut out = vmstate::Encoder::new();
    vmstate::VmState::put_fields(&waiting, &mut out);
    let bytes = out.into_bytes();
    all[0].load(&mut vmstate::Decoder::new(&bytes[..]), 1).unwrap();
    assert_eq!(state(&port), waiting);
    destination.turn();
    destination.machine.incoming_done(qapi::types::RunState::Paused);
    assert_eq!((sent(&destination.machine), interrupt(&port)), (String::new(), false));
    destination.machine.cont().unwrap();
    assert_eq!((sent(&destination.machine), interrupt(&port)), ("hi".into(), true));
}

#[test]
fn registers_that_cannot_be_are_refused() {
    let (rig, port) = build(false);
    let good = state(&port);
    assert!(Uart::from_state(good.clone()).is_ok());
    for bad in [
        UartState { ier: 0x10, ..good.clone() },
        UartState { mcr: 0x20, ..good.clone() },
        UartState { fcr: 2, ..good.clone() },
        UartState { lsr_errors: 0x20, ..good.clone() },
        UartState { recv_fifo: vec![0; 17], ..good.clone() },
        UartState { xmit_fifo: vec![0; 17], ..good },
    ] {
        let error = Uart::from_state(bad).unwrap_err();
        assert_eq!(error.to_string(), "serial: registers have values that they cannot have");
    }
    spoil(&rig.machine, "serial");
}
