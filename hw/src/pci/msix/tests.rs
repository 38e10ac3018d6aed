//! Claims about the MSI-X table, masks and pending bits.

use super::*;

#[derive(Default)]
struct Chip(Mutex<Vec<MsiMessage>>);

impl IrqChip for Chip {
    fn set_gsi(&self, _gsi: u32, _level: bool) {}
    fn send_msi(&self, message: MsiMessage) {
        self.0.lock().unwrap().push(message);
    }
    fn msi_route(self: Arc<Self>, _message: MsiMessage) -> qapi::Result<Box<dyn MsiRoute>> {
        Err(qapi::Error::generic("none left"))
    }
}

fn table(vectors: u16) -> (Arc<Chip>, Arc<Msix>) {
    let chip = Arc::new(Chip::default());
    (Arc::clone(&chip), Msix::new(vectors, chip, space()))
}

/// A megabyte of RAM.
fn space() -> Arc<AddressSpace> {
    let memory = memory::Memory::new();
    let block = memory.create_ram(memory::RamSpec::anonymous("ram", 1 << 20)).unwrap();
    let mut tx = memory.transaction();
    let ram = tx.ram(memory::RegionDesc::new("ram", 1 << 20), block);
    tx.address_space("function", ram)
}

fn program(msix: &Msix, vector: u64, data: u32, control: u32) {
    for (word, value) in [0xfee0_0000, 0, data, control].into_iter().enumerate() {
        msix.write_table(vector * 16 + 4 * word as u64, value);
    }
}

fn sent(chip: &Chip) -> Vec<u32> {
    chip.0.lock().unwrap().iter().map(|m| m.data).collect()
}

#[test]
fn layout_of_two_vectors_is_the_oracles() {
    let layout = MsixLayout::exclusive(2);
    assert_eq!(
        (layout.table_size, layout.pba_offset, layout.pba_size, layout.bar_size),
        (32, 0x800, 8, 4096)
    );
    assert_eq!(MsixLayout::exclusive(2048).bar_size, 65536);
}

#[test]
fn a_masked_vector_is_pending_until_unmasked() {
    let (chip, msix) = table(2);
    msix.set_control(true, false);
    program(&msix, 1, 0x41, 1);
    msix.notify(1);
    assert_eq!((sent(&chip), msix.read_pending(0)), (vec![], 2));
    msix.write_table(16 + 12, 0);
    assert_eq!((sent(&chip), msix.read_pending(0)), (vec![0x41], 0));
}

#[test]
fn the_function_mask_holds_everything_back() {
    let (chip, msix) = table(2);
    program(&msix, 0, 7, 0);
    msix.notify(0);
    msix.set_control(true, true);
    msix.notify(0);
    msix.notify(9);
    assert_eq!((sent(&chip), msix.read_pending(0)), (vec![], 1));
    msix.set_control(true, false);
    assert_eq!(sent(&chip), [7]);
}

#[test]
fn reset_masks_and_forgets() {
    let (chip, msix) = table(1);
    program(&msix, 0, 7, 1);
    msix.set_control(true, false);
    msix.notify(0);
    msix.reset();
    msix.set_control(true, false);
    assert_eq!(
        (sent(&chip), msix.read_pending(0), msix.read_table(12), msix.read_table(8)),
        (vec![], 0, 1, 0)
    );
}

#[test]
fn a_message_to_memory_is_a_write_and_one_to_nothing_is_lost() {
    let chip = Arc::new(Chip::default());
    let space = space();
    let msix = Msix::new(2, Arc::<Chip>::clone(&chip), Arc::clone(&space));
    msix.set_control(true, false);
    for (vector, address) in [(0, 0x2004), (1, 0x8000_0000)] {
        program(&msix, vector, 0xabc0, 0);
        msix.write_table(16 * vector, address);
        msix.notify(vector as u16);
    }
    assert_eq!((sent(&chip), space.read_uint(0x2000, 8).0), (vec![], 0xabc0_0000_0000));
}

#[test]
fn without_bus_mastering_no_message_leaves() {
    let chip = Arc::new(Chip::default());
    let memory = memory::Memory::new();
    let mut tx = memory.transaction();
    let nothing = tx.container(memory::RegionDesc::new("bus master container", memory::SIZE_ALL));
    let space = tx.address_space("function", nothing);
    drop(tx);
    let msix = Msix::new(1, Arc::<Chip>::clone(&chip), space);
    msix.set_control(true, false);
    program(&msix, 0, 7, 0);
    msix.notify(0);
    assert!(sent(&chip).is_empty());
}

#[test]
fn what_is_pending_waits_at_the_other_end_and_nothing_is_sent_by_arriving() {
    let (_, from) = table(3);
    from.set_control(true, false);
    program(&from, 1, 0x41, 1);
    program(&from, 2, 0x42, 0);
    from.notify(1);
    let (chip, to) = table(3);
    to.load_state(&from.saved_state(), true, false).unwrap();
    assert_eq!((sent(&chip), to.read_pending(0)), (vec![], 2));
    assert_eq!(to.saved_state(), from.saved_state());
    to.notify(2);
    to.write_table(16 + 12, 0);
    assert_eq!(sent(&chip), [0x42, 0x41]);
    let (_, other) = table(2);
    let error = other.load_state(&from.saved_state(), true, false).unwrap_err();
    assert_eq!(error.lines, ["MSI-X has 3 vectors, not 2"]);
}
