//! What `query-qmp-schema` answers: that it hangs together, and that what is shared with QEMU 10.0.2 is the same there, or has a line in
//! `docs/compatibility.md` that says what is less and why.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::introspect;

/// A description of a schema: entities by name.
struct Entities(HashMap<String, Value>);

impl Entities {
    fn new(text: &str) -> Self {
        let list: Vec<Value> = serde_json::from_str(text).unwrap();
        let count = list.len();
        let map: HashMap<_, _> = list.into_iter().map(|e| (text_of(&e, "name").to_owned(), e)).collect();
        assert_eq!(map.len(), count, "names are unique");
        Self(map)
    }

    fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or_else(|| panic!("{name} is not described"))
    }
}

fn text_of<'v>(value: &'v Value, member: &str) -> &'v str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

/// Elements of a list that may be missing.
fn list_of<'v>(value: &'v Value, member: &str) -> &'v [Value] {
    value.get(member).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Names that QEMU has and we have not, by command or event and place in it.
type Less = BTreeMap<(String, String), BTreeSet<String>>;

/// Goes through a type of ours and of QEMU's side by side. What we have and QEMU has otherwise, or not, is a failure; what only QEMU has is
/// noted.
struct Comparison<'a> {
    ours: &'a Entities,
    qemu: &'a Entities,
    /// The command or event.
    of: &'a str,
    /// Types that are being compared, so that recursion ends.
    within: Vec<(String, String)>,
    less: &'a mut Less,
}

impl<'a> Comparison<'a> {
    fn types(&mut self, at: &str, ours: &str, theirs: &str) {
        let pair = (ours.to_owned(), theirs.to_owned());
        if self.within.contains(&pair) {
            return;
        }
        self.within.push(pair);
        let (a, b): (&'a Value, &'a Value) = (self.ours.get(ours), self.qemu.get(theirs));
        let place = format!("{} {at}", self.of);
        for same in ["meta-type", "features", "tag"] {
            assert_eq!(a[same], b[same], "{same} of {place}");
        }
        match text_of(a, "meta-type") {
            "builtin" => assert_eq!(ours, theirs, "{place}"),
            "array" => {
                self.types(&format!("{at}[]"), text_of(a, "element-type"), text_of(b, "element-type"));
            }
            "alternate" => {
                let (a, b) = (list_of(a, "members"), list_of(b, "members"));
                assert_eq!(a.len(), b.len(), "{place}");
                for (a, b) in a.iter().zip(b) {
                    self.types(at, text_of(a, "type"), text_of(b, "type"));
                }
            }
            "enum" => drop(self.pairs(at, "name", list_of(a, "members"), list_of(b, "members"))),
            "object" => {
                for (a, b) in self.pairs(at, "name", list_of(a, "members"), list_of(b, "members")) {
                    let at = format!("{at}.{}", text_of(a, "name"));
                    self.types(&at, text_of(a, "type"), text_of(b, "type"));
                }
                for (a, b) in self.pairs(at, "case", list_of(a, "variants"), list_of(b, "variants")) {
                    let at = format!("{at}({})", text_of(a, "case"));
                    self.types(&at, text_of(a, "type"), text_of(b, "type"));
                }
            }
            other => panic!("{place} is no type but {other}"),
        }
        self.within.pop();
    }

    /// Our members, values or branches with QEMU's of the same name.
    fn pairs(
        &mut self,
        at: &str,
        key: &str,
        ours: &'a [Value],
        theirs: &'a [Value],
    ) -> Vec<(&'a Value, &'a Value)> {
        let pair = |a: &'a Value| {
            let place = format!("{} {at}: {}", self.of, text_of(a, key));
            let b = theirs.iter().find(|b| b[key] == a[key]).unwrap_or_else(|| panic!("QEMU has no {place}"));
            assert_eq!(a["features"], b["features"], "{place}");
            assert_eq!(a.get("default"), b.get("default"), "whether it may be absent: {place}");
            (a, b)
        };
        let pairs: Vec<_> = ours.iter().map(pair).collect();
        let only = theirs.iter().filter(|b| !ours.iter().any(|a| a[key] == b[key]));
        // A branch that is missing is missing in the tag's enumeration, too.
        let only: BTreeSet<String> =
            only.filter(|_| key == "name").map(|b| text_of(b, key).to_owned()).collect();
        if !only.is_empty() {
            self.less.insert((self.of.to_owned(), at.to_owned()), only);
        }
        pairs
    }
}

/// Whether a command or event is in the project's own namespace.
fn is_ours(name: &str) -> bool {
    name.starts_with("x-pliant-") || name.starts_with("X_PLIANT_")
}

