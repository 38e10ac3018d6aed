//! Heads of packets.

use super::*;

fn head() -> Head {
    Head {
        sync: false,
        compression: 0,
        number: (1 << 40) + 7,
        size: 2 * PAGE as u32,
        block: "pc.ram".into(),
        normal: vec![0x1000, 0x2000],
        zero: vec![0x8000],
    }
}

fn read(mut bytes: &[u8]) -> Result<Head> {
    Head::read(|buf| io::Read::read_exact(&mut bytes, buf))
}

#[test]
fn a_head_is_read_as_it_was_written() {
    assert_eq!(read(&head().to_bytes()).unwrap(), head());
    let sync = Head { sync: true, ..Head::default() };
    assert_eq!(read(&sync.to_bytes()).unwrap(), sync);
}

#[test]
fn heads_that_cannot_be_are_refused_before_anything_is_read() {
    let change = |at: usize, value: u32| {
        let mut bytes = head().to_bytes();
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        read(&bytes).unwrap_err().lines.join("; ")
    };
    assert_eq!(change(0, 1), "multifd: received packet magic 1 expected magic 11223344");
    assert_eq!(change(4, 2), "multifd: received packet version 2 expected version 1");
    assert_eq!(change(8, 16), "multifd: flags received 0x10 are not expected");
    assert!(change(16, u32::MAX).contains("expected maximum 256"));
    assert!(change(32, u32::MAX).contains("expected maximum 256"));
    assert_eq!(change(20, 1), "multifd: 1 bytes for 2 pages");
    // Compressed they may have any length but none, up to what a sender has room for.
    let packed = |size: u32| {
        let head = Head { compression: flag::ZSTD, size, ..head() };
        read(&head.to_bytes()).map(|read| assert_eq!(read, head)).map_err(|error| error.lines.join("; "))
    };
    assert_eq!([packed(1), packed(2 << 20)], [Ok(()), Ok(())]);
    assert_eq!(packed(0).unwrap_err(), "multifd: 0 bytes for 2 pages");
    assert_eq!(packed((2 << 20) + 1).unwrap_err(), "multifd: 2097153 bytes for 2 pages");
}
