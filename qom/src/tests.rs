//! Claims about classes, inputs, paths and user objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use qapi::{Result, Value};

use crate::*;

struct Disk {
    core: ObjectCore,
    size: AtomicU64,
    busy: AtomicBool,
}
object!(Disk, core);
impl UserCreatable for Disk {
    fn complete(&self) -> Result<()> {
        if self.size.load(Relaxed) == 0 { Err(qapi::Error::generic("no size")) } else { Ok(()) }
    }
    fn can_be_deleted(&self) -> bool {
        !self.busy.load(Relaxed)
    }
}

struct Case {
    core: ObjectCore,
    disk: ObjectRef,
}
object!(Case, core);

fn tree() -> Tree {
    let mut r = Registry::new();
    Tree::register(&mut r);
    r.register(TypeInfo::new("device").property(Property::new("id", "string").get_any(|_| Ok("".into()))));
    r.register(
        TypeInfo::new("disk")
            .parent("device")
            .interface("user-creatable")
            .instance(|c| {
                Arc::new(Disk {
                    core: ObjectCore::new(c),
                    size: AtomicU64::new(0),
                    busy: AtomicBool::new(false),
                })
            })
            .cast::<Disk, dyn UserCreatable>(|d| d)
            .property(Property::new("size", "size").get(|d: &Disk| Ok(d.size.load(Relaxed).into())).set(
                |d: &Disk, v, n| {
                    d.size.store(v.to_size(n)?, Relaxed);
                    Ok(())
                },
            ))
            .property(Property::new("busy", "bool").get(|d: &Disk| Ok(d.busy.load(Relaxed).into()))),
    );
    let disk_class = Arc::clone(r.lookup("disk").unwrap());
    let size = disk_class.property("size").unwrap();
    let alias = Property::alias(size, |c: &Case| Some(Arc::clone(&c.disk)));
    let for_case = Arc::clone(&disk_class);
    r.register(
        TypeInfo::new("case")
            .instance(move |c| Arc::new(Case { core: ObjectCore::new(c), disk: for_case.create().unwrap() }))
            .property(alias),
    );
    Tree::new(r)
}

fn create(t: &Tree, id: &str, size: &str) -> Result<ObjectRef> {
    t.create_user_object("disk", id, [("size", Input::Keyval(size))])
}

#[test]
fn dialects_accept_and_refuse_sizes_in_their_own_words() {
    let n = "requested-size";
    let text = |s: &'static str| Input::Text(s).to_size(n).map_err(|e| e.to_string());
    assert_eq!(text("500M"), Ok(500 << 20));
    assert_eq!(
        text("64MiB"),
        Err("Parameter 'requested-size' expects a non-negative number below 2^64".into())
    );
    assert_eq!(text("16E"), Err("Value '16E' is out of range for parameter 'requested-size'".into()));
    assert_eq!(
        Input::Json(&"64M".into()).to_size(n).unwrap_err().desc(),
        "Parameter 'requested-size' expects uint64"
    );
    assert_eq!(Input::Json(&Value::Int(-2)).to_size(n), Ok(u64::MAX - 1));
    assert_eq!(
        Input::Option("12Q").to_size(n).unwrap_err().desc(),
        "Parameter 'requested-size' expects size"
    );
    assert_eq!(
        Input::Keyval("1.5").to_size(n).unwrap_err().desc(),
        "Parameter 'requested-size' expects a size value"
    );
    assert_eq!(
        Input::Option("-1").to_uint("node", 32).unwrap_err().desc(),
        "Parameter 'node' expects uint32_t"
    );
    assert_eq!(
        Input::Option("abc").to_uint("node", 32).unwrap_err().desc(),
        "Parameter 'node' expects integer"
    );
    assert_eq!(Input::Text("abc").to_uint("node", 32).unwrap_err().desc(), "Parameter 'node' expects uint64");
}

