//! The option texts of the oracle's `startup-errors.txt`, by their number there.

use super::*;
use crate::cli::Raw;

fn m(text: &str) -> Result<hw::core::MemoryConfig, String> {
    memory::parse(Some(&Raw { option: "-m", text: text.into() })).map_err(|e| e.to_string())
}

#[test]
fn memory_sizes_are_taken_and_refused_as_in_qemu() {
    assert_eq!(m("1.5G").unwrap().size, Some(3 << 29));
    assert_eq!(m("100").unwrap().size, Some(100 << 20));
    assert_eq!(m("1b").unwrap().size, Some(1));
    assert_eq!(m("size=512M").unwrap().size, Some(512 << 20));
    let grown = m("4G,slots=2,maxmem=20G").unwrap();
    assert_eq!((grown.maxmem, grown.slots), (Some(20 << 30), Some(2)));
    for (text, message) in [
        ("foo", "-m foo: Parameter 'size' expects a non-negative number below 2^64"),
        ("help", "-m help: Parameter 'size' expects a non-negative number below 2^64"),
        ("-S", "-m -S: Parameter 'size' expects a non-negative number below 2^64"),
        ("-1", "-m -1: Value '-1' is out of range for parameter 'size'"),
        ("4G,maxmem=8Q", "-m 4G,maxmem=8Q: Parameter 'maxmem' expects a non-negative number below 2^64"),
        ("4G,foo=1", "-m 4G,foo=1: Invalid parameter 'foo'"),
    ] {
        assert_eq!(m(text), Err(message.into()), "-m {text}");
    }
}

fn smp(text: &str) -> Result<hw::core::SmpConfig, String> {
    smp::parse(&qom::options::keyval(text, Some("cpus")).unwrap().pairs).map_err(|e| e.to_string())
}

#[test]
fn topologies_are_numbers_above_zero() {
    assert_eq!(smp("4,sockets=2,clusters=1").map(|s| (s.cpus, s.sockets)), Ok((Some(4), Some(2))));
    assert_eq!(smp("foo"), Err("Parameter 'smp.cpus' expects integer".into()));
    assert_eq!(
        smp("-1"),
        Err("Invalid CPU topology: CPU topology parameters must be greater than zero".into())
    );
    assert_eq!(smp("books=2"), Err("books > 1 not supported by this machine's CPU topology".into()));
    assert_eq!(smp("noodles=2"), Err("Parameter 'smp.noodles' is unexpected".into()));
}

fn numa_of(text: &str) -> Result<numa::Numa, String> {
    numa::parse(&Raw { option: "-numa", text: text.into() }).map_err(|e| e.to_string())
}

#[test]
fn numa_options_are_read_by_type() {
    assert_eq!(
        numa_of("node,nodeid=1,cpus=0-1,cpus=4,memdev=ram0"),
        Ok(numa::Numa::Node(hw::core::NumaNodeOptions {
            nodeid: Some(1),
            cpus: vec![0, 1, 4],
            mem: None,
            memdev: Some("ram0".into()),
            initiator: None,
        }))
    );
    assert_eq!(numa_of("dist,src=0,dst=1,val=20"), Ok(numa::Numa::Distance { src: 0, dst: 1, val: 20 }));
    assert_eq!(numa_of("foo"), Err("Parameter 'type' does not accept value 'foo'".into()));
    assert_eq!(numa_of("node,foo=1"), Err("Invalid parameter 'foo'".into()));
    assert_eq!(numa_of("node,cpus=a-b"), Err("Parameter 'cpus' expects a uint64 value or range".into()));
}

#[test]
fn uuids_have_one_form() {
    let uuid =
        |text: &str| identity::uuid(&Raw { option: "-uuid", text: text.into() }).map_err(|e| e.to_string());
    assert_eq!(uuid("123"), Err("-uuid 123: failed to parse UUID string: wrong format".into()));
    let good = "00112233-4455-6677-8899-AABBCCDDEEFF";
    assert_eq!(uuid(good), Ok(good.to_lowercase()));
    assert!(uuid("00112233-4455-6677-8899-aabbccddee\u{e9}").is_err());
}

fn actions_of(list: &[(&'static str, &str)]) -> Result<hw::core::Actions, String> {
    let words = list.iter().flat_map(|(option, text)| [*option, *text]).filter(|w| !w.is_empty());
    let line = crate::cli::CommandLine::parse(words.map(str::to_owned)).map_err(|e| e.to_string())?;
    actions::parse(&line.actions).map_err(|e| e.to_string())
}

#[test]
fn what_is_said_last_of_an_action_counts_whichever_option_says_it() {
    use qapi::types::{PanicAction, RebootAction, ShutdownAction, WatchdogAction};
    let reboot = |list| actions_of(list).map(|a| a.reboot);
    assert_eq!(reboot(&[("-action", "reboot=reset"), ("-no-reboot", "")]), Ok(RebootAction::Shutdown));
    assert_eq!(reboot(&[("-no-reboot", ""), ("-action", "reboot=reset")]), Ok(RebootAction::Reset));
    let all = actions_of(&[
        ("-no-shutdown", ""),
        ("-watchdog-action", "debug"),
        ("-action", "panic=none,watchdog=pause"),
        ("-watchdog-action", "inject-nmi"),
    ]);
    let all = all.unwrap();
    assert_eq!((all.reboot, all.shutdown), (RebootAction::Reset, ShutdownAction::Pause));
    assert_eq!((all.panic, all.watchdog), (PanicAction::None, WatchdogAction::InjectNmi));
    for (option, text, message) in [
        ("-action", "foo=bar", "-action foo=bar: Invalid parameter 'foo'"),
        ("-action", "reboot", "-action reboot: Parameter 'reboot' does not accept value 'on'"),
        ("-action", "panic=foo", "-action panic=foo: Parameter 'panic' does not accept value 'foo'"),
        (
            "-watchdog-action",
            "help",
            "-watchdog-action help: Parameter 'watchdog' does not accept value 'help'",
        ),
    ] {
        assert_eq!(actions_of(&[(option, text)]), Err(message.into()));
    }
}
