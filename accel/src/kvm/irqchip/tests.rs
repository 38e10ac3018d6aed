//! Claims about routes and their reuse.

use super::*;

fn message(data: u32) -> MsiMessage {
    MsiMessage { address: 0xfee0_1000, data }
}

#[test]
fn numbers_of_messages_are_reused_lowest_first() {
    let mut table = RouteTable { messages: Vec::new(), max: 27 };
    assert_eq!([1, 2, 3].map(|data| table.allocate(message(data))), [Some(24), Some(25), Some(26)]);
    assert_eq!(table.allocate(message(4)), None);
    table.free(24);
    table.free(25);
    assert_eq!(table.allocate(message(5)), Some(24));
    table.free(26);
    assert_eq!(table.messages, [Some(message(5))]);
}

#[test]
fn legacy_lines_reach_both_controllers_and_the_timer_input_2() {
    let table = RouteTable { messages: vec![None, Some(message(7))], max: 4096 };
    let entries = table.entries();
    // 15 of the PIC, 23 of the IOAPIC, one message.
    assert_eq!(entries.len(), 39);
    let last = entries[38];
    assert_eq!((last.gsi, last.type_), (25, KVM_IRQ_ROUTING_MSI));
    assert_eq!(entries.iter().filter(|entry| entry.gsi == 4).count(), 2);
    assert_eq!(entries.iter().filter(|entry| entry.gsi == 20).count(), 1);
    assert_eq!(entries.iter().filter(|entry| entry.gsi == 2).count(), 0);
}
