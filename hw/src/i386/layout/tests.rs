//! Claims about where memory lies, from the oracle's tables.

use super::*;

fn layout(kind: &str, ram: u64, max: u64, slots: u64, bits: u32, amd: bool) -> Result<Layout> {
    let kind = MachineType::find(Some(kind)).unwrap();
    let limits = Constraints { max_ram_below_4g: 0, phys_bits: bits, amd };
    Layout::new(kind, &MemorySizes { ram, max, slots }, &limits)
}

fn devices(kind: &str, ram: u64, max: u64, slots: u64) -> (u64, u64) {
    layout(kind, ram, max, slots, 46, false).unwrap().device_memory.unwrap()
}

#[test]
fn device_memory_is_where_the_oracle_has_it() {
    assert_eq!(devices("pc", GIB, 4 * GIB, 0), (0x1_0000_0000, 3 * GIB));
    assert_eq!(devices("pc", 4 * GIB, 20 * GIB, 0), (0x1_4000_0000, 16 * GIB));
    assert_eq!(devices("pc", 4 * GIB, 20 * GIB, 2), (0x1_4000_0000, 18 * GIB));
    assert_eq!(devices("q35", 4 * GIB, 20 * GIB, 0), (0x1_8000_0000, 16 * GIB));
    assert_eq!(devices("pc", 4300 << 20, 8 * GIB, 0), (0x1_8000_0000, 3892 << 20));
    assert_eq!(devices("q35", 2 * GIB, 8 * GIB, 0), (0x1_0000_0000, 6 * GIB));
}

#[test]
fn max_ram_below_4g_lowers_the_split() {
    let kind = MachineType::find(Some("pc")).unwrap();
    let limits = Constraints { max_ram_below_4g: 2 * GIB, phys_bits: 40, amd: true };
    let sizes = MemorySizes { ram: 4 * GIB, max: 20 * GIB, slots: 0 };
    let layout = Layout::new(kind, &sizes, &limits).unwrap();
    assert_eq!(layout.device_memory.unwrap().0, 0x1_8000_0000);
}

#[test]
fn the_address_space_limit_is_checked_with_the_pci_window() {
    let text = |r: Result<Layout>| r.unwrap_err().desc().to_owned();
    assert_eq!(
        text(layout("pc", 4 * GIB, 1100 * GIB, 0, 40, true)),
        "Address space limit 0xffffffffff < 0x212bfffffff phys-bits too low (40)"
    );
    assert_eq!(
        text(layout("pc", 4 * GIB, 1041 * GIB, 0, 40, true)),
        "Address space limit 0xffffffffff < 0x203ffffffff phys-bits too low (40)"
    );
    assert_eq!(
        text(layout("q35", GIB, 1025 * GIB, 0, 40, true)),
        "Address space limit 0xffffffffff < 0x207ffffffff phys-bits too low (40)"
    );
    assert!(layout("pc", 4 * GIB, 1000 * GIB, 0, 40, true).is_ok());
    let moved = layout("pc", 4 * GIB, 1041 * GIB, 0, 46, true).unwrap();
    assert_eq!(moved.device_memory.unwrap().0, 0x100_4000_0000);
    let intel = layout("pc", 4 * GIB, 1041 * GIB, 0, 46, false).unwrap();
    assert_eq!(intel.device_memory.unwrap().0, 0x1_4000_0000);
}

#[test]
fn absurd_sizes_are_refused() {
    let text = |r: Result<Layout>| r.unwrap_err().desc().to_owned();
    assert_eq!(text(layout("pc", GIB, 8 * GIB, 257, 46, false)), "unsupported amount of memory slots: 257");
    assert_eq!(
        text(layout("pc", GIB, 2_000_000_001, 0, 46, false)),
        "maximum memory size must by aligned to multiple of 4096 bytes"
    );
    assert!(layout("pc", GIB, !4095, 0, 52, false).is_err());
    assert!(layout("pc", !8191, !8191, 0, 52, false).is_err());
}