#[test]
fn number_lists_take_ranges() {
    assert_eq!(Input::Keyval("0-2,7").to_u16_list("host-nodes"), Ok(vec![0, 1, 2, 7]));
    assert!(Input::Keyval("2-1").to_u16_list("cpus").is_err());
    assert_eq!(Input::Keyval("0-65535").to_u16_list("cpus").map(|l| l.len()), Ok(65536));
    assert!(Input::Keyval("0-65535,0-65535,0-65535").to_u16_list("cpus").is_err(), "few bytes, many numbers");
    assert_eq!(
        Input::Keyval("a-b").to_u16_list("cpus").unwrap_err().desc(),
        "Parameter 'cpus' expects a uint64 value or range"
    );
}

#[test]
fn sizes_print_as_qemu_prints_them() {
    for (bytes, text) in [
        (0, "0 B"),
        (64, "64 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (4096, "4 KiB"),
        (2 << 20, "2 MiB"),
        (2 << 30, "2 GiB"),
        (32 << 30, "32 GiB"),
        (1 << 40, "1 TiB"),
    ] {
        assert_eq!(size::human(bytes), text);
    }
}

#[test]
fn an_alias_speaks_for_the_object_behind_it() {
    let t = tree();
    let case = t.registry().create("case").unwrap();
    case.set("size", Input::Option("4k")).unwrap();
    assert_eq!(case.get("size").unwrap(), Value::Int(4096));
    assert_eq!(case.get("nope").unwrap_err().desc(), "Property 'case.nope' not found");
}

#[test]
fn a_refused_object_leaves_no_trace() {
    let t = tree();
    assert_eq!(create(&t, "d0", "0").err().map(|e| e.to_string()), Some("no size".into()));
    assert!(t.absolute("/objects/d0").is_none());
    create(&t, "d0", "1M").unwrap();
    assert_eq!(
        create(&t, "d0", "1M").err().map(|e| e.to_string()),
        Some("attempt to add duplicate property 'd0' to object (type 'container')".into())
    );
    assert_eq!(
        create(&t, "0x", "1M").err().map(|e| e.to_string()),
        Some("Parameter 'id' expects an identifier".into())
    );
    let other = t.create_user_object("case", "x", []).err().map(|e| e.to_string());
    assert_eq!(other, Some("Parameter 'qom-type' does not accept value 'case'".into()));
}

#[test]
fn a_used_object_cannot_be_deleted() {
    let t = tree();
    let d0 = create(&t, "d0", "1M").unwrap();
    let disk = d0.downcast::<Disk>().unwrap();
    disk.busy.store(true, Relaxed);
    assert_eq!(t.delete_user_object("d0").unwrap_err().desc(), "object 'd0' is in use, can not be deleted");
    disk.busy.store(false, Relaxed);
    t.delete_user_object("d0").unwrap();
    assert_eq!(t.delete_user_object("d0").unwrap_err().desc(), "object 'd0' not found");
}

#[test]
fn partial_paths_must_fit_one_object() {
    let t = tree();
    let peripheral = t.container("/machine/peripheral");
    let a = t.registry().create("disk").unwrap();
    peripheral.add_child("vm0", Arc::clone(&a)).unwrap();
    assert_eq!(a.path(), "/machine/peripheral/vm0");
    assert!(matches!(t.resolve("vm0"), Resolve::Found(_)));
    assert!(matches!(t.resolve("peripheral/vm0"), Resolve::Found(_)));
    assert!(matches!(t.resolve("/vm0"), Resolve::Missing));
    assert!(matches!(t.resolve(""), Resolve::Missing));
    t.container("/objects/vm0");
    assert!(matches!(t.resolve("vm0"), Resolve::Ambiguous));
    assert!(matches!(t.resolve("peripheral/vm0"), Resolve::Found(_)));
    assert_eq!(t.root().path(), "/");
}

#[test]
fn numbered_names_take_the_first_free_number() {
    let t = tree();
    let anon = t.container("/machine/peripheral-anon");
    let new = || t.registry().create("disk").unwrap();
    assert_eq!(anon.add_child("device[*]", new()).unwrap(), "device[0]");
    assert_eq!(anon.add_child("device[*]", new()).unwrap(), "device[1]");
    anon.remove_child("device[0]");
    assert_eq!(anon.add_child("device[*]", new()).unwrap(), "device[0]");
}
