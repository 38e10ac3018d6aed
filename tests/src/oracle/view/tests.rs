//! Claims about what of a text is compared.

use super::{flat_view, view};

#[test]
fn a_command_without_a_view_is_not_compared() {
    assert_eq!(view("info cpus", "CPU 0"), None);
    assert_eq!(view("qom-set vm0 requested-size 0", "Error\n"), Some("Error".into()));
}

#[test]
fn backends_are_a_set() {
    let (a, b) = ("memory backend: a\n  x\n", "memory backend: b\n  y\n");
    assert_eq!(view("info memdev", &format!("{a}{b}\n")), view("info memdev", &format!("{b}{a}\n")));
}

#[test]
fn devices_are_cut_out_of_the_board() {
    let board = "bus: main\n  dev: x, id \"\"\n    dev: virtio-mem-pci, id \"vm0\"\n      addr = 1\n  dev: y, id \"\"\n";
    assert_eq!(view("info qtree", board).unwrap(), "dev: virtio-mem-pci, id \"vm0\"\n  addr = 1\n");
}

#[test]
fn only_the_virtio_mem_functions_count() {
    let all = "  Bus  0, device   0, function 0:\n    Host bridge: PCI device 8086:1237\n\
               \x20 Bus  0, device   2, function 0:\n    Class 0255: PCI device 1af4:1058\n";
    assert_eq!(
        view("info pci", all).unwrap(),
        "  Bus  0, device   2, function 0:\n    Class 0255: PCI device 1af4:1058\n"
    );
}

#[test]
fn ram_counts_from_the_end_of_the_firmware_area_on() {
    let qemu = "  0000000000000000-00000000000bffff (prio 0, ram): ram0\n\
                \x20 0000000000100000-000000007fffffff (prio 0, ram): ram0 @0000000000100000\n\
                \x20 0000000080000000-00000000bfffffff (prio 0, ram): ram1\n";
    let whole = "  0000000000000000-000000007fffffff (prio 0, ram): ram0\n\
                 \x20 0000000080000000-00000000bfffffff (prio 0, ram): ram1\n";
    assert_eq!(view("info mtree -f", qemu), view("info mtree -f", whole));
    let owned = |text: &str| text.replace('\n', " owner:{obj path=/objects/ram0}\n");
    assert_eq!(view("info mtree -f -o", &owned(qemu)), view("info mtree -f -o", &owned(whole)));
    let shorter = whole.replace("7fffffff", "6fffffff");
    assert_ne!(view("info mtree -f", qemu), view("info mtree -f", &shorter));
}

#[test]
fn of_a_dispatch_tree_the_sections_of_memory_devices_count_but_not_their_numbers_nor_the_last_lookup() {
    let tree = |number, mru| {
        format!(
            "FlatView #0\n AS \"memory\", root: system\n  Dispatch\n    Physical sections\n\
             \x20     #{number} @0000000140000000..000000033fffffff mem0{mru}\n"
        )
    };
    assert_eq!(view("info mtree -f -d", &tree(3, " [watch]")), view("info mtree -f -d", &tree(17, " [MRU]")));
    let shorter = tree(3, "").replace("33fffffff", "32fffffff");
    assert_ne!(view("info mtree -f -d", &tree(3, "")), view("info mtree -f -d", &shorter));
}

#[test]
fn address_spaces_of_memory_devices_have_the_whole_dispatch_tree() {
    let tree = |ptr, mru| {
        format!(
            "FlatView #1\n AS \"device-memory\", root: device-memory\n  Dispatch\n    Physical sections\n\
             \x20     #0 @0000000000000000..ffffffffffffffff (noname) [unassigned]\n\
             \x20     #1 @0000000000000000..000000003fffffff mem0{mru}\n\
             \x20   Nodes (9 bits per level, 6 levels) ptr=[{ptr}] skip=0\n\n"
        )
    };
    assert_eq!(view("info mtree -f -d", &tree(1, "")), view("info mtree -f -d", &tree(1, " [MRU]")));
    assert_ne!(view("info mtree -f -d", &tree(1, "")), view("info mtree -f -d", &tree(2, "")));
}

#[test]
fn one_flat_view_is_cut_out() {
    let views = "FlatView #0\n AS \"I/O\", root: io\n\nFlatView #1\n AS \"memory\", root: system\n  x\n\n";
    assert_eq!(flat_view(views, "memory"), "FlatView #1\n AS \"memory\", root: system\n  x\n\n");
}
