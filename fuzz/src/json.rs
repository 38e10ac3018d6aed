//! The JSON stream: however it is cut, the same values and errors come out; limits hold; what is written is read again.

use qapi::{Result, Value, json};

use crate::pieces;

/// Small enough that inputs of the fuzzer meet them.
const TEXT: usize = 48;
const TOKENS: usize = 24;

/// One stream.
pub fn run(data: &[u8]) {
    let whole = results(qapi::fuzzing::parser(usize::MAX >> 33, usize::MAX >> 33), &[data]);
    // A result ends at a byte of its own, the last one at the end of the input.
    assert!(whole.len() <= data.len() + 1, "{} results of {} bytes", whole.len(), data.len());
    let small = results(qapi::fuzzing::parser(TEXT, TOKENS), &[data]);
    for turn in 0..2 {
        let cut = pieces(data, turn);
        assert_eq!(results(json::Parser::new(), &cut), whole);
        assert_eq!(results(qapi::fuzzing::parser(TEXT, TOKENS), &cut), small);
    }
    assert_eq!(one_by_one(data), whole);
    for value in small.iter().flatten() {
        assert!(json::to_string(value).len() <= 6 * TEXT + 8 * TOKENS, "{value:?}");
    }
    for value in whole.iter().flatten() {
        assert!(depth(value) <= 1024);
        round_trip(value);
    }
}

/// Values and errors as texts with their class: doubles need not be equal to themselves.
type Results = Vec<std::result::Result<Value, String>>;

fn collect(results: impl Iterator<Item = Result<Value>>) -> Results {
    results.map(|result| result.map_err(|e| format!("{:?}: {e}", e.class()))).collect()
}

fn results(mut parser: json::Parser, pieces: &[&[u8]]) -> Results {
    let mut list = Vec::new();
    for piece in pieces {
        parser.feed(piece);
        list.extend(collect(parser.by_ref()));
    }
    parser.finish();
    list.extend(collect(parser.by_ref()));
    assert!(!parser.is_partial());
    list
}

/// For callers that take one result at a time.
fn one_by_one(data: &[u8]) -> Results {
    let (mut parser, mut rest, mut list) = (json::Parser::new(), data, Vec::new());
    while let Some(result) = parser.advance(&mut rest) {
        list.extend(collect(std::iter::once(result)));
    }
    assert!(rest.is_empty());
    parser.finish();
    list.extend(collect(parser.by_ref()));
    list
}

fn depth(value: &Value) -> usize {
    let inside = match value {
        Value::List(list) => list.iter().map(depth).max(),
        Value::Dict(dict) => dict.iter().map(|(_, value)| depth(value)).max(),
        _ => return 0,
    };
    1 + inside.unwrap_or(0)
}

/// Whether its text says all of it: JSON has no infinity, and a zero without fraction is an integer, which has no sign.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Double(d) => d.is_finite() && (*d != 0.0 || d.is_sign_positive()),
        Value::List(list) => list.iter().all(is_plain),
        Value::Dict(dict) => dict.iter().all(|(_, value)| is_plain(value)),
        _ => true,
    }
}

fn round_trip(value: &Value) {
    for text in [json::to_string(value), json::to_string_pretty(value)] {
        assert!(text.is_ascii());
        if is_plain(value) {
            let again = json::parse(&text).expect("what we write can be read");
            assert!(is_same(&again, value), "{value:?} became {again:?}");
        }
    }
}

/// Whether two values are the same but for the order of members. A double without fraction is written as an integer is.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::List(one), Value::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Dict(one), Value::Dict(other)) => {
            let has =
                |(key, value): (&str, &Value)| other.get(key).is_some_and(|there| is_same(value, there));
            one.len() == other.len() && one.iter().all(has)
        }
        _ => json::to_string(one) == json::to_string(other),
    }
}
