//! The option texts of the oracle's `startup-errors.txt`, by their number there.

use super::*;
use crate::cli::Raw;
use qom::options::keyval;

fn m(text: &str) -> Result<memory::Memory, String> {
    memory::parse(Some(&Raw { option: "-m", text: text.into() })).map_err(|e| e.to_string())
}

#[test]
fn memory_sizes_are_taken_and_refused_as_in_qemu() {
    assert_eq!(m("1.5G").unwrap().ram, 3 << 29);
    assert_eq!(m("100").unwrap().ram, 100 << 20);
    assert_eq!(m("0").unwrap().ram, 128 << 20);
    assert_eq!(m("1b").unwrap().ram, 8192);
    assert_eq!(m("size=512M").unwrap().ram, 512 << 20);
    let grown = m("4G,slots=2,maxmem=20G").unwrap();
    assert_eq!((grown.maxmem, grown.slots), (20 << 30, 2));
    for (text, message) in [
        ("foo", "-m foo: Parameter 'size' expects a non-negative number below 2^64"),
        ("help", "-m help: Parameter 'size' expects a non-negative number below 2^64"),
        ("-S", "-m -S: Parameter 'size' expects a non-negative number below 2^64"),
        ("-1", "-m -1: Value '-1' is out of range for parameter 'size'"),
        (
            "4G,maxmem=2G",
            "invalid value of maxmem: maximum memory size (0x80000000) must be at least the initial memory size (0x100000000)",
        ),
        (
            "4G,maxmem=4G,slots=2",
            "invalid value of maxmem: memory slots were specified but maximum memory size (0x100000000) is equal to the initial memory size (0x100000000)",
        ),
        ("4G,slots=2", "slots specified but no max-size"),
        ("4G,slots=257,maxmem=8G", "unsupported amount of memory slots: 257"),
        ("4G,maxmem=8Q", "-m 4G,maxmem=8Q: Parameter 'maxmem' expects a non-negative number below 2^64"),
        ("1G,maxmem=2000000001", "maximum memory size must by aligned to multiple of 4096 bytes"),
        ("4G,foo=1", "-m 4G,foo=1: Invalid parameter 'foo'"),
    ] {
        assert_eq!(m(text), Err(message.into()), "-m {text}");
    }
}

fn smp(text: &str) -> Result<smp::Smp, String> {
    smp::parse(&keyval(text, Some("cpus")).unwrap().pairs, false).map_err(|e| e.to_string())
}

#[test]
fn topologies_are_completed_and_checked() {
    let of = |t: &str| smp(t).map(|s| (s.cpus, s.maxcpus, s.sockets, s.cores, s.threads)).unwrap();
    assert_eq!(of(""), (1, 1, 1, 1, 1));
    assert_eq!(of("sockets=2,cores=2"), (4, 4, 2, 2, 1));
    assert_eq!(of("4"), (4, 4, 1, 4, 1));
    assert_eq!(of("2,maxcpus=8,sockets=2"), (2, 8, 2, 4, 1));
    assert_eq!(smp("foo"), Err("Parameter 'smp.cpus' expects integer".into()));
    assert_eq!(
        smp("0"),
        Err("Invalid CPU topology: CPU topology parameters must be greater than zero".into())
    );
    assert_eq!(
        smp("4,sockets=2,cores=1,threads=1"),
        Err("Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (2) * dies (1) * modules (1) * cores (1) * threads (1) != maxcpus (4)".into())
    );
    assert!(smp("4294967295,sockets=4294967295,cores=4294967295").is_err());
}

fn numa_of(text: &str) -> Result<numa::Numa, String> {
    numa::parse(&Raw { option: "-numa", text: text.into() }).map_err(|e| e.to_string())
}

#[test]
fn numa_options_are_read_by_type() {
    assert_eq!(
        numa_of("node,nodeid=1,cpus=0-1,cpus=4,memdev=ram0"),
        Ok(numa::Numa::Node { nodeid: Some(1), cpus: vec![0, 1, 4], mem: None, memdev: Some("ram0".into()) })
    );
    assert_eq!(numa_of("dist,src=0,dst=1,val=20"), Ok(numa::Numa::Distance { src: 0, dst: 1, val: 20 }));
    assert_eq!(numa_of("foo"), Err("Parameter 'type' does not accept value 'foo'".into()));
    assert_eq!(numa_of("node,foo=1"), Err("Invalid parameter 'foo'".into()));
    assert_eq!(numa_of("node,cpus=a-b"), Err("Parameter 'cpus' expects a uint64 value or range".into()));
}

#[test]
fn uuids_have_one_form() {
    let uuid = |text: &str| {
        identity::uuid(Some(&Raw { option: "-uuid", text: text.into() })).map_err(|e| e.to_string())
    };
    assert_eq!(uuid("123"), Err("-uuid 123: failed to parse UUID string: wrong format".into()));
    assert_eq!(uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap()[15], 0xff);
    assert!(uuid("00112233-4455-6677-8899-aabbccddee\u{e9}").is_err());
}
