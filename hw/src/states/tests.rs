//! States against those of the last release, and against the sources: none is forgotten, none changes under its version.

use std::fs;
use std::path::{Path, PathBuf};

use accel::AccelSpec;
use qapi::json;

use super::*;

/// The states that the last release had.
const RELEASED: &str = "docs/vmstate.json";
const ACCEPT: &str = "\nA stream of the last release could not be read any more, or not by it. Raise the version and say `since`, or put what is new \
     into a subsection. If no release had the state: `cargo run -p pliant -- -dump-vmstate docs/vmstate.json`, and look at the difference.";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn host() -> Result<(MainLoop, Host)> {
    let main = MainLoop::new().expect("descriptors");
    let memory = memory::Memory::new();
    let mut registry = qom::Registry::new();
    qom::Tree::register(&mut registry);
    memory::register(&mut registry, &memory);
    crate::register(&mut registry);
    let host = Host {
        tree: Arc::new(qom::Tree::new(registry)),
        memory,
        accel: accel::open(&[AccelSpec::option("qtest")]).expect("qtest needs nothing").accel,
        mainloop: main.handle(),
        chardevs: Arc::new(chardev::ChardevSet::new(main.handle())),
        net: net::NetSet::new(main.handle(), Arc::default()),
        events: Arc::new(|_, _| ()),
    };
    Ok((main, host))
}

fn all() -> Declared {
    declared(&host).unwrap()
}

/// A member of an object.
fn get<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.as_dict().and_then(|dict| dict.get(name)).unwrap_or(&Value::Null)
}

fn list(value: &Value) -> &[Value] {
    match value {
        Value::List(list) => list,
        _ => &[],
    }
}

fn number(value: &Value, name: &str) -> i64 {
    get(value, name).as_i64().unwrap_or_default()
}

fn named<'a>(all: &'a [Value], name: &Value) -> Option<&'a Value> {
    all.iter().find(|one| get(one, "name") == name)
}

/// What is wrong with `new`, which was `old`. `inside`: it is a field, so that no version of its own comes with it.
fn differences(at: &str, old: &Value, new: &Value, inside: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let (was, is) = (number(old, "version"), number(new, "version"));
    if is < was {
        wrong.push(format!("{at}: version {was} has become {is}"));
    }
    if number(new, "oldest") > was {
        wrong.push(format!("{at}: version {was} is not loaded any more"));
    }
    let fields = list(get(new, "fields"));
    let new_since = |field: &&Value| number(field, "since") > was && !inside;
    let (added, kept): (Vec<_>, Vec<_>) = fields.iter().partition(new_since);
    if !added.is_empty() && is == was {
        wrong.push(format!("{at}: fields are new in a version that is not"));
    }
    let before = list(get(old, "fields"));
    if before.len() != kept.len() {
        wrong.push(format!("{at}: version {was} had {} fields and now has {}", before.len(), kept.len()));
    }
    for (old, new) in before.iter().zip(kept) {
        let at = format!("{at}.{}", get(old, "name").as_str().unwrap_or("?"));
        wrong.extend(field_differences(&at, old, new));
    }
    let subsections = list(get(new, "subsections"));
    for old in list(get(old, "subsections")) {
        let name = get(old, "name").as_str().unwrap_or("?");
        match named(subsections, get(old, "name")) {
            Some(new) => wrong.extend(differences(name, old, new, false)),
            None => wrong.push(format!("{name}: the subsection is gone")),
        }
    }
    wrong
}

/// The same of a field, or of what a list consists of.
fn field_differences(at: &str, old: &Value, new: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let plain = ["name", "since", "type", "size", "array", "optional"];
    if let Some(part) = plain.iter().find(|part| get(old, part) != get(new, part)) {
        wrong.push(format!("{at}: its {part} is another one"));
    }
    match (get(old, "of"), get(new, "of")) {
        (Value::Null, Value::Null) => {}
        (old, new) => wrong.extend(field_differences(at, old, new)),
    }
    match (get(old, "struct"), get(new, "struct")) {
        (Value::Null, Value::Null) => {}
        (old, new) => wrong.extend(differences(at, old, new, true)),
    }
    wrong
}

fn parse(shape: &StateShape) -> Value {
    json::parse(&shape.to_json(0)).unwrap()
}

#[test]
fn states_are_those_of_the_last_release_or_later_versions() {
    let text = fs::read_to_string(root().join(RELEASED)).unwrap();
    let released = json::parse(&text).unwrap();
    let now = all();
    let mut wrong = Vec::new();
    for (name, old) in released.as_dict().unwrap().iter().filter(|(name, _)| *name != "vmschkmachine") {
        match now.states.iter().find(|state| state.name == name) {
            Some(new) => wrong.extend(differences(name, old, &parse(new), false)),
            None => wrong.push(format!("{name}: the state is gone")),
        }
    }
    assert!(wrong.is_empty(), "{}{ACCEPT}", wrong.join("\n"));
}

