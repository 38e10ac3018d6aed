//! The schema language, its checks, the introspection, and agreement with QEMU 10.0.2.

use std::collections::{BTreeMap, HashMap};

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

/// A description of a schema: entities by name.
struct Entities(HashMap<String, serde_json::Value>);

impl Entities {
    fn new(text: &str) -> Self {
        let list: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
        let count = list.len();
        let map: HashMap<_, _> =
            list.into_iter().map(|e| (e["name"].as_str().unwrap().to_owned(), e)).collect();
        assert_eq!(map.len(), count, "names are unique");
        Self(map)
    }

    /// What the type `name` looks like with all numbers resolved. `within` are the types being written, so that
    /// recursion ends.
    fn shape(&self, name: &str, within: &mut Vec<String>) -> String {
        let entity = self.0.get(name).unwrap_or_else(|| panic!("{name} is not described"));
        if let Some(depth) = within.iter().rev().position(|n| n == name) {
            return format!("<{depth} up>");
        }
        within.push(name.to_owned());
        let shape = match entity["meta-type"].as_str().unwrap() {
            "builtin" => name.to_owned(),
            "array" => format!("[{}]", self.shape(entity["element-type"].as_str().unwrap(), within)),
            "enum" => format!("enum{}{}", entity["members"], entity["features"]),
            "object" => {
                let variants = self.variants(name, within);
                let members = self.members(name, within);
                format!("{members:?}{}{variants:?}{}", entity["tag"], entity["features"])
            }
            "alternate" => {
                let types = entity["members"].as_array().unwrap();
                let types: Vec<_> =
                    types.iter().map(|t| self.shape(t["type"].as_str().unwrap(), within)).collect();
                format!("alternate{types:?}")
            }
            other => panic!("{name} is no type but {other}"),
        };
        within.pop();
        shape
    }

    fn members(&self, name: &str, within: &mut Vec<String>) -> BTreeMap<String, String> {
        let members = self.0[name]["members"].as_array().unwrap();
        members
            .iter()
            .map(|m| {
                let optional = if m.get("default").is_some() { "*" } else { "" };
                let ty = self.shape(m["type"].as_str().unwrap(), within);
                (m["name"].as_str().unwrap().to_owned(), format!("{optional}{ty}{}", m["features"]))
            })
            .collect()
    }

    fn variants(&self, name: &str, within: &mut Vec<String>) -> BTreeMap<String, String> {
        let variants = self.0[name].get("variants").and_then(|v| v.as_array());
        variants
            .into_iter()
            .flatten()
            .map(|v| {
                (v["case"].as_str().unwrap().to_owned(), self.shape(v["type"].as_str().unwrap(), within))
            })
            .collect()
    }

    fn type_of(&self, name: &str, which: &str) -> String {
        self.0[name][which].as_str().unwrap().to_owned()
    }
}

/// Commands whose argument is a union with fewer branches than QEMU's: the classes that users can make.
const FEWER_BRANCHES: &[&str] = &["object-add"];

/// Whether a command or event is in the project's own namespace.
fn is_ours(name: &str) -> bool {
    name.starts_with("x-pliant-") || name.starts_with("X_PLIANT_")
}

#[test]
fn commands_and_events_are_those_of_qemu() {
    let ours = Entities::new(introspect::TEXT);
    let qemu = Entities::new(include_str!("../../tests/data/qemu-10.0.2-schema.json"));
    for (name, entity) in &ours.0 {
        let meta = entity["meta-type"].as_str().unwrap();
        if !["command", "event"].contains(&meta) || is_ours(name) {
            continue;
        }
        let theirs = qemu.0.get(name).unwrap_or_else(|| panic!("QEMU has no {name}"));
        assert_eq!(entity["features"], theirs["features"], "{name}");
        assert_eq!(entity["allow-oob"], theirs["allow-oob"], "{name}");
        if meta == "command" {
            let returns = |e: &Entities| e.shape(&e.type_of(name, "ret-type"), &mut Vec::new());
            assert_eq!(returns(&ours), returns(&qemu), "answer of {name}");
        }
        let args = |e: &Entities| e.type_of(name, "arg-type");
        if FEWER_BRANCHES.contains(&name.as_str()) {
            let all = qemu.variants(&args(&qemu), &mut Vec::new());
            for (case, shape) in ours.variants(&args(&ours), &mut Vec::new()) {
                assert_eq!(Some(&shape), all.get(&case), "{name}, {case}");
            }
        } else {
            let shape = |e: &Entities| e.shape(&args(e), &mut Vec::new());
            assert_eq!(shape(&ours), shape(&qemu), "arguments of {name}");
        }
    }
}

#[test]
fn every_command_described_can_be_dispatched_and_every_type_resolves() {
    let ours = Entities::new(introspect::TEXT);
    let mut commands = 0;
    for (name, entity) in &ours.0 {
        for which in ["arg-type", "ret-type"] {
            if let Some(ty) = entity.get(which) {
                ours.shape(ty.as_str().unwrap(), &mut Vec::new());
            }
        }
        if entity["meta-type"] == "command" {
            commands += 1;
            assert_eq!(crate::lookup(name).unwrap().name, name);
        }
    }
    assert_eq!(commands, crate::commands().len());
    assert!(crate::lookup("query-foo").is_none());
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
