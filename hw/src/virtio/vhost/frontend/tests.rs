//! What back ends may answer, and what becomes of those that answer anything else.

use super::super::message::Header;
use super::super::testing::{BackEnd, LONG, Misdeed, Script, reply};
use super::*;

fn long() -> Deadline {
    Deadline::after(LONG)
}

fn negotiate(back_end: &BackEnd) -> Result<FrontEnd, Fault> {
    FrontEnd::negotiate(Channel::new(back_end.connect()), long())
}

#[test]
fn what_both_sides_know_is_negotiated() {
    let script = Script { protocol: u64::MAX, slots: 1000, ..Script::default() };
    let back_end = BackEnd::new(script);
    let front = negotiate(&back_end).unwrap();
    assert_eq!((front.protocol, front.max_queues, front.max_slots), (protocol::KNOWN, 4, 509));
    drop(back_end.wait(|state| state.log.len() == 6));
    let expected = [
        "GetFeatures",
        "GetProtocolFeatures",
        "SetProtocolFeatures",
        "GetQueueNum",
        "GetMaxMemSlots",
        "SetOwner",
    ];
    assert_eq!(back_end.take_log(), expected);
}

#[test]
fn a_back_end_without_protocol_features_has_one_queue_and_a_table_of_eight_regions() {
    let script = Script { features: 1 << 32, ..Script::default() };
    let back_end = BackEnd::new(script);
    let front = negotiate(&back_end).unwrap();
    assert_eq!((front.protocol, front.max_queues, front.max_slots), (0, 1, 8));
    front.enable_ring(0, true, long()).unwrap();
    drop(back_end.wait(|state| state.log == ["GetFeatures", "SetOwner"]));
}

#[test]
fn nonsense_is_a_fault_that_says_what_it_was() {
    let header = |request: u32, flags: u32, size: u32| Header { request, flags, size }.to_bytes().to_vec();
    let say = |bytes: Vec<u8>| Misdeed::Say(bytes);
    let cases = [
        (Misdeed::HangUp, "Failed to read msg header. Read 0 instead of 12. Original request 1."),
        (say(reply(2, &[0; 8])), "Received unexpected msg type. Expected 1 received 2"),
        (say(reply(1, &[0; 4])), "Received bad msg size."),
        (say(reply(1, &[])), "Received bad msg size."),
        (say(reply(1, &[0; 16])), "Received bad msg size."),
        (say(header(1, 1, 8)), "Failed to read msg header. Flags 0x1 instead of 0x5."),
        (say(header(1, 6, 8)), "Failed to read msg header. Flags 0x6 instead of 0x5."),
        (say(header(1, 5, 4097)), "Failed to read msg header. Size 4097 exceeds the maximum 4096."),
        (say(header(1, 5, u32::MAX)), "Failed to read msg header. Size 4294967295 exceeds the maximum 4096."),
        (Misdeed::Descriptors(1), "Received 1 unexpected descriptors."),
        (Misdeed::Descriptors(8), "Received 8 unexpected descriptors."),
    ];
    for (misdeed, text) in cases {
        let back_end = BackEnd::new(Script {
            misdeeds: vec![(Request::GetFeatures, misdeed.clone())],
            ..Script::default()
        });
        assert_eq!(negotiate(&back_end).unwrap_err().to_string(), text, "{misdeed:?}");
    }
}

#[test]
fn half_a_message_at_the_end_is_a_fault() {
    for (sent, text) in [
        (
            reply(1, &[0; 8])[..5].to_vec(),
            "Failed to read msg header. Read 5 instead of 12. Original request 1.",
        ),
        (reply(1, &[0; 8])[..15].to_vec(), "Failed to read msg payload. Read 3 instead of 8."),
    ] {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut theirs, &sent).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let fault = FrontEnd::negotiate(Channel::new(ours.into()), long()).unwrap_err();
        assert_eq!(fault.to_string(), text);
    }
}

#[test]
fn nobody_is_waited_for_beyond_the_deadline_also_not_a_byte_at_a_time() {
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let (over, is_over) = std::sync::mpsc::channel::<()>();
    let trickle = std::thread::spawn(move || {
        // Each byte comes in time; the last of the answer never does, however slow this machine is.
        let mut answer = reply(1, &[0; 8]);
        answer.pop();
        for byte in answer {
            if std::io::Write::write_all(&mut theirs, &[byte]).is_err() {
                return;
            }
            let pause = is_over.recv_timeout(std::time::Duration::from_millis(20));
            if pause != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return;
            }
        }
        // Not to hang up before.
        let _ = is_over.recv();
    });
    let deadline = Deadline::after(std::time::Duration::from_millis(100));
    let fault = FrontEnd::negotiate(Channel::new(ours.into()), deadline).unwrap_err();
    assert_eq!(fault, Fault::Timeout(1));
    drop(over);
    trickle.join().unwrap();
}

