//! `-rtc`, the real-time clock as a guest reads and sets it, and what management hears of that. The texts are those of QEMU 10.0.2.

use serde_json::{Value, json};
use tests::{Need, Qtest, Vm, have};

const HOURS: u32 = 4;
const DAY: u32 = 7;
const MONTH: u32 = 8;
const YEAR: u32 = 9;
const REG_A: u32 = 0xa;
const REG_B: u32 = 0xb;

fn read(qtest: &mut Qtest, register: u32) -> u32 {
    qtest.out(0x70, 1, register);
    qtest.inp(0x71, 1)
}

fn write(qtest: &mut Qtest, register: u32, value: u32) {
    qtest.out(0x70, 1, register);
    qtest.out(0x71, 1, value);
}

#[test]
fn a_date_of_the_command_line_is_read_and_goes_by_the_guests_clock() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let line = "-machine q35 -rtc base=2021-11-05T06:07:08,clock=vm";
    let mut vm = Vm::new().line(line).accel("qtest").qtest().qmp().start();
    let date = |qtest: &mut Qtest| [YEAR, MONTH, DAY, HOURS, 2, 0].map(|register| read(qtest, register));
    assert_eq!(date(vm.qtest()), [0x21, 0x11, 0x05, 0x06, 0x07, 0x08]);
    vm.qtest().clock_step(Some(3_600_000_000_000));
    assert_eq!(date(vm.qtest()), [0x21, 0x11, 0x05, 0x07, 0x07, 0x08]);
    let time = vm.qmp().ok("qom-get", json!({ "path": "/machine", "property": "rtc-time" }));
    let wanted =
        json!({ "tm_year": 121, "tm_mon": 10, "tm_mday": 5, "tm_hour": 7, "tm_min": 7, "tm_sec": 8 });
    assert_eq!(time, wanted);
    assert_eq!(vm.qmp().ok("rtc-reset-reinjection", json!({})), json!({}));
}

#[test]
fn the_order_of_booting_is_in_its_memory_and_one_for_once_goes_with_a_reset() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let order = |vm: &mut Vm| [0x3d, 0x38].map(|register| read(vm.qtest(), register));
    for machine in ["pc", "q35"] {
        let line = format!("-machine {machine} -accel qtest");
        assert_eq!(order(&mut Vm::new().line(&line).qtest().start()), [0x12, 0x30], "disk, floppy, CD");
        let mut vm = Vm::new().line(&format!("{line} -boot order=nc,once=d")).qtest().qmp().start();
        assert_eq!(order(&mut vm), [0x03, 0]);
        vm.qmp().ok("system_reset", json!({}));
        vm.qmp().wait_event("RESET", |_| true);
        assert_eq!(order(&mut vm), [0x24, 0]);
    }
}

#[test]
fn a_guest_that_sets_its_clock_is_told_of() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let line = "-machine q35 -rtc base=2021-11-05T06:07:08";
    let mut vm = Vm::new().line(line).accel("qtest").qtest().qmp().start();
    let qtest = vm.qtest();
    // As Linux does it: stop, hold the divider, set, and let both go.
    let (control, rate) = (read(qtest, REG_B), read(qtest, REG_A));
    write(qtest, REG_B, control | 0x80);
    write(qtest, REG_A, rate | 0x70);
    write(qtest, HOURS, 0x09);
    write(qtest, REG_B, control);
    assert_eq!(read(qtest, HOURS), 0x09);
    write(qtest, REG_A, rate);
    let event = vm.qmp().wait_event("RTC_CHANGE", |_| true);
    let offset = event["data"]["offset"].as_i64().unwrap();
    // It may take the host some time to get here.
    assert!((3 * 3600 - 60..=3 * 3600).contains(&offset), "{event}");
    let path = event["data"]["qom-path"].as_str().unwrap().to_owned();
    let kind: Value = vm.qmp().ok("qom-get", json!({ "path": path, "property": "type" }));
    assert_eq!(kind, "mc146818rtc");
    assert_eq!(vm.qmp().ok("qom-get", json!({ "path": path, "property": "date" }))["tm_hour"], 9);
}

#[test]
fn mistakes_are_answered_as_by_qemu() {
    for (text, error) in [
        ("base=foo", "invalid datetime format\nvalid formats: '2006-06-17T16:01:21' or '2006-06-17'\n"),
        ("clock=foo", "invalid option value 'foo'\n"),
        ("driftfix=", "invalid option value ''\n"),
        ("foo=bar", "-rtc foo=bar: Invalid parameter 'foo'\n"),
        (
            "utc",
            "-rtc utc: warning: short-form boolean option 'utc' deprecated\nPlease use utc=on instead\n\
             -rtc utc: Invalid parameter 'utc'\n",
        ),
    ] {
        let exited = Vm::new().line("-machine q35").args(["-rtc", text]).run();
        let got = exited.stderr.replace("qemu-system-x86_64: ", "");
        assert_eq!((exited.code, &*got), (Some(1), error), "{text}");
    }
}

#[test]
fn missed_ticks_are_dealt_with_as_the_command_line_says() {
    if !have(&[Need::Pliant]) {
        return;
    }
    for (options, wanted) in [
        ("", "discard"),
        ("-rtc driftfix=slew", "slew"),
        ("-rtc driftfix=slew -rtc driftfix=none", "discard"),
        ("-global mc146818rtc.lost_tick_policy=slew", "slew"),
    ] {
        let mut vm = Vm::new().line("-machine pc").line(options).qmp().start();
        let list = vm.qmp().ok("qom-list", json!({ "path": "/machine/unattached" }));
        let path = list.as_array().unwrap().iter().find_map(|entry| {
            let bridge = entry["type"] == "child<PIIX3>";
            bridge.then(|| format!("/machine/unattached/{}/rtc", entry["name"].as_str().unwrap()))
        });
        let policy = vm.qmp().ok("qom-get", json!({ "path": path, "property": "lost_tick_policy" }));
        assert_eq!(policy, wanted, "{options}");
    }
    let exited = Vm::new().line("-machine pc -global mc146818rtc.lost_tick_policy=delay").run();
    assert!(exited.stderr.ends_with("Invalid lost tick policy.\n"), "{}", exited.stderr);
}
