//! The schema language, its checks and the introspection.

mod agreement;

use super::*;
use crate::{introspect, json, reference};

fn error(text: &str) -> String {
    load::load(&[("m", text)]).unwrap_err()
}

/// A schema file of one documented expression.
fn one(doc: &str, expression: &str) -> String {
    format!("##\n# @X:\n#\n# Text.\n#\n{doc}##\n{expression}\n")
}

#[test]
fn mistakes_are_told_with_file_and_line() {
    assert_eq!(error("\n'x'"), "m.json:2: expected an object");
    assert_eq!(error("{ 'struct': 'X', 'data': {} "), "m.json:1: expected ',' or '}'");
    assert_eq!(error("{ 'struct': 'X }"), "m.json:1: string without end");
    assert_eq!(error(&one("", "{ 'struct': 'X', 'data': {}, 'date': 1 }")), "m.json:7: expected a value");
    assert_eq!(error(&one("", "{ 'struct': 'X', 'data': {}, 'date': 'x' }")), "m.json:7: unknown key 'date'");
    assert_eq!(
        error("##\n# @Y:\n# Text.\n##\n{ 'event': 'X' }"),
        "m.json:5: documentation of 'Y' before 'X'"
    );
    assert_eq!(error("##\n# @Y:\n"), "m.json:3: documentation block without ## at its end");
}

#[test]
fn everything_is_documented_and_nothing_else() {
    let x = "{ 'struct': 'X', 'data': { 'a': 'int' } }";
    assert_eq!(error(&one("", x)), "X: 'a' is not documented");
    assert_eq!(error(&one("# @a: A.\n# @b: B.\n", x)), "X: documents 'b', which is not a member");
    let featured = "{ 'event': 'X', 'features': [ 'unstable' ] }";
    assert_eq!(error(&one("", featured)), "X: feature 'unstable' is not documented");
    assert_eq!(
        error(&one("# Features:\n#\n# @new: N.\n", "{ 'event': 'X' }")),
        "X: documents feature 'new', which is not there"
    );
    assert!(error("{ 'event': 'X' }").starts_with("m.json:1: X: documentation must start with"));
}

#[test]
fn references_resolve() {
    assert_eq!(error(&one("# @a: A.\n", "{ 'struct': 'X', 'data': { 'a': 'Y' } }")), "X: unknown type 'Y'");
    assert_eq!(
        error(&one("", "{ 'struct': 'X', 'base': 'str', 'data': { } }")),
        "X: 'str' is not an object type"
    );
    assert_eq!(
        error(&one("", "{ 'command': 'X', 'data': 'Y' }")),
        "m.json:7: a named type as 'data' needs 'boxed'"
    );
    assert_eq!(
        error(&one(
            "# @t: T.\n",
            "{ 'union': 'X', 'base': { 't': 'str' }, 'discriminator': 't', 'data': { } }"
        )),
        "X: 't' is not an enumeration"
    );
}

#[test]
fn the_reference_is_up_to_date() {
    let fresh = reference::markdown(&Schema::load().unwrap());
    let written = include_str!("../../../docs/qmp-reference.md");
    assert!(
        fresh == written,
        "docs/qmp-reference.md is stale: cargo run -p qapi --bin qmp-reference > docs/qmp-reference.md"
    );
}

#[test]
fn the_description_is_what_the_parser_reads_and_fits_its_own_type() {
    let schema = introspect::schema();
    let typed = <Vec<crate::types::SchemaInfo> as crate::FromValue>::from_value(
        schema.clone(),
        &crate::visit::Path::ROOT,
    );
    let typed = typed.unwrap();
    assert!(typed.len() > crate::commands().len());
    // `default` is null, which an optional member of any type keeps.
    assert_eq!(crate::ToValue::to_value(&typed), schema);
    assert_eq!(json::parse(&json::to_string(&schema)), Ok(schema));
}
