//! Layout of requests and responses.

use proptest::prelude::*;

use super::*;

#[test]
fn a_request_is_read_little_endian_at_the_offsets_of_the_specification() {
    let mut bytes = [0xee; REQUEST_SIZE];
    bytes[0..2].copy_from_slice(&1u16.to_le_bytes());
    bytes[8..16].copy_from_slice(&0x1_4020_0000u64.to_le_bytes());
    bytes[16..18].copy_from_slice(&0x1234u16.to_le_bytes());
    assert_eq!(
        Request::parse(&bytes),
        Ok(Request::Unplug(Span { addr: 0x1_4020_0000, blocks: 0x1234 })),
        "padding does not matter"
    );
}

#[test]
fn an_unknown_type_is_named_in_the_error() {
    let mut bytes = [0; REQUEST_SIZE];
    bytes[0] = 4;
    assert_eq!(Request::parse(&bytes).unwrap_err().to_string(), "unknown request type: 4");
}

#[test]
fn responses_have_their_wire_values() {
    assert_eq!(Response::Ack.to_bytes(), [0; RESPONSE_SIZE]);
    assert_eq!(Response::State(BlockState::Mixed).to_bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    assert_eq!(Response::Nack.to_bytes()[0], 1);
    assert_eq!(Response::Busy.to_bytes()[0], 2);
    assert_eq!(Response::Error.to_bytes()[0], 3);
}

proptest! {
    #[test]
    fn every_byte_pattern_parses_or_names_its_type(bytes: [u8; REQUEST_SIZE]) {
        let kind = u16::from_le_bytes([bytes[0], bytes[1]]);
        match Request::parse(&bytes) {
            Ok(_) => prop_assert!(kind < 4),
            Err(UnknownType(t)) => prop_assert_eq!(t, kind),
        }
    }
}