/// Everything that a command or event has less than QEMU's.
fn less() -> Less {
    let ours = Entities::new(introspect::TEXT);
    let qemu = Entities::new(include_str!("../../../tests/data/qemu-10.0.2-schema.json"));
    let mut less = Less::new();
    for (name, a) in &ours.0 {
        let meta = text_of(a, "meta-type");
        if !["command", "event"].contains(&meta) || is_ours(name) {
            continue;
        }
        let b = qemu.0.get(name).unwrap_or_else(|| panic!("QEMU has no {name}"));
        for same in ["meta-type", "features", "allow-oob"] {
            assert_eq!(a[same], b[same], "{same} of {name}");
        }
        let mut comparison =
            Comparison { ours: &ours, qemu: &qemu, of: name, within: Vec::new(), less: &mut less };
        comparison.types("arguments", text_of(a, "arg-type"), text_of(b, "arg-type"));
        if meta == "command" {
            comparison.types("returns", text_of(a, "ret-type"), text_of(b, "ret-type"));
        }
    }
    less
}

/// The table of `docs/compatibility.md` that says what is less.
fn documented() -> Less {
    let page = include_str!("../../../../docs/compatibility.md");
    let heading = "\n## Commands that take or tell less than QEMU's\n";
    let section = page.split(heading).nth(1).expect("the heading is there");
    let section = section.split("\n## ").next().unwrap_or(section);
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut rows = Less::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let [commands, places, missing, why] = cells.as_slice() else { panic!("not four cells: {line}") };
        assert!(!why.trim().is_empty(), "no reason: {line}");
        // Several commands may have the same type in the same place.
        for (command, place) in
            names(commands).iter().flat_map(|c| names(places).into_iter().map(move |p| (c.clone(), p)))
        {
            let before = rows.insert((command, place), names(missing).into_iter().collect());
            assert!(before.is_none(), "twice: {line}");
        }
    }
    rows
}

#[test]
fn what_is_shared_with_qemu_is_the_same_or_is_documented_to_be_less() {
    let row = |((command, place), missing): (&(String, String), &BTreeSet<String>)| {
        let missing: Vec<String> = missing.iter().map(|m| format!("`{m}`")).collect();
        format!("| `{command}` | `{place}` | {} | why |", missing.join(" "))
    };
    let (is, said) = (less(), documented());
    let new: Vec<String> = is.iter().filter(|(k, v)| said.get(*k) != Some(v)).map(row).collect();
    let gone: Vec<String> = said.iter().filter(|(k, v)| is.get(*k) != Some(v)).map(row).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "docs/compatibility.md, \"Commands that take or tell less than QEMU's\", should have\n{}\nand should not have\n{}",
        new.join("\n"),
        gone.join("\n")
    );
}

#[test]
fn every_command_described_can_be_dispatched_and_every_other_is_unknown() {
    let ours = Entities::new(introspect::TEXT);
    let described = |name: &str| ours.0.get(name).is_some_and(|e| e["meta-type"] == "command");
    let commands = ours.0.values().filter(|e| e["meta-type"] == "command").count();
    for command in crate::commands() {
        assert!(described(command.name), "{} is not described", command.name);
        let oob = ours.get(command.name).get("allow-oob").is_some();
        assert_eq!((command.allow_oob, crate::lookup(command.name).unwrap().name), (oob, command.name));
    }
    assert_eq!(commands, crate::commands().len());
    assert!(crate::lookup("query-foo").is_none());
}

#[test]
fn every_type_resolves_is_used_and_goes_by_a_number() {
    let ours = Entities::new(introspect::TEXT);
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for (name, entity) in &ours.0 {
        let meta = text_of(entity, "meta-type");
        let numbered = name.parse::<u32>().is_ok_and(|n| n.to_string() == *name);
        match meta {
            "command" | "event" | "builtin" => assert!(!numbered, "{name}"),
            "array" => assert_eq!(*name, format!("[{}]", text_of(entity, "element-type"))),
            "enum" | "object" | "alternate" => assert!(numbered, "{name} is told by its name"),
            other => panic!("{name} is a {other}"),
        }
        let own = ["arg-type", "ret-type", "element-type"].into_iter().filter_map(|k| entity.get(k));
        let parts = ["members", "variants"].into_iter().flat_map(|list| list_of(entity, list));
        let types = parts.filter_map(|part| part.get("type"));
        for ty in own.chain(types) {
            let ty = ty.as_str().unwrap();
            let meta = text_of(ours.get(ty), "meta-type");
            assert!(!["command", "event"].contains(&meta), "{name} refers to {ty}, a {meta}");
            used.insert(ty);
        }
        if let Some(tag) = entity.get("tag") {
            let member = list_of(entity, "members").iter().find(|m| m["name"] == *tag).unwrap();
            let values: BTreeSet<_> = list_of(ours.get(text_of(member, "type")), "members")
                .iter()
                .map(|v| text_of(v, "name"))
                .collect();
            let cases: BTreeSet<_> = list_of(entity, "variants").iter().map(|v| text_of(v, "case")).collect();
            assert_eq!(cases, values, "{name} has a branch for each value of its tag");
        }
    }
    for (name, entity) in &ours.0 {
        let is_type = !["command", "event"].contains(&text_of(entity, "meta-type"));
        assert!(!is_type || used.contains(name.as_str()), "nothing uses {name}");
    }
}
