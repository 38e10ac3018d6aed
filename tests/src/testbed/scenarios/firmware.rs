//! What a kernel and the machine tell each other where there is no device: the generation id, the note for dumps.

use std::fs;

use serde_json::json;

use crate::core_file::CoreFile;
use crate::testbed::Linux;

pub(super) fn kernel_has_the_generation_id(guest: &mut Linux) {
    if guest.run("ls -d /sys/bus/*/drivers/vmgenid 2>/dev/null || true").is_empty() {
        return guest.skip("the kernel was built without the driver");
    }
    let shown = guest.vm().qmp().ok("query-vm-generation-id", json!({}));
    assert_eq!(shown["guid"], "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87");
    // A driver that found no number in the table's place would have refused the device.
    let bound = guest.run("ls -d /sys/bus/*/drivers/vmgenid/*:*");
    assert_eq!(bound.lines().count(), 1, "{bound}");
}

pub(super) fn kernel_knows_what_it_runs_on(guest: &mut Linux) {
    for (file, text) in [
        ("bios_vendor", "Firmly"),
        ("bios_version", "7.1"),
        ("sys_vendor", "Elastic"),
        ("product_name", "Stretch"),
        ("product_version", "3"),
        ("product_serial", "42"),
        ("product_sku", "S-M-L"),
        ("product_family", "Soft"),
        ("board_name", "Board"),
        ("chassis_vendor", "Cases"),
        ("chassis_asset_tag", "17"),
    ] {
        assert_eq!(guest.run(&format!("cat /sys/class/dmi/id/{file}")), text, "{file}");
    }
    // Processors and memory are told of beside what was given, and not what the board is without.
    let entries = guest.run("cat /sys/firmware/dmi/entries/*/type | sort -n | uniq | tr '\\n' ' '");
    assert_eq!(entries, "0 1 2 3 4 16 17 19 32 127 ");
}

pub(super) fn dumps_have_the_kernels_note(guest: &mut Linux) {
    guest.insert_later();
    let release = guest.run("uname -r");
    let path = guest.vm().scratch().join("core");
    let protocol = format!("file:{}", path.display());
    // The note is in a dump of any part of memory.
    let part = json!({ "paging": false, "protocol": protocol, "begin": 0, "length": 1 << 20 });
    guest.vm().qmp().ok("dump-guest-memory", part);
    let core = CoreFile::open(&path);
    fs::remove_file(&path).expect("it is ours");
    let note = core.notes.iter().find(|note| note.name == "VMCOREINFO").expect("the kernel's note");
    let text = String::from_utf8_lossy(&note.contents);
    assert!(text.lines().any(|line| line == format!("OSRELEASE={release}")), "{text}");
    assert!(text.contains("\nSYMBOL(init_uts_ns)="), "{text}");
}
