//! The stream against the oracle's transcripts (`3-qmp-hmp/qmp-protocol.txt`, `qmp-huge.txt`), and its properties.

use proptest::prelude::*;

use super::*;
use crate::{Dict, Value};

/// Results of feeding `input`, as a client would see them: errors' sentences, values as text.
fn run(input: &[u8]) -> Vec<String> {
    let mut parser = Parser::new();
    parser.feed(input);
    shown(parser)
}

fn shown(parser: Parser) -> Vec<String> {
    parser.map(|r| r.map_or_else(|e| e.desc().to_owned(), |v| to_string(&v))).collect()
}

/// An input and the results it has, errors without `JSON parse error, `.
type Case = (&'static [u8], &'static [&'static str]);

fn check(cases: &[Case]) {
    for (input, expected) in cases {
        let got = run(input);
        let got: Vec<_> = got.iter().map(|s| s.strip_prefix("JSON parse error, ").unwrap_or(s)).collect();
        assert_eq!(got, *expected, "{}", input.escape_ascii());
    }
}

#[test]
fn values_are_complete_at_their_last_bracket_and_written_as_the_oracle_writes_them() {
    check(&[
        (br#"{"execute":"query-status"}"#, &[r#"{"execute": "query-status"}"#]),
        (br#"{"id":"a"}{"id":"b"}"#, &[r#"{"id": "a"}"#, r#"{"id": "b"}"#]),
        (b"{'execute':'query-status','id':'single\\'s'}", &[r#"{"execute": "query-status", "id": "single's"}"#]),
        (br#"{"return":{},"id":1}"#, &[r#"{"return": {}, "id": 1}"#]),
        (br#"{"error":{"desc":"x","class":"G"},"id":1}"#, &[r#"{"id": 1, "error": {"class": "G", "desc": "x"}}"#]),
        (
            br#"{"id":"vm0","memaddr":1,"size":2,"node":0,"max-size":3,"requested-size":4,"block-size":5,"memdev":6}"#,
            &[
                r#"{"memdev": 6, "memaddr": 1, "block-size": 5, "size": 2, "node": 0, "max-size": 3, "requested-size": 4, "id": "vm0"}"#,
            ],
        ),
        (
            br#"{"data":{},"event":"STOP","timestamp":{"seconds":1,"microseconds":2}}"#,
            &[r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP", "data": {}}"#],
        ),
        (b"\r\n\t [1 ,\n2]\r\n", &["[1, 2]"]),
        (b"\"x\"\n", &["\"x\""]),
        (b"42\n null true ", &["42", "null", "true"]),
        (b"12", &[]),
        (
            b"[-9223372036854775808,18446744073709551615,1.5,1e3,0.1,100000000000000000000,-0,-0.0]",
            &["[-9223372036854775808, 18446744073709551615, 1.5, 1000, 0.10000000000000001, 1e+20, 0, -0]"],
        ),
        (b"[1e-5,123456789012345678.0,1e16,12345.678,1e400]", &[
            "[1.0000000000000001e-05, 1.2345678901234568e+17, 10000000000000000, 12345.678, inf]",
        ]),
        (b"[\"\\u00e9\\n\\\"\",\"\\ud83d\\ude00\",\"\xc3\xa9\",\"\xc0\x80\",\"\\u0000\",\"\x7f\"]", &[
            r#"["\u00E9\n\"", "\uD83D\uDE00", "\u00E9", "\u0000", "\u0000", "\u007F"]"#,
        ]),
    ]);
}

#[test]
fn a_syntax_error_is_told_once_at_the_end_of_its_value() {
    check(&[
        (b"{\"execute\":\"a\",\"execute\":\"b\"}", &["duplicate key"]),
        (b"}", &["expecting value"]),
        (b"]", &["expecting value"]),
        (b"{\"a\":1]", &["expected separator in dict"]),
        (b"[1 2]", &["expected separator in list"]),
        (b"{\"execute\" \"x\"}", &["missing : in object pair"]),
        (b"{\"execute\":\"query-status\",}", &["expecting value"]),
        (b"{,}", &["expecting value"]),
        (b"{\"a\":}", &["expecting value"]),
        (b"{a:1}", &["invalid keyword 'a'"]),
        (b"{1:2}", &["key is not a string in object"]),
        (b"{\"id\":0x10}", &["expected separator in dict"]),
        (b"{\"id\":nul}", &["invalid keyword 'nul'"]),
        (b"{\"id\":\"a\\qb\"}", &["invalid escape sequence in string"]),
        (b"{\"id\":\"a\\u12\"}", &["\\u12\" is not a valid Unicode character"]),
        (b"{\"id\":\"a\\u12\\\"xyz\"}", &["\\u12\\\" is not a valid Unicode character"]),
        (b"{\"id\":\"\\ud800\"}", &["\\ud800 is not a valid Unicode character"]),
        (b"{\"id\":\"\\ud800\\u0041\"}", &["\\ud800 is not a valid Unicode character"]),
        (b"{\"id\":\"\\uffff\"}", &["\\uffff is not a valid Unicode character"]),
        (b"{\"id\":\"\xed\xa0\x80\"}", &["invalid UTF-8 sequence in string"]),
        (b"{\"a\":1} trailing\n", &["{\"a\": 1}", "invalid keyword 'trailing'"]),
    ]);
}

#[test]
fn after_a_lexical_error_input_is_skipped_to_the_next_structural_character() {
    check(&[
        (b"{\"id\":+1}", &["stray '+'", "expecting value"]),
        (b"{\"id\":01}", &["stray '01'", "expecting value"]),
        (b"{\"id\":.5}", &["stray '.'", "expecting value"]),
        (b"{\"id\":1.}", &["stray '1.}'"]),
        (b"{\"id\":NaN}", &["stray 'N'", "expecting value"]),
        (b"{\"id\":\"a\nb\"}\n", &["stray '\"a\n'", "expecting value"]),
        (b"{\"id\":\"\xff\xfe\"}", &["stray '\"\u{FFFD}'", "stray '\u{FFFD}'", "expecting value"]),
        (b"{\"id\":\"x\x00y\"}", &["stray '\"x'", "expecting value"]),
        (b"/* c */{\"a\":1}", &["stray '/'", "{\"a\": 1}"]),
        (b"{\"id\":%d}", &["stray '%'", "expecting value"]),
        (b"@foo\n{\"a\":1}", &["stray '@'", "{\"a\": 1}"]),
    ]);
}

#[test]
fn byte_ff_always_leaves_a_clean_state() {
    check(&[
        (b"{\"execute\":\"query-st\xff{\"a\":1}", &["stray '\"query-st\u{FFFD}'", "{\"a\": 1}"]),
        (b"\xff{\"a\":1}", &["stray '\u{FFFD}'", "{\"a\": 1}"]),
        (
            b"\xff\xff\xff\n{\"a\":1}",
            &["stray '\u{FFFD}'", "stray '\u{FFFD}'", "stray '\u{FFFD}'", "{\"a\": 1}"],
        ),
        (b"{\"x\":[[[[\xff\n{\"a\":1}", &["stray '\u{FFFD}'", "{\"a\": 1}"]),
    ]);
}

/// An object around `depth` arrays.
fn nested(depth: usize) -> Vec<u8> {
    format!("{{\"id\":{}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes()
}

#[test]
fn nesting_beyond_1024_is_refused_and_leaves_one_error_for_each_bracket_left() {
    assert_eq!(run(&nested(1023)).len(), 1);
    assert!(run(&nested(1023))[0].starts_with("{\"id\": [["));
    let too_deep = run(&nested(1024));
    assert_eq!(too_deep[0], "JSON nesting depth limit exceeded");
    assert_eq!(too_deep.len(), 1 + 1025);
    assert!(too_deep[1..].iter().all(|e| e == "JSON parse error, expecting value"));
    let deeper = run(&nested(1025));
    assert_eq!(deeper[1], "[]");
    assert_eq!(deeper.len(), 2 + 1025);
}

#[test]
fn the_limits_are_2_mi_tokens_and_64_mib_of_token_text() {
    assert_eq!((stream::MAX_TOKENS, stream::MAX_TEXT), (2 << 20, 64 << 20));
}

#[test]
fn a_value_with_too_many_tokens_is_refused() {
    let mut parser = Parser::with_limits(1 << 20, 10);
    parser.feed(b"[1,2,3,4,5.]");
    parser.feed(b"[1,2,3,4 ]");
    assert!(parser.next().is_some_and(|r| r.is_err()));
    assert_eq!(parser.next(), Some(Ok(Value::from(vec![1, 2, 3, 4]))));
    parser.feed(b"[1,2,3,4,5,6]");
    let expecting = "JSON parse error, expecting value";
    // The token that was too much is gone, what follows is new input.
    assert_eq!(shown(parser), ["JSON token count limit exceeded", "6", expecting]);
}

#[test]
fn a_value_with_too_much_text_is_refused_whatever_the_chunks() {
    for chunk in [1, 7, 1000, 100_000] {
        let mut parser = Parser::with_limits(3000, 100);
        let input = format!("{{\"id\":\"{}\"}}\n{{}}", "a".repeat(5000));
        input.as_bytes().chunks(chunk).for_each(|c| parser.feed(c));
        let results = shown(parser);
        assert_eq!(results[0], "JSON token size limit exceeded");
        // Messages are cut.
        assert_eq!(results[1].len(), "JSON parse error, ".len() + 1023);
        assert!(results[1].starts_with("JSON parse error, invalid keyword 'aaaa"));
        assert_eq!(results[2..], ["JSON parse error, stray '\"}\n'", "{}"]);
    }
    let mut parser = Parser::with_limits(3000, 3000);
    parser.feed(format!("[{}]", "'aaaaaaaaaa',".repeat(1000)).as_bytes());
    assert_eq!(parser.next().unwrap().unwrap_err().desc(), "JSON token size limit exceeded");
}

#[test]
fn an_object_with_very_many_members_takes_linear_time() {
    let members: Vec<String> = (0..50_000).map(|i| format!("\"k{i}\":{i}")).collect();
    let results = run(format!("{{{},\"k77\":0}}", members.join(",")).as_bytes());
    assert_eq!(results, ["JSON parse error, duplicate key"]);
}

#[test]
fn pretty_text_has_one_element_a_line() {
    // `return` comes before `id`, as in the transcripts.
    let value = parse("{'id':[1,[]],'return':{}}").unwrap();
    let text = "{\n    \"return\": {\n    },\n    \"id\": [\n        1,\n        [\n        ]\n    ]\n}";
    assert_eq!(to_string_pretty(&value), text);
}

#[test]
fn a_command_line_value_is_exactly_one() {
    let desc = |text: &str| parse(text).unwrap_err().desc().to_owned();
    assert_eq!(parse("12"), Ok(Value::Int(12)));
    assert_eq!(desc("{\"driver\":\"virtio-mem-pci\","), "JSON parse error, premature EOI");
    assert_eq!(desc(" "), "Expecting a JSON value");
    assert_eq!(desc("1 2"), "Expecting at most one JSON value");
    assert_eq!(desc("'abc"), "JSON parse error, stray ''abc'");
    assert_eq!(desc("{'a':1"), "JSON parse error, premature EOI");
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |d| d.is_finite()).prop_map(Value::Double),
        text().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::List),
            prop::collection::vec((text(), inner), 0..24)
                .prop_map(|m| Value::Dict(m.into_iter().collect::<Dict>())),
        ]
    })
}

/// Text without noncharacters, which come back as U+FFFD.
fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), 0..8)
        .prop_map(|s| s.into_iter().filter(|&c| utf8::character(c.into()).is_some()).collect())
}

/// Equal but for doubles that were written as integers.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Double(d), Value::Int(i)) => *d == *i as f64,
        (Value::Double(d), Value::UInt(u)) => *d == *u as f64,
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Dict(a), Value::Dict(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
        }
        _ => a == b,
    }
}