#[test]
fn a_socket_that_nobody_reads_is_a_timeout_as_well() {
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let channel = Channel::new(ours.into());
    let deadline = Deadline::after(std::time::Duration::from_millis(100));
    let body = [0; 4000];
    let fault = std::iter::repeat_with(|| channel.send(Request::SetConfig, false, &body, &[], deadline))
        .find_map(Result::err);
    assert_eq!(fault, Some(Fault::Timeout(25)));
}

#[test]
fn an_order_is_acknowledged_or_followed_by_a_question() {
    for acks in [true, false] {
        let mut script = Script::default();
        script.protocol &= if acks { u64::MAX } else { !protocol::REPLY_ACK };
        let back_end = BackEnd::new(script);
        let front = negotiate(&back_end).unwrap();
        front.set_config(4, &[99], long()).unwrap();
        let log = back_end.take_log();
        assert_eq!(log.last().unwrap(), if acks { "SetConfig" } else { "GetFeatures" });
        assert_eq!(back_end.state().script.config[4], 99);
    }
}

#[test]
fn an_order_that_failed_is_a_fault() {
    let back_end = BackEnd::new(Script::default());
    let front = negotiate(&back_end).unwrap();
    back_end.misbehave(Request::SetConfig, Misdeed::Refuse);
    assert_eq!(front.set_config(4, &[99], long()), Err(Fault::Refused(25)));
}

#[test]
fn the_configuration_space_is_what_was_asked_for() {
    let back_end = BackEnd::new(Script::default());
    let front = negotiate(&back_end).unwrap();
    assert_eq!(front.config(36, long()).unwrap(), (0..36).collect::<Vec<u8>>());
    let wrong = [
        [8u32.to_ne_bytes(), 36u32.to_ne_bytes(), [0; 4]].concat(),
        [[0; 4], 35u32.to_ne_bytes(), [0; 4]].concat(),
        [[0; 4], 0u32.to_ne_bytes(), [0; 4]].concat(),
    ];
    for head in wrong {
        let answer = reply(Request::GetConfig as u32, &[&head[..], &[0; 36]].concat());
        back_end.misbehave(Request::GetConfig, Misdeed::Say(answer));
        assert_eq!(front.config(36, long()), Err(Fault::Size), "{head:?}");
    }
}

#[test]
fn a_ring_stops_where_the_back_end_says_if_that_is_possible() {
    let back_end = BackEnd::new(Script { stops_at: [(1, 77)].into(), ..Script::default() });
    let front = negotiate(&back_end).unwrap();
    front.set_ring_size(1, 128, long()).unwrap();
    assert_eq!(front.stop_ring(1, long()), Ok(77));
    for (queue, base) in [(0u32, 77u32), (1, 0x1_0000)] {
        front.set_ring_size(1, 128, long()).unwrap();
        let answer = reply(11, &[queue.to_ne_bytes(), base.to_ne_bytes()].concat());
        back_end.misbehave(Request::GetVringBase, Misdeed::Say(answer));
        let fault = front.stop_ring(1, long()).unwrap_err();
        assert_eq!(fault.to_string(), format!("Queue 1 stopped at Some({queue}), Some({base})."));
    }
}

#[test]
fn an_inflight_buffer_without_a_file_is_none() {
    let back_end = BackEnd::new(Script { protocol: protocol::KNOWN, ..Script::default() });
    let front = negotiate(&back_end).unwrap();
    let (body, _file) = front.inflight(2, 128, long()).unwrap();
    assert_eq!(body, InflightBody { size: 4096, offset: 512, queues: 2, queue_size: 128 });
    back_end.misbehave(Request::GetInflightFd, Misdeed::Say(reply(31, &body.to_bytes())));
    assert_eq!(front.inflight(2, 128, long()).unwrap_err().to_string(), "Received no inflight buffer.");
}

#[test]
fn more_queues_than_the_protocol_has_are_refused() {
    let back_end = BackEnd::new(Script { queues: 1 << 40, ..Script::default() });
    assert_eq!(negotiate(&back_end).unwrap_err().to_string(), "The back end claims 1099511627776 queues.");
}
