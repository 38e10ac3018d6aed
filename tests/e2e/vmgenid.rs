//! `vmgenid`: what clients and firmware are told of the number, and how mistakes are answered. The texts are those of QEMU 10.0.2.

use serde_json::json;
use tests::{Exited, Vm, VmBuilder};

const GUID: &str = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87";
/// The same as a guest reads it.
const BYTES: [u8; 16] =
    [0xaf, 0x6e, 0x4e, 0x32, 0xd1, 0xd1, 0xf6, 0x4b, 0xbf, 0x41, 0xb9, 0xbb, 0x6c, 0x91, 0xfb, 0x87];
const NOT_FOUND: &str = "VM Generation ID device not found";

fn machine(line: &str) -> VmBuilder {
    Vm::new().accel("qtest").line("-m 64M").line(line).qmp().hmp().qtest()
}

#[test]
fn clients_are_told_the_number_and_firmware_finds_it() {
    for kind in ["pc", "q35"] {
        let mut vm =
            machine(&format!("-machine {kind} -device vmgenid,id=a,guid={}", GUID.to_uppercase())).start();
        assert_eq!(vm.qmp().ok("query-vm-generation-id", json!({})), json!({ "guid": GUID }));
        assert_eq!(vm.hmp().run("info vm-generation-id"), format!("{GUID}\n"));
        let property = json!({ "path": "/machine/peripheral/a", "property": "guid" });
        assert_eq!(vm.qmp().ok("qom-get", property), GUID);
        let page = vm.qtest().fw_cfg_file("etc/vmgenid_guid").unwrap().1;
        assert_eq!((page.len(), &page[40..56]), (4096, &BYTES[..]));
        assert!(page[..40].iter().chain(&page[56..]).all(|byte| *byte == 0));
        // What firmware says of the place can be read again, until it is started anew.
        let (key, empty) = vm.qtest().fw_cfg_file("etc/vmgenid_addr").unwrap();
        assert_eq!(empty, [0; 8]);
        let place = 0x3f_f028u64.to_le_bytes();
        assert_eq!(vm.qtest().fw_cfg_write(key, &place), 0);
        assert_eq!(vm.qtest().fw_cfg_item(key, 8), place);
        vm.qmp().ok("system_reset", json!({}));
        vm.qmp().wait_event("RESET", |_| true);
        assert_eq!(vm.qtest().fw_cfg_item(key, 8), [0; 8]);
        assert_eq!(vm.qmp().ok("query-vm-generation-id", json!({})), json!({ "guid": GUID }));
    }
}

#[test]
fn firmware_is_told_of_it_by_the_script_of_the_tables() {
    let mut vm = machine(&format!("-machine q35 -device vmgenid,guid={GUID}")).start();
    let has = |file: &[u8], text: &[u8]| file.windows(text.len()).any(|part| part == text);
    let script = vm.qtest().fw_cfg_file("etc/table-loader").unwrap().1;
    let kinds: Vec<u8> = script.chunks(128).map(|command| command[0]).filter(|kind| *kind != 0).collect();
    assert_eq!((kinds.iter().filter(|kind| **kind == 4).count(), kinds[0]), (1, 1));
    assert!(has(&script, b"etc/vmgenid_guid\0") && has(&script, b"etc/vmgenid_addr\0"));
    let tables = vm.qtest().fw_cfg_file("etc/acpi/tables").unwrap().1;
    for text in [&b"QEMUVGID\0"[..], b"VM_Gen_Counter\0", b"ADDR", b"_E05", b"\x08VGIA\x0c\0\0\0\0"] {
        assert!(has(&tables, text), "{}", String::from_utf8_lossy(text));
    }
    let mut vm = machine("-machine q35").start();
    let tables = vm.qtest().fw_cfg_file("etc/acpi/tables").unwrap().1;
    assert!(!has(&tables, b"QEMUVGID") && !has(&tables, b"_E05"));
    assert_eq!(vm.qtest().fw_cfg_file("etc/vmgenid_guid"), None);
    assert_eq!(vm.qmp().err("query-vm-generation-id", json!({})).1, NOT_FOUND);
    assert_eq!(vm.hmp().run("info vm-generation-id"), format!("Error: {NOT_FOUND}\n"));
}

#[test]
fn machines_without_tables_have_a_number_that_only_clients_see() {
    for line in ["-machine microvm -device vmgenid", "-machine pc,acpi=off -device vmgenid,guid=auto"] {
        let mut vm = machine(line).start();
        let said = vm.qmp().ok("query-vm-generation-id", json!({}));
        let guid = said["guid"].as_str().unwrap();
        // A random one of version 4.
        assert_eq!((guid.len(), &guid[14..15]), (36, "4"), "{guid}");
        if !line.contains("microvm") {
            assert_eq!(vm.qtest().fw_cfg_file("etc/vmgenid_guid"), None);
        }
        let (_, error) = vm.qmp().err("device_add", json!({ "driver": "vmgenid" }));
        assert_eq!(error, "Device 'vmgenid' does not support hotplugging");
    }
}

#[test]
fn mistakes_are_answered_as_by_qemu() {
    let no_dma =
        "vmgenid: vmgenid requires DMA write support in fw_cfg, which this machine type does not provide";
    let cases = [
        ("-machine pc -device vmgenid -device vmgenid", "vmgenid: at most one vmgenid device is permitted"),
        (
            "-machine pc -device vmgenid,guid=x",
            "vmgenid,guid=x: Property 'vmgenid.guid' doesn't take value 'x'",
        ),
        ("-machine pc -device vmgenid,guid=", "vmgenid,guid=: Property 'vmgenid.guid' doesn't take value ''"),
        ("-machine pc -device vmgenid,bus=pci.0", "vmgenid,bus=pci.0: Device 'vmgenid' can't go on PCI bus"),
        ("-machine pc -device vmgenid,foo=1", "vmgenid,foo=1: Property 'vmgenid.foo' not found"),
        ("-machine none -device vmgenid", no_dma),
        ("-machine pc -global fw_cfg_io.dma_enabled=off -device vmgenid", no_dma),
    ];
    for (line, error) in cases {
        let Exited { code, stderr, .. } = Vm::new().line(line).run();
        assert_eq!((code, stderr), (Some(1), format!("qemu-system-x86_64: -device {error}\n")), "{line}");
    }
    let help = Vm::new().bare().args(["-device", "vmgenid,help"]).run().stdout;
    let guid =
        "  guid=<str>             - UUID (aka GUID) or \"auto\" for random value (default) (default: auto)\n";
    assert_eq!(help, format!("vmgenid options:\n{guid}"));
}