#[test]
fn a_name_means_one_state() {
    let all = all();
    let names: Vec<_> = all.states.iter().map(|state| state.name).collect();
    let mut once = names.clone();
    once.dedup();
    assert_eq!(names, once, "two states share a name");
    assert!(names.len() > 20, "{names:?}");
    let text = to_json("none", &all.states);
    let parsed = json::parse(&text).unwrap();
    assert_eq!(parsed.as_dict().unwrap().iter().count(), names.len() + 1);
    assert_eq!(get(get(&parsed, "vmschkmachine"), "Name"), &Value::from("none"));
}

#[test]
fn every_device_that_can_be_made_was_asked() {
    let all = all();
    // These need a process at the other end; and a machine has one balloon, under whichever name.
    let missing = ["vhost-user-blk", "vhost-user-blk-pci", "virtio-balloon-pci-non-transitional"];
    assert_eq!(all.missing, missing);
}

/// Names of states in a source file, tests left out.
fn declared_in(path: &Path, names: &mut Vec<(String, String)>) {
    let text = fs::read_to_string(path).unwrap();
    for part in text.split("vmstate! {").skip(1) {
        // `pub struct Name: "name", version`, behind comments.
        let head =
            part.lines().map(str::trim).find(|line| line.contains("struct ") && !line.starts_with("//"));
        let name = head.filter(|line| line.contains(", version ")).and_then(|line| line.split('"').nth(1));
        names.extend(name.map(|name| (name.to_owned(), path.display().to_string())));
    }
}

fn sources(folder: &Path, names: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["tests", "testing"].contains(&name.as_str()) {
                sources(&path, names);
            }
        } else if name.ends_with(".rs") && !["tests.rs", "testing.rs"].contains(&name.as_str()) {
            declared_in(&path, names);
        }
    }
}

#[test]
fn every_state_in_the_sources_is_there() {
    let mut names = Vec::new();
    for room in ["accel", "hw", "memory", "migration", "src"] {
        let folder = root().join(room).join(if room == "src" { "" } else { "src" });
        sources(&folder, &mut names);
    }
    assert!(names.len() > 30, "the sources are not where they were: {names:?}");
    let text = to_json("none", &all().states);
    let forgotten: Vec<_> =
        names.iter().filter(|(name, _)| !text.contains(&format!("\"name\": \"{name}\""))).collect();
    assert!(forgotten.is_empty(), "nobody tells of these: {forgotten:#?}");
}

fn shape(text: &str) -> Value {
    json::parse(text).unwrap()
}

#[test]
fn changes_are_told_apart() {
    let field = |name: &str, since: u32, kind: &str| {
        format!("{{\"name\": \"{name}\", \"since\": {since}, \"type\": \"{kind}\", \"size\": 4}}")
    };
    let state = |version: u32, oldest: u32, fields: &[String], subsections: &str| {
        shape(&format!(
            "{{\"name\": \"s\", \"version\": {version}, \"oldest\": {oldest}, \"fields\": [{}], \"subsections\": [{subsections}]}}",
            fields.join(", ")
        ))
    };
    let a = field("a", 0, "uint32");
    let old = state(1, 1, std::slice::from_ref(&a), "");
    let sub = "{\"name\": \"s/t\", \"version\": 1, \"oldest\": 1, \"fields\": [], \"subsections\": []}";
    let check = |new: Value| differences("s", &old, &new, false);
    assert_eq!(check(old.clone()), [] as [&str; 0]);
    assert_eq!(check(state(1, 1, std::slice::from_ref(&a), sub)), [] as [&str; 0], "a subsection is new");
    assert_eq!(
        check(state(2, 1, &[field("b", 2, "bool"), a.clone()], "")),
        [] as [&str; 0],
        "a field with a version"
    );
    assert_eq!(check(state(2, 2, std::slice::from_ref(&a), "")), ["s: version 1 is not loaded any more"]);
    assert_eq!(
        check(state(1, 1, &[a.clone(), field("b", 0, "bool")], "")),
        ["s: version 1 had 1 fields and now has 2"]
    );
    assert_eq!(
        check(state(1, 1, &[a.clone(), field("b", 2, "bool")], "")),
        ["s: fields are new in a version that is not"]
    );
    assert_eq!(check(state(1, 1, &[field("a", 0, "int32")], "")), ["s.a: its type is another one"]);
    assert_eq!(check(state(1, 1, &[], "")), ["s: version 1 had 1 fields and now has 0"]);
    let with = state(1, 1, std::slice::from_ref(&a), sub);
    assert_eq!(differences("s", &with, &old, false), ["s/t: the subsection is gone"]);
    // Within a field there is no version that would tell.
    let later = state(2, 1, &[a, field("b", 2, "bool")], "");
    assert_eq!(differences("s", &old, &later, true), ["s: version 1 had 1 fields and now has 2"]);
}
