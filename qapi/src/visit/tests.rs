//! Readers and writers that the generator makes, through the self-test schema, which has one of everything.

use super::*;
use crate::json;
use crate::selftest::events::Event;
use crate::selftest::types::{Base, Color, NameOrNot, Nothing, Paint, PaintType, Rgb, TagBase, Widths};

fn read<T: FromValue>(text: &str) -> Result<T> {
    T::from_value(json::parse(text).unwrap(), &Path::ROOT)
}

fn desc<T: FromValue + fmt::Debug>(text: &str) -> String {
    read::<T>(text).unwrap_err().desc().to_owned()
}

fn back<T: FromValue + ToValue>(text: &str) -> String {
    json::to_string(&read::<T>(text).unwrap().to_value())
}

#[test]
fn the_first_member_that_is_missing_wrong_or_unexpected_is_named() {
    assert_eq!(desc::<Base>("{}"), "Parameter 'id' is missing");
    assert_eq!(desc::<Base>("{'id': 1, 'x': 2}"), "Invalid parameter type for 'id', expected: string");
    assert_eq!(desc::<Base>("{'id': 'a', 'x': 2}"), "Parameter 'x' is unexpected");
    assert_eq!(desc::<Base>("[]"), "Invalid parameter type for '<anonymous>', expected: object");
    assert_eq!(desc::<Nothing>("{'x': 2}"), "Parameter 'x' is unexpected");
    assert_eq!(desc::<Rgb>("{'parts': 'a'}"), "Invalid parameter type for 'parts', expected: array");
}

#[test]
fn nested_members_are_named_by_their_path() {
    assert_eq!(
        desc::<Rgb>("{'parts': [], 'inner': [{'id': 'a'}, {}]}"),
        "Parameter 'inner[1].id' is missing"
    );
    assert_eq!(
        desc::<Rgb>("{'parts': [], 'inner': [{'id': 'a', 'q': 0}]}"),
        "Parameter 'inner[0].q' is unexpected"
    );
    assert_eq!(desc::<Rgb>("{'parts': [1, 'x']}"), "Parameter 'parts[1]' expects uint64");
    assert_eq!(desc::<Vec<i64>>("[1, 'x']"), "Invalid parameter type for '[1]', expected: integer");
}

#[test]
fn ranges_and_enumeration_values_name_the_last_member_only() {
    let widths = |member: &str, value: &str| desc::<Widths>(&format!("{{'id': '', '{member}': {value}}}"));
    assert_eq!(widths("a", "128"), "Parameter 'a' expects int8_t");
    assert_eq!(widths("a", "true"), "Invalid parameter type for 'a', expected: integer");
    assert_eq!(widths("b", "256"), "Parameter 'b' expects uint8_t");
    assert_eq!(widths("b", "'1'"), "Parameter 'b' expects uint64");
    assert_eq!(widths("c", "-32769"), "Parameter 'c' expects int16_t");
    assert_eq!(widths("d", "65536"), "Parameter 'd' expects uint16_t");
    assert_eq!(widths("e", "2147483648"), "Parameter 'e' expects int32_t");
    assert_eq!(widths("f", "-1"), "Parameter 'f' expects uint32_t");
    assert_eq!(widths("g", "9223372036854775808"), "Invalid parameter type for 'g', expected: integer");
    assert_eq!(widths("h", "1.0"), "Parameter 'h' expects uint64");
    assert_eq!(widths("i", "'64M'"), "Parameter 'i' expects uint64");
    assert_eq!(widths("j", "null"), "Invalid parameter type for 'j', expected: number");
    assert_eq!(desc::<Paint>("{'type': 'blue'}"), "Parameter 'type' does not accept value 'blue'");
    assert_eq!(desc::<Vec<Color>>("['blue']"), "Parameter 'null' does not accept value 'blue'");
    assert_eq!(desc::<Rgb>("{'parts': [256]}"), "Parameter 'null' expects uint8_t");
}

#[test]
fn negative_numbers_wrap_where_64_bits_without_sign_are_expected() {
    assert_eq!(back::<Widths>("{'id': 'w', 'i': -1}"), r#"{"i": 18446744073709551615, "id": "w"}"#);
}

#[test]
fn members_of_a_branch_follow_the_common_ones() {
    let paint = read::<Paint>("{'parts': [1, 2, 3], 'note': 'n', 'type': 'rgb'}").unwrap();
    assert_eq!(paint.type_.type_(), Color::Rgb);
    assert!(matches!(&paint.type_, PaintType::Rgb(rgb) if rgb.parts == [1, 2, 3]));
    let text = r#"{"type": "deep-red", "note": "n"}"#;
    assert_eq!(read::<Paint>(text).unwrap().type_, PaintType::DeepRed);
    assert_eq!(read::<Paint>(&back::<Paint>(text)), read::<Paint>(text));
    let common = TagBase { type_: Color::DeepRed, note: Some("n".to_owned()) };
    assert_eq!(common.to_value(), json::parse(text).unwrap());
    assert_eq!(desc::<Paint>("{'type': 'rgb'}"), "Parameter 'parts' is missing");
    assert_eq!(desc::<Paint>("{'type': 'deep-red', 'parts': []}"), "Parameter 'parts' is unexpected");
    assert_eq!(desc::<Paint>("{'parts': []}"), "Parameter 'type' is missing");
}

#[test]
fn an_alternate_is_told_by_its_json_type() {
    for text in ["\"x\"", "null", "[1, 2]", "{\"id\": \"a\"}", "7"] {
        assert_eq!(back::<NameOrNot>(text), text);
    }
    let members =
        Members::of(json::parse("{'a': true}").unwrap(), &Path::ROOT).unwrap().required::<NameOrNot>("a");
    assert_eq!(members.unwrap_err().desc(), "Invalid parameter type for 'a', expected: NameOrNot");
}

#[test]
fn events_know_their_name_and_data() {
    let event = Event::SomethingHappened {
        what: NameOrNot::N(()),
        color: Some(Color::DeepRed),
        value: Some(Value::Int(1)),
    };
    assert_eq!(event.name(), "SOMETHING_HAPPENED");
    let data = Dict::new().with("what", Value::Null).with("color", "deep-red").with("value", 1);
    assert_eq!(event.data(), Some(data));
    assert_eq!(Event::Done.data(), None);
    let painted = Event::Painted(Rgb { parts: vec![1], ..Rgb::default() });
    assert_eq!(painted.data(), Some(Dict::new().with("parts", vec![1u8])));
}
