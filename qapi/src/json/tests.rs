//! The stream against the oracle's transcript (`3-qmp-hmp/qmp-protocol.txt`, `qmp-huge.txt`), and its properties.

use super::*;

/// Results of feeding `input`, as a client would see them: errors' sentences, values as text.
fn run(input: &[u8]) -> Vec<String> {
    let mut parser = Parser::new();
    parser.feed(input);
    parser.map(|r| r.map_or_else(|e| e.desc().to_owned(), |v| to_string(&v))).collect()
}

#[test]
fn members_are_written_in_the_protocols_order() {
    assert_eq!(run(br#"{"id":1,"error":2}"#), [r#"{"id": 1, "error": 2}"#]);
    assert_eq!(run(br#"{"id":1,"return":2}"#), [r#"{"return": 2, "id": 1}"#]);
}
