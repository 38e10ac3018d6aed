//! Claims from QEMU 10.0.2's `print`, and that nothing anybody types breaks the evaluator.

use proptest::prelude::*;

use super::*;

fn registers(name: &str) -> Option<i64> {
    match name {
        "eax" => Some(3),
        "cs.base" => Some(0xffff_0000),
        "pc" => Some(-1),
        _ => None,
    }
}

fn value(text: &str) -> Result<i64, String> {
    match evaluate(text, &registers)? {
        (value, "") => Ok(value),
        (_, rest) => Err(format!("left: {rest}")),
    }
}

#[test]
fn operators_bind_as_in_qemu() {
    for (text, expected) in [
        ("1+2*3", 7),
        ("3+1|1", 4),
        ("1|1+3", 4),
        ("2*3|4", 6),
        ("2|4*3", 14),
        ("1|2^3&1", 0),
        ("10-3-2", 5),
        ("100/7*7", 98),
        ("-7/2", -3),
        ("-7%3", -1),
        ("7/-2", -3),
        ("~~5", 5),
        ("- -5", 5),
        ("--5", 5),
        ("+1", 1),
        (" ( 1 + 2 ) * 3 ", 9),
        ("0x10+010", 24),
        ("0X1F", 31),
        ("'a'", 97),
        ("$eax+1", 4),
        ("$cs.base + $eax", 0xffff_0003),
        ("$pc", -1),
        ("0xffffffffffffffff", -1),
        // Where QEMU divides by hardware, and ends.
        ("(-9223372036854775807-1)/-1", i64::MIN),
    ] {
        assert_eq!(value(text), Ok(expected), "{text}");
    }
}

#[test]
fn mistakes_are_answered_in_qemus_words() {
    for (text, expected) in [
        ("", "unexpected end of expression\n"),
        ("1+", "unexpected end of expression\n"),
        ("1|", "unexpected end of expression\n"),
        ("(1", "')' expected\n"),
        ("()", "invalid char ')' in expression\n"),
        ("*2", "invalid char '*' in expression\n"),
        ("!1", "invalid char '!' in expression\n"),
        ("foo", "invalid char 'f' in expression\n"),
        ("5/0", "division by zero\n"),
        ("5%0", "division by zero\n"),
        ("$", "unknown register\n"),
        ("$eax+$", "unknown register\n"),
        ("$EAX", "unknown register\n"),
        ("'", "character constant expected\n"),
        ("''", "missing terminating ' character\n"),
        ("'ab'", "missing terminating ' character\n"),
        ("18446744073709551616", "number too large\n"),
        ("0x1ffffffffffffffff", "number too large\n"),
        ("10M", "left: M"),
        ("0x", "left: x"),
        ("08", "left: 8"),
        ("1<<4", "left: <<4"),
        ("1+1)", "left: )"),
        ("0 $eax", "left: $eax"),
    ] {
        assert_eq!(value(text), Err(expected.into()), "{text}");
    }
}

#[test]
fn a_line_of_parentheses_is_no_way_to_the_end_of_the_stack() {
    let deep = |open: &str| value(&open.repeat(1_000_000));
    for open in ["(", "-", "~", "1+("] {
        assert_eq!(deep(open), Err("expression is nested too deeply\n".into()));
    }
    assert_eq!(value(&format!("{}1{}", "(".repeat(100), ")".repeat(100))), Ok(1));
    // As many one after the other as one likes.
    assert_eq!(value(&format!("{}1", "(1)+".repeat(1000))), Ok(1001));
}

proptest! {
    #[test]
    fn anything_has_a_value_or_an_error(text in "[-+~()*/%&|^$'0-9a-fx. \u{e9}]{0,40}") {
        if let Err(message) = evaluate(&text, &registers) {
            prop_assert!(message.ends_with('\n'));
        }
    }

    #[test]
    fn sums_of_products_are_what_rust_says(numbers in prop::collection::vec(any::<(i32, i32)>(), 1..8)) {
        let text: Vec<_> = numbers.iter().map(|(a, b)| format!("{a} * {b}")).collect();
        let expected = numbers.iter().fold(0i64, |sum, (a, b)| sum.wrapping_add(i64::from(*a) * i64::from(*b)));
        prop_assert_eq!(value(&text.join(" + ")), Ok(expected));
    }
}
