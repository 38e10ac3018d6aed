//! Claims about the conversation, from the oracle's `qmp-protocol.txt`.

use proptest::prelude::*;
use qapi::{Dict, json};

use super::session::{QUEUE, Request, Session, Step, reply};

/// Feeds `bytes`; commands succeed with an empty object. Gives the replies as they go on the wire.
fn talk(session: &mut Session, bytes: &[u8]) -> Vec<String> {
    session.push(bytes);
    let mut out = Vec::new();
    while let Some(step) = session.next_step() {
        let value = match step {
            Step::Reply(value) => value,
            Step::Run(Request { command, id, arguments }) => {
                let result = match command.as_str() {
                    "qmp_capabilities" => session.negotiate(arguments.contains_key("enable")),
                    _ => Ok(()),
                };
                reply(id, result.map(|()| Dict::new().into()))
            }
        };
        out.push(json::to_string(&value));
    }
    out
}

fn open() -> Session {
    let mut session = Session::new();
    talk(&mut session, br#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#);
    session
}

#[test]
fn nothing_but_negotiation_comes_first() {
    let mut s = Session::new();
    let expecting = r#"{"error": {"class": "CommandNotFound", "desc": "Expecting capabilities negotiation with 'qmp_capabilities'"}}"#;
    assert_eq!(talk(&mut s, br#"{"execute":"query-status"}"#), [expecting]);
    assert_eq!(talk(&mut s, br#"{"execute":"foo"}"#), [expecting]);
    assert_eq!(
        talk(&mut s, br#"{"exec-oob":"query-status"}"#),
        [r#"{"error": {"class": "GenericError", "desc": "QMP input member 'exec-oob' is unexpected"}}"#]
    );
    assert_eq!(
        talk(&mut s, br#"{"execute":"qmp_capabilities","id":"neg"}"#),
        [r#"{"return": {}, "id": "neg"}"#]
    );
    assert_eq!(
        talk(&mut s, br#"{"execute":"qmp_capabilities"}"#),
        [
            r#"{"error": {"class": "CommandNotFound", "desc": "Capabilities negotiation is already complete, command ignored"}}"#
        ]
    );
}

#[test]
fn requests_are_judged_by_shape_then_name() {
    let mut s = open();
    for (request, desc) in [
        (r#"{"execute":"query-name","foo":1}"#, "QMP input member 'foo' is unexpected"),
        (r#"{"execute":null}"#, "QMP input member 'execute' must be a string"),
        ("{}", "QMP input lacks member 'execute'"),
        (r#"{"execute":"query-name","arguments":[]}"#, "QMP input member 'arguments' must be an object"),
        (
            r#"{"execute":"query-name","exec-oob":"query-name"}"#,
            "QMP input member 'execute' clashes with 'exec-oob'",
        ),
        (r#"{"exec-oob":"query-status"}"#, "The command query-status does not support OOB"),
        ("[1]", "QMP input must be a JSON object"),
        ("}", "JSON parse error, expecting value"),
    ] {
        let reply = talk(&mut s, request.as_bytes());
        assert_eq!(reply, [format!(r#"{{"error": {{"class": "GenericError", "desc": "{desc}"}}}}"#)]);
    }
    assert_eq!(
        talk(&mut s, br#"{"execute":"query_status", "id": [1]}"#),
        [
            r#"{"id": [1], "error": {"class": "CommandNotFound", "desc": "The command query_status has not been found"}}"#
        ]
    );
}

#[test]
fn several_commands_may_come_at_once_or_in_pieces() {
    let mut s = open();
    let two =
        talk(&mut s, br#"{"execute":"query-status","id":"a"}{"execute":"query-status","id":"b"}{"exec"#);
    assert_eq!(two, [r#"{"return": {}, "id": "a"}"#, r#"{"return": {}, "id": "b"}"#]);
    assert_eq!(talk(&mut s, br#"ute":"query-name"}"#), [r#"{"return": {}}"#]);
}

proptest! {
    #[test]
    fn garbage_never_breaks_the_session(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut s = open();
        talk(&mut s, &bytes);
        // The documented way back: one 0xFF, then a command works.
        let replies = talk(&mut s, b"\xff{'execute':'query-status','id':'back'}");
        prop_assert_eq!(replies.last().map(String::as_str), Some(r#"{"return": {}, "id": "back"}"#));
    }
}

/// What is run out of band, and what waits after that.
fn sort(session: &mut Session, bytes: &[u8]) -> (Vec<String>, usize) {
    session.push(bytes);
    let run = |step| match step {
        Step::Run(Request { command, .. }) => command,
        Step::Reply(value) => json::to_string(&value),
    };
    let done = std::iter::from_fn(|| session.next_out_of_band()).map(run).collect();
    let waiting = std::iter::from_fn(|| session.next_waiting()).count();
    (done, waiting)
}

#[test]
fn out_of_band_requests_do_not_wait_behind_those_in_band() {
    let mut s = open();
    let (done, waiting) = sort(
        &mut s,
        br#"{"execute":"stop"} ] {"exec-oob":"query-yank"}{"exec-oob":"stop"}{"execute":"cont","exec-oob":"cont"}"#,
    );
    let refused = r#"{"error": {"class": "GenericError", "desc": "The command stop does not support OOB"}}"#;
    assert_eq!(done, ["query-yank", refused]);
    // Complaints about what is no request keep their place, too.
    assert_eq!(waiting, 3);
}

#[test]
fn a_full_queue_holds_up_what_is_out_of_band() {
    let mut s = open();
    s.push(&br#"{"execute":"stop"}"#.repeat(QUEUE));
    assert!(!s.has_room());
    s.push(br#"{"exec-oob":"query-yank"}"#);
    assert_eq!(s.next_out_of_band(), None);
    let (_, was_full) = s.next_waiting().unwrap();
    assert!(was_full);
    assert!(matches!(s.next_out_of_band(), Some(Step::Run(r)) if r.command == "query-yank"));
    assert!(!s.next_waiting().unwrap().1);
    assert!(s.has_room());
}

#[test]
fn descriptors_go_with_the_request_they_came_with() {
    let mut s = open();
    let null = || std::fs::File::open("/dev/null").unwrap().into();
    for (count, bytes) in
        [(1, &br#"{"execute":"getfd"}{"execute":"#[..]), (0, br#""stop"}"#), (2, br#"{"execute":"getfd"}"#)]
    {
        s.attach(std::iter::repeat_with(null).take(count).collect());
        s.push(bytes);
        assert_eq!(s.next_out_of_band(), None);
    }
    let counts: Vec<_> = std::iter::from_fn(|| s.next_waiting()).map(|(w, _)| w.fds.len()).collect();
    assert_eq!(counts, [1, 0, 2]);
}
