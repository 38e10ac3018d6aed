//! Claims about the conversation, from the oracle's `qmp-protocol.txt`.

use proptest::prelude::*;
use qapi::{Dict, json};

use super::session::{Request, Session, Step, reply};

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
