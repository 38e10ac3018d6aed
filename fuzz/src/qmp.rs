//! A QMP conversation: the same replies however its bytes are cut, one for each result of the stream, and 0xFF leads back from
//! wherever it got to. Commands check their arguments against the schema and then refuse with what they got.

use qapi::json;

use crate::pieces;

/// One client's bytes.
pub fn run(data: &[u8]) {
    let whole = talk(&[data]);
    assert_eq!(talk(&pieces(data, 0)), whole);
    // The last thing is always understood, and answered with its id.
    let mut back = data.to_vec();
    back.extend_from_slice(b"\xff{'execute': 'query-status', 'id': 'way back'}");
    let replies = talk(&[&back]);
    let last = replies.last().expect("a reply");
    assert!(last.contains(r#""id": "way back""#), "{last}");
}

fn talk(pieces: &[&[u8]]) -> Vec<String> {
    let replies =
        monitor::fuzzing::qmp(pieces, &|command, arguments| qapi::fuzzing::echo(command, arguments));
    for reply in &replies {
        let value = json::parse(reply).expect("a reply is JSON");
        let dict = value.as_dict().expect("a reply is an object");
        assert!(dict.contains_key("return") != dict.contains_key("error"), "{reply}");
    }
    replies
}
