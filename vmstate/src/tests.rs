//! Declarations, written and read.

use super::*;

vmstate! {
    /// A part of a whole.
    struct Part: "part", version 1 {
        a: u16,
        b: bool,
    }
}

vmstate! {
    /// Only sometimes there.
    struct Extra: "whole/extra", version 3, oldest 2 {
        bytes: Vec<u8>,
    }
}

vmstate! {
    /// Everything at once.
    struct Whole: "whole", version 2, oldest 1 {
        small: u8,
        signed: i32,
        parts: [Part; 2],
        raw: [u8; 3],
        words: Vec<u32>,
        late: u64 [since 2 else 5],
        maybe: Option<u16>,
    }
    subsections {
        extra: Extra,
    }
}

fn whole(extra: Option<Extra>) -> Whole {
    let part = |a| Part { a, b: a == 2 };
    Whole {
        small: 1,
        signed: -2,
        parts: [part(1), part(2)],
        raw: [7, 8, 9],
        words: vec![],
        late: 6,
        maybe: Some(9),
        extra,
    }
}

fn bytes(state: &Whole) -> Vec<u8> {
    let mut out = Encoder::new();
    state.put_fields(&mut out);
    out.into_bytes()
}

#[test]
fn what_is_written_is_read() {
    for extra in [None, Some(Extra { bytes: vec![1; 100_000] })] {
        let state = whole(extra);
        let mut bytes = bytes(&state);
        bytes.push(0x7e);
        let mut input = Decoder::new(&bytes[..]);
        assert_eq!(Whole::get_versioned(&mut input, 2).unwrap(), state);
        assert_eq!(input.array::<1>().unwrap(), [0x7e], "what follows is still there");
    }
}

#[test]
fn older_versions_have_defaults_and_others_are_refused() {
    let mut state = whole(None);
    let mut old = bytes(&state);
    let at = 1 + 4 + 6 + 3 + 4;
    old.drain(at..at + 8);
    state.late = 5;
    assert_eq!(Whole::get_versioned(&mut Decoder::new(&old[..]), 1).unwrap(), state);
    let error = |version| Whole::get_versioned(&mut Decoder::new(&old[..]), version).unwrap_err();
    assert_eq!(error(3).lines, ["whole: incoming version_id 3 is too new for local version_id 2"]);
    assert_eq!(error(0).lines, ["whole: incoming version_id 0 is too old for local minimum version_id 1"]);
}

#[test]
fn a_stream_that_ends_anywhere_is_an_error_with_the_way_to_the_field() {
    let all = bytes(&whole(Some(Extra { bytes: vec![3; 4] })));
    let short = bytes(&whole(None)).len();
    for len in 0..all.len() {
        let result = Whole::get_versioned(&mut Decoder::new(&all[..len]), 2);
        // Without a whole head there is no subsection, and what is left belongs to whoever comes next.
        let whole_head = len >= short + 2 + "whole/extra".len();
        assert_eq!(result.is_err(), len < short || whole_head, "{len}");
    }
    let error = Whole::get_versioned(&mut Decoder::new(&all[..6]), 2).unwrap_err();
    assert_eq!(error.lines, ["Failed to load part:a", "Failed to load whole:parts"]);
    assert_eq!(error.errno, Errno::Io);
}

#[test]
fn hostile_lengths_take_no_memory() {
    let error = <Vec<u8>>::get(&mut Decoder::new(&[0xff; 20][..])).unwrap_err();
    assert_eq!(error.lines, ["4294967295 elements are too many"]);
    let mut long = MAX_ELEMENTS.to_be_bytes().to_vec();
    long.push(1);
    assert_eq!(<Vec<u64>>::get(&mut Decoder::new(&long[..])).unwrap_err().errno, Errno::Io);
}

#[test]
fn a_subsection_that_nobody_knows_is_an_error_and_another_owners_is_left_alone() {
    let mut bytes = bytes(&whole(None));
    let len = bytes.len();
    bytes.extend_from_slice(b"\x05\x0awhole/none\0\0\0\x01");
    let error = Whole::get_versioned(&mut Decoder::new(&bytes[..]), 2).unwrap_err();
    assert_eq!(error.lines, ["Unknown subsection 'whole/none' of 'whole'"]);
    bytes.truncate(len);
    bytes.extend_from_slice(b"\x05\x0aother/some\0\0\0\x01");
    let mut input = Decoder::new(&bytes[..]);
    Whole::get_versioned(&mut input, 2).unwrap();
    assert_eq!(input.array::<4>().unwrap(), *b"\x05\x0aot");
}

#[test]
fn the_description_tells_every_byte() {
    let mut out = Encoder::new();
    whole(Some(Extra { bytes: vec![3; 4] })).put_fields(&mut out);
    let (_, layout) = out.finish();
    let text = Described::device(("dev/whole", 0), ("whole", 2), layout).to_string();
    let expected = concat!(
        r#"{"name":"dev/whole","instance_id":0,"vmsd_name":"whole","version":2,"fields":["#,
        r#"{"name":"small","type":"uint8","size":1},{"name":"signed","type":"int32","size":4},"#,
        r#"{"name":"parts","index":0,"type":"struct","struct":{"vmsd_name":"part","version":1,"fields":["#,
        r#"{"name":"a","type":"uint16","size":2},{"name":"b","type":"bool","size":1}]},"size":3},"#,
        r#"{"name":"parts","index":1,"type":"struct","struct":{"vmsd_name":"part","version":1,"fields":["#,
        r#"{"name":"a","type":"uint16","size":2},{"name":"b","type":"bool","size":1}]},"size":3},"#,
        r#"{"name":"raw","type":"buffer","size":3},{"name":"words","type":"uint32","size":4},"#,
        r#"{"name":"late","type":"uint64","size":8},{"name":"maybe","type":"bool","size":1},"#,
        r#"{"name":"maybe","type":"uint16","size":2}],"subsections":[{"vmsd_name":"whole/extra","version":3,"fields":["#,
        r#"{"name":"bytes","type":"uint32","size":4},{"name":"bytes","type":"buffer","size":4}]}]}"#,
    );
    assert_eq!(text, expected);
}

#[test]
fn names_in_the_description_may_hold_anything() {
    let name = |id: &str| Described::device((id, 0), ("d", 1), Layout::default()).to_string();
    for (id, text) in [
        ("", r#""""#),
        ("a\"b\\", r#""a\"b\\""#),
        ("\n\u{1f}\u{7f}", "\"\\u000a\\u001f\u{7f}\""),
        ("ä\té", "\"ä\\u0009é\""),
    ] {
        let expected =
            format!(r#"{{"name":{text},"instance_id":0,"vmsd_name":"d","version":1,"fields":[]}}"#);
        assert_eq!(name(id), expected);
    }
}

#[test]
fn the_shape_tells_what_was_declared() {
    let shape = Whole::declared();
    assert_eq!((shape.version, shape.oldest), (2, 1));
    assert_eq!(shape.fields[5].since, 2);
    assert_eq!(shape.fields[3].shape, Shape::Array(Box::new(Shape::Scalar("uint8", 1)), 3));
    assert_eq!(shape.subsections, [Extra::declared()]);
    assert!(
        shape.to_json(0).contains(r#"{"name": "raw", "since": 0, "array": 3, "type": "uint8", "size": 1}"#)
    );
}
