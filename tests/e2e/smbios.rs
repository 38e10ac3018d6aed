//! `-smbios`: what a guest reads of it, which UUID the machine has, and how mistakes are answered. The texts are those of QEMU 10.0.2.

use serde_json::json;
use tests::{Need, Vm, have};

const ONE: &str = "11111111-2222-3333-4444-555555555555";
const TWO: &str = "aaaaaaaa-2222-3333-4444-555555555555";

#[test]
fn a_guest_reads_what_libvirts_sysinfo_says() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let line = format!(
        "-machine q35 -m 64M -uuid {TWO} -smbios type=0,vendor=LENOVO,version=6FET82WW,date=07/29/2009,release=3.2 \
         -smbios type=1,manufacturer=Fedora,product=Virt-Manager,serial=32dfcb37-5af1,uuid={TWO},family=Red -smbios \
         type=2,manufacturer=LENOVO,product=20BE0061MC,serial=W1KS427111E -smbios \
         type=3,manufacturer=Dell,,Inc.,asset=none -smbios type=11,value=myappname:some,value=otherappname:more"
    );
    let mut vm = Vm::new().line(&line).accel("qtest").qtest().qmp().start();
    let (_, tables) = vm.qtest().fw_cfg_file("etc/smbios/smbios-tables").unwrap();
    let has = |text: &[u8]| tables.windows(text.len()).any(|window| window == text);
    assert!(has(b"LENOVO\x006FET82WW\x0007/29/2009\0\0"));
    assert!(has(b"Fedora\0Virt-Manager\0pc-q35-10.0\x0032dfcb37-5af1\0Red\0\0"));
    assert!(has(b"LENOVO\x0020BE0061MC\0pc-q35-10.0\0W1KS427111E\0\0"));
    assert!(has(b"Dell,Inc.\0pc-q35-10.0\0none\0\0"));
    assert!(has(b"\x0b\x05\x00\x0e\x02myappname:some\0otherappname:more\0\0"));
    // The first table is that of the firmware, with its release.
    assert_eq!((tables[0], &tables[20..22]), (0, &[3, 2][..]));
    assert_eq!(vm.qmp().ok("query-uuid", json!({}))["UUID"], TWO);
}

#[test]
fn of_two_uuids_the_last_one_is_it() {
    if !have(&[Need::Pliant]) {
        return;
    }
    for (line, uuid) in [
        (format!("-uuid {ONE} -smbios type=1,uuid={TWO}"), TWO),
        (format!("-smbios type=1,uuid={TWO} -smbios type=2 -uuid {ONE}"), ONE),
        (format!("-smbios type=1,uuid={TWO}"), TWO),
        (format!("-smbios type=1,uuid={ONE} -smbios type=1,uuid={TWO} -smbios type=3"), TWO),
    ] {
        let mut vm = Vm::new().line("-machine q35 -m 64M").line(&line).accel("qtest").qmp().start();
        assert_eq!(vm.qmp().ok("query-uuid", json!({}))["UUID"], uuid, "{line}");
    }
}

#[test]
fn mistakes_are_answered_as_by_qemu() {
    if !have(&[Need::Pliant]) {
        return;
    }
    for (text, error) in [
        ("foo=bar", "Must specify type= or file="),
        ("type=99", "Don't know how to build fields for SMBIOS type 99"),
        ("type=1,foo=bar", "Invalid parameter 'foo'"),
        ("type=1,uuid=xx", "Invalid UUID"),
        // Ours: QEMU would read it.
        ("file=/x", "tables from files are not supported"),
    ] {
        let exited = Vm::new().bare().args(["-machine", "pc", "-accel", "qtest", "-smbios", text]).run();
        assert_eq!(exited.code, Some(1));
        let said = exited.stderr.replace("qemu-system-x86_64: ", "");
        assert_eq!(said, format!("-smbios {text}: {error}\n"));
    }
    let mut vm = Vm::new().line("-machine none").qmp().start();
    let listed = vm.qmp().ok("query-command-line-options", json!({ "option": "smbios" }));
    assert_eq!(listed, json!([{ "parameters": [], "option": "smbios" }]));
}
