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
    (Arc::clone(&chip), Msix::new(vectors, chip))
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