/// Bytes that often are nearly JSON.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        any::<u8>().prop_map(|b| vec![b]),
        prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"a\"",
            "'b'",
            "1",
            "-0.5e3",
            "true",
            "nul",
            "\"\\u00e9\"",
            "\"\\ud83d",
            "\n",
            "\\",
            "\"",
            "{\"a\":",
            "[1,",
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(value in values()) {
        for text in [to_string(&value), to_string_pretty(&value)] {
            prop_assert!(text.is_ascii());
            let back = parse(&text).unwrap();
            prop_assert!(same(&value, &back), "{} -> {:?}", text, back);
        }
    }

    #[test]
    fn written_text_is_json_to_others(value in values()) {
        prop_assert!(serde_json::from_str::<serde_json::Value>(&to_string(&value)).is_ok());
    }

    #[test]
    fn chunks_make_no_difference(input in nearly_json(), cuts in prop::collection::vec(0usize..200, 0..6)) {
        let whole = run(&input);
        let mut parser = Parser::new();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(input.len())).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            parser.feed(&input[pair[0]..pair[1]]);
        }
        prop_assert_eq!(shown(parser), whole);
    }

    #[test]
    fn any_bytes_are_followed_by_a_command_that_works(input in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut parser = Parser::new();
        parser.feed(&input);
        parser.feed(b"\xff{\"a\": 1}");
        let results = shown(parser);
        prop_assert_eq!(results.last().unwrap(), "{\"a\": 1}");
    }

    #[test]
    fn the_end_of_input_is_never_a_panic(input in nearly_json()) {
        let mut parser = Parser::new();
        parser.feed(&input);
        parser.finish();
        prop_assert!(!parser.is_partial());
    }
}

#[test]
fn what_was_written_beforehand_is_written_again_as_it_would_be_anew() {
    let (schema, written) = (crate::introspect::schema(), crate::introspect::written());
    let around = |value| Value::from(Dict::new().with("return", value).with("id", 1));
    assert_eq!(to_string(&around(written.clone())), to_string(&around(schema.clone())));
    assert_eq!(to_string_pretty(&around(written)), to_string_pretty(&around(schema)));
}
