//! Claims about the command line as a whole.

use super::*;

fn parse(words: &[&str]) -> Result<CommandLine> {
    CommandLine::parse(words.iter().map(|w| (*w).to_owned()))
}

fn message(words: &[&str]) -> String {
    parse(words).err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn what_is_unknown_is_refused_by_name() {
    assert_eq!(message(&["-foo"]), "-foo: invalid option");
    assert_eq!(message(&["--foo=bar"]), "--foo=bar: invalid option");
    assert_eq!(message(&["-m"]), "-m: requires an argument");
    assert_eq!(message(&["-"]), "-: invalid option");
    assert_eq!(message(&["-m", "foo", "-help", "-foo"]), "-foo: invalid option");
    assert_eq!(message(&["disk.img"]), "disk.img: disk images are not supported, and this is no option");
}

#[test]
fn what_qemu_has_besides_is_refused_with_the_reason() {
    let disks = "there are no disks but those that vhost-user back ends serve";
    assert_eq!(message(&["-blockdev", "x"]), format!("-blockdev is not supported: {disks}"));
    assert_eq!(message(&["--usb"]), "--usb is not supported: there is no USB");
    assert!(parse(&["-vga", "none", "--net", "none", "-parallel", "none", "-nic", "none"]).is_ok());
    assert_eq!(message(&["-vga", "none,x"]), "-vga is not supported: there is no display");
    assert_eq!(message(&["-parallel"]), "-parallel is not supported: there is no parallel port");
    assert_eq!(message(&["-usb", "none"]), "-usb is not supported: there is no USB");
    assert!(table::OPTIONS.iter().all(|option| absent(&option.name[1..]).is_none()));
}

#[test]
fn every_option_of_the_table_is_handled() {
    for option in table::OPTIONS {
        let name = option.name;
        let words: &[&str] = if option.arg == Arg::None { &[name] } else { &[name, "x=1"] };
        assert!(!message(words).contains("invalid option"), "{name}");
        assert!(usage("pliant").contains(name));
    }
}

#[test]
fn machine_options_accumulate_and_later_values_win() {
    let line = parse(&["-M", "q35", "-machine", "acpi=off", "-machine", "type=pc"]).unwrap();
    assert_eq!(line.machine, [("type".into(), "pc".into()), ("acpi".into(), "off".into())]);
}

#[test]
fn two_dashes_are_as_good_as_one() {
    assert!(parse(&["--nodefaults"]).unwrap().no_defaults);
}

#[test]
fn short_flags_are_taken_with_a_warning() {
    let line = parse(&["-msg", "timestamp"]).unwrap();
    assert!(line.timestamp);
    assert_eq!(
        line.warnings,
        [
            "-msg timestamp: warning: short-form boolean option 'timestamp' deprecated\nPlease use timestamp=on instead"
        ]
    );
    assert_eq!(message(&["-msg", "foo=on"]), "-msg foo=on: Invalid parameter 'foo'");
}

#[test]
fn the_first_help_ends_the_reading() {
    let info = |words: &[&str]| parse(words).unwrap().info;
    assert_eq!(info(&["-version", "-help", "-msg", "foo=on"]), Some(Info::Version));
    let Some(Info::Keys(keys)) = info(&["-name", "help", "-name", "x,help"]) else { panic!("no help") };
    assert!(keys.starts_with("name options:\n  debug-threads=<bool (on/off)> - "), "{keys}");
    assert!(info(&["-global", "help"]).is_some() && info(&["-overcommit", "?"]).is_some());
    let Some(Info::Keys(keys)) = info(&["-boot", "?"]) else { panic!("no help") };
    assert!(keys.starts_with("boot-opts options:\n  menu=<bool (on/off)>\n"), "{keys}");
    assert_eq!(info(&["-m", "help", "-mon", "help"]), None, "the first word is a value there");
}

#[test]
fn the_topology_may_be_given_as_a_property_of_the_machine() {
    let line = parse(&["-smp", "2", "-machine", "pc,smp.cpus=4,smp.maxcpus=8,acpi=off"]).unwrap();
    assert_eq!(line.smp, [("cpus".into(), "4".into()), ("maxcpus".into(), "8".into())]);
    assert_eq!(line.machine.len(), 2);
}

#[test]
fn a_daemon_has_no_terminal_to_share() {
    assert_eq!(message(&["-nographic", "-daemonize"]), "-nographic cannot be used with -daemonize");
    assert!(parse(&["-nographic", "-daemonize", "-nodefaults"]).is_ok());
}
