//! Backends against the oracle: 2-properties/qmp-introspection.txt, 2-errors (ids in the claims).

mod prealloc;

use qapi::Value;
use qom::{Input, Tree};

use super::*;

struct Vm {
    memory: Arc<Memory>,
    tree: Tree,
}

fn vm() -> Vm {
    let memory = Memory::new();
    let mut registry = Registry::new();
    Tree::register(&mut registry);
    register(&mut registry, &memory);
    Vm { memory, tree: Tree::new(registry) }
}

impl Vm {
    /// `-object TYPE,id=mem0,OPTIONS`.
    fn add(&self, kind: &str, options: &str) -> Result<ObjectRef> {
        let pairs: Vec<(&str, Input<'_>)> = options
            .split(',')
            .filter_map(|o| o.split_once('='))
            .map(|(key, value)| (key, Input::Keyval(value)))
            .collect();
        self.tree.create_user_object(&format!("memory-backend-{kind}"), "mem0", pairs)
    }

    fn error(&self, kind: &str, options: &str) -> String {
        match self.add(kind, options) {
            Ok(_) => panic!("{kind},{options} is accepted"),
            Err(e) => e.desc().to_owned(),
        }
    }
}

#[test]
fn properties_and_defaults_are_those_of_the_oracle() {
    let vm = vm();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mb.file").to_string_lossy().into_owned();
    let common = [
        ("dump", Value::from(true)),
        ("host-nodes", Value::List(vec![])),
        ("merge", true.into()),
        ("policy", "default".into()),
        ("prealloc", false.into()),
        ("prealloc-context", "".into()),
        ("prealloc-threads", 1.into()),
        ("reserve", true.into()),
        ("size", (1u64 << 20).into()),
        ("x-use-canonical-path-for-ramblock-id", false.into()),
    ];
    let file = [
        ("align", Value::from(0)),
        ("discard-data", false.into()),
        ("mem-path", path.clone().into()),
        ("offset", 0.into()),
        ("pmem", false.into()),
        ("readonly", false.into()),
        ("rom", "off".into()),
    ];
    let memfd = [("hugetlb", Value::from(false)), ("hugetlbsize", 0.into()), ("seal", true.into())];
    type Own<'a> = &'a [(&'a str, Value)];
    let kinds: [(&str, String, Own<'_>, bool); 4] = [
        ("ram", String::new(), &[], false),
        ("file", format!(",mem-path={path}"), &file, false),
        ("memfd", String::new(), &memfd, true),
        ("shm", String::new(), &[], true),
    ];
    for (kind, options, own, share) in kinds {
        let object = vm.add(kind, &format!("size=1M{options}")).unwrap();
        let mut expected: Vec<(String, Value)> =
            common.iter().chain(own).map(|(n, v)| ((*n).into(), v.clone())).collect();
        expected.push(("share".into(), share.into()));
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        let class = object.core().class();
        let mut actual: Vec<(String, Value)> =
            class.properties().iter().map(|p| (p.name().to_owned(), object.get(p.name()).unwrap())).collect();
        actual.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(actual, expected, "{kind}");
        assert_eq!(object.core().children()[0].0, "mem0[0]");
        let backend = MemoryBackend::from_object(&object).unwrap();
        assert_eq!(backend.block().unwrap().is_shared(), share, "{kind}");
        assert_eq!(backend.info().id, "mem0");
        vm.tree.delete_user_object("mem0").unwrap();
        drop((object, backend));
        assert!(vm.memory.ram_blocks().is_empty(), "{kind}: deleting gives the memory back");
    }
}

/// Whether the host is one on which the oracle's answer to `options` holds: one NUMA node, no huge pages.
fn holds_here(options: &str) -> bool {
    let pages = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    let node = |n: u32| std::path::Path::new(&format!("/sys/devices/system/node/node{n}")).exists();
    (!options.contains("hugetlb=on") || pages.trim() == "0")
        && (!options.contains("policy=") || node(0) && !node(5))
}

#[test]
fn errors_of_the_command_line_are_those_of_the_oracle() {
    let vm = vm();
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().to_string_lossy().into_owned();
    std::fs::File::create(dir.path().join("rom.img")).unwrap().set_len(64 << 20).unwrap();
    let enomem = "cannot set up guest memory 'mem0': Cannot allocate memory";
    let cases: &[(&str, &str, &str)] = &[
        ("ram", "size=0", "property 'size' of memory-backend-ram doesn't take value '0'"),
        ("ram", "size=foo", "Parameter 'size' expects a size value"),
        ("ram", "size=-1", "Parameter 'size' expects a size value"),
        ("ram", "size=128T,reserve=off", enomem),
        ("ram", "size=16M,policy=bind", "host-nodes must be set for policy bind"),
        (
            "ram",
            "size=16M,host-nodes=0",
            "host-nodes must be empty for policy default, or you should explicitly specify a policy other than default",
        ),
        ("ram", "size=16M,host-nodes=200,policy=bind", "Invalid host-nodes value: 200"),
        ("ram", "size=16M,policy=bogus", "Parameter 'policy' does not accept value 'bogus'"),
        ("ram", "size=16M,prealloc=on,reserve=off", "'prealloc=on' and 'reserve=off' are incompatible"),
        ("ram", "size=16M,reserve=off,prealloc=on", "'prealloc=on' and 'reserve=off' are incompatible"),
        (
            "ram",
            "size=16M,prealloc-threads=0",
            "property 'prealloc-threads' of memory-backend-ram doesn't take value '0'",
        ),
        ("ram", "size=16M,prealloc-context=nope", "Device 'nope' not found"),
        ("ram", "size=16M,share=2", "Parameter 'share' expects 'on' or 'off'"),
        (
            "file",
            "size=16M,mem-path=/nonexistent/dir/x",
            "can't open backing store /nonexistent/dir/x for guest RAM: No such file or directory",
        ),
        (
            "file",
            "size=128M,mem-path=$RUN/rom.img,share=on",
            "mem0 backing store size 0x4000000 is too small for 'size' option 0x8000000 plus 'offset' option 0x0",
        ),
        (
            "file",
            "size=16M,mem-path=$RUN/none.img,readonly=on",
            "can't open backing store $RUN/none.img for guest RAM: No such file or directory",
        ),
        (
            "file",
            "size=16M,mem-path=$RUN/rom.img,rom=on,readonly=off",
            "property 'rom' = 'on' is not supported with 'readonly' = 'off'",
        ),
        (
            "file",
            "size=16M,mem-path=$RUN/rom.img,rom=off,readonly=on,share=on",
            "property 'rom' = 'off' is incompatible with 'readonly' = 'on' and 'share' = 'on'",
        ),
        ("file", "size=16M,mem-path=$RUN/rom.img,align=3M", "alignment 0x300000 must be a power of two"),
        (
            "file",
            "size=16M,mem-path=$RUN/rom.img,offset=100",
            "offset 0x64 must be multiples of page size 0x1000",
        ),
        (
            "file",
            "size=16M,mem-path=$RUN/rom.img,offset=1G,share=on",
            "mem0 backing store size 0x4000000 is too small for 'size' option 0x1000000 plus 'offset' option 0x40000000",
        ),
        ("file", "size=16M,mem-path=/dev/null", "unable to map backing store for guest RAM: No such device"),
        (
            "ram",
            "size=16M,host-nodes=5,policy=bind",
            "cannot bind memory to host NUMA nodes: Invalid argument",
        ),
        ("memfd", "size=16M,hugetlb=on", "unable to map backing store for guest RAM: Cannot allocate memory"),
        ("memfd", "size=16M,hugetlb=on,hugetlbsize=3M", "Hugepage size must be a power of 2"),
        (
            "memfd",
            "size=16M,hugetlb=on,hugetlbsize=0",
            "Property 'memory-backend-memfd.hugetlbsize' doesn't take value '0'",
        ),
        ("memfd", "size=3M,hugetlb=on,reserve=off", "failed to resize memfd to 3145728: Invalid argument"),
        (
            "memfd",
            "size=5000",
            "mem0 backing store size 0x1388 is too small for 'size' option 0x2000 plus 'offset' option 0x0",
        ),
        ("shm", "size=16M,share=off", "can't create shm backend with `share=off`"),
    ];
    for (kind, options, expected) in cases.iter().filter(|c| holds_here(c.1)) {
        let error = vm.error(kind, &options.replace("$RUN", &run));
        assert_eq!(error, expected.replace("$RUN", &run), "{kind},{options}");
        assert!(vm.memory.ram_blocks().is_empty(), "{kind},{options}: nothing is left");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["rom.img"]);
}

#[test]
fn these_are_accepted_as_by_the_oracle() {
    let vm = vm();
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().to_string_lossy().into_owned();
    std::fs::File::create(dir.path().join("rom.img")).unwrap().set_len(64 << 20).unwrap();
    for (kind, options) in [
        ("ram", "size=1.5G"),
        ("ram", "size=16M,share=on"),
        ("ram", "size=1T,reserve=off"),
        ("ram", "size=16M,prealloc=on,prealloc-threads=3"),
        ("ram", "size=16M,merge=off,dump=off"),
        ("file", "size=16M,mem-path=$RUN"),
        ("file", "size=16M,mem-path=$RUN/rom.img,align=1G"),
        ("file", "size=16M,mem-path=$RUN/rom.img,readonly=on"),
        ("file", "size=16M,mem-path=$RUN/rom.img,readonly=on,rom=off"),
        ("file", "size=16M,mem-path=$RUN/rom.img,pmem=on,offset=16M,discard-data=on,share=on"),
        ("ram", "size=16M,host-nodes=0,policy=bind"),
        ("ram", "size=16M,host-nodes=0-1,policy=interleave"),
        ("ram", "size=16M,host-nodes=0,policy=preferred"),
        ("memfd", "size=16M,hugetlbsize=2M"),
        ("memfd", "size=16M,hugetlb=on,reserve=off"),
        ("memfd", "size=16M,share=off"),
        ("memfd", "size=16M,seal=off"),
        ("shm", "size=16M"),
    ]
    .into_iter()
    .filter(|c| holds_here(c.1))
    {
        let object =
            vm.add(kind, &options.replace("$RUN", &run)).unwrap_or_else(|e| panic!("{kind},{options}: {e}"));
        let backend = MemoryBackend::from_object(&object).unwrap();
        let block = backend.block().unwrap();
        // There are no huge pages here; touching one would be fatal.
        if block.is_writable() && !options.contains("hugetlb=on") {
            block.write(0, &[1]).unwrap();
        }
        assert_eq!(backend.is_rom(), options.ends_with("readonly=on"), "{options}");
        vm.tree.delete_user_object("mem0").unwrap();
    }
    assert!(!std::fs::read_dir(dir.path()).unwrap().any(|e| e.unwrap().file_name() != "rom.img"));
}

#[test]
fn what_made_the_memory_cannot_change_and_hints_can() {
    let vm = vm();
    let free0 = vm.add("ram", "size=16M").unwrap();
    let set = |name, value| free0.set(name, Input::Text(value)).map_err(|e| e.desc().to_owned());
    assert_eq!(set("size", "128M"), Err("cannot change property size of memory-backend-ram ".into()));
    assert_eq!(set("share", "on"), Err("cannot change property value".into()));
    assert_eq!(set("reserve", "off"), Err("cannot change property value".into()));
    for (name, value) in [("policy", "bind"), ("merge", "off"), ("dump", "off"), ("prealloc", "on")] {
        assert_eq!(set(name, value), Ok(()), "{name}");
    }
    assert_eq!(free0.get("prealloc").unwrap(), Value::Bool(true));
    let backend = MemoryBackend::from_object(&free0).unwrap();
    let resident = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{:x}-", backend.block().unwrap().host_address() as usize);
    let rss =
        resident.lines().skip_while(|l| !l.starts_with(&start)).find(|l| l.starts_with("Rss:")).unwrap();
    assert_eq!(rss.split_whitespace().nth(1), Some("16384"), "setting it later allocates");
}

#[test]
fn a_backend_in_use_cannot_be_deleted_or_used_twice() {
    let vm = vm();
    let object = vm.add("ram", "size=16M").unwrap();
    let backend = MemoryBackend::from_object(&object).unwrap();
    assert!(backend.try_map() && !backend.try_map());
    assert_eq!(
        vm.tree.delete_user_object("mem0").unwrap_err().desc(),
        "object 'mem0' is in use, can not be deleted"
    );
    backend.set_mapped(false);
    vm.tree.delete_user_object("mem0").unwrap();
}

#[test]
fn a_block_has_a_name_only_while_it_is_registered() {
    let vm = vm();
    let object = vm.add("ram", "size=16M,x-use-canonical-path-for-ramblock-id=on").unwrap();
    let block = MemoryBackend::from_object(&object).unwrap().block().unwrap();
    assert_eq!(block.name(), "");
    block.register_name(Some("0000:00:02.0"));
    assert_eq!(block.name(), "0000:00:02.0//objects/mem0");
    block.unregister_name();
    assert_eq!(block.name(), "");
}

#[test]
fn any_number_of_threads_may_be_asked_for() {
    let vm = vm();
    vm.add("ram", "size=64M,prealloc=on,prealloc-threads=4294967295").unwrap();
}
