//! Telling the network where a machine is now: switches learn it from a frame of each device that they see at another place.
//!
//! The frame is a request of the reverse address resolution protocol (RFC 903), to everybody, for the device's own address: nobody answers
//! it, and every switch hears it. It is sent several times, as frames get lost. Guests that can are asked to tell more.

use std::sync::{Arc, Weak};

use mainloop::Clock;

use crate::HEADER;
use crate::mac::MacAddr;
use crate::set::NetSet;

/// Bytes of the shortest Ethernet frame, without its check sequence.
const SHORTEST: usize = 60;
/// What is asked, behind the Ethernet header: Ethernet addresses of 6 bytes for IPv4 addresses of 4; a reverse request.
const TYPE_AND_REQUEST: [u8; 10] = [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3];

/// How often it is told, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounds {
    /// Milliseconds between the first and the second time.
    pub initial: i64,
    /// Between two times at most.
    pub max: i64,
    /// How often.
    pub rounds: i64,
    /// What is waited longer each time.
    pub step: i64,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { initial: 50, max: 550, rounds: 5, step: 100 }
    }
}

impl Rounds {
    /// Nanoseconds before the next time, once it was told `told` times, if there is a next time.
    pub fn next(&self, told: i64) -> Option<i64> {
        let Self { initial, max, rounds, step } = *self;
        let longer = step.saturating_mul(told.saturating_sub(1));
        let wait = initial.saturating_add(longer).min(max).max(0);
        (told < rounds).then(|| wait.saturating_mul(1_000_000))
    }
}

/// The frame of a device, behind a header that says nothing if there is to be one.
pub(crate) fn frame(mac: MacAddr, header: bool) -> Vec<u8> {
    let start = if header { HEADER } else { 0 };
    let mut bytes = vec![0; start];
    bytes.extend(MacAddr::BROADCAST.0);
    bytes.extend(mac.0);
    bytes.extend(TYPE_AND_REQUEST);
    for _ in 0..2 {
        bytes.extend(mac.0);
        // An IPv4 address that nobody knows.
        bytes.extend([0; 4]);
    }
    bytes.resize(start + SHORTEST, 0);
    bytes
}

/// Announces now, and later as often as it is to be; one of the same `id` ends. Of all devices, or of those that are named.
pub(crate) fn announce(set: &Arc<NetSet>, rounds: Rounds, names: Option<Vec<String>>, id: &str) {
    set.keep_announcement(id, None);
    if rounds.rounds > 0 {
        round(set, rounds, names, id.to_owned(), 0);
    }
}

fn round(set: &Arc<NetSet>, rounds: Rounds, names: Option<Vec<String>>, id: String, before: i64) {
    for card in set.cards() {
        let skip = names.as_ref().is_some_and(|names| !names.contains(&card.name));
        trace::emit!(
            qemu_announce_self_iter,
            if id.is_empty() { "_none_" } else { &id },
            &card.name,
            card.mac(),
            skip.into()
        );
        if !skip {
            card.announce();
        }
    }
    let told = before + 1;
    let Some(wait) = rounds.next(told) else { return };
    let me: Weak<NetSet> = Arc::downgrade(set);
    let handle = set.handle();
    let key = id.clone();
    let timer =
        handle.timer(Clock::Realtime, handle.now_ns(Clock::Realtime).saturating_add(wait), move || {
            if let Some(set) = me.upgrade() {
                round(&set, rounds, names, key, told);
            }
        });
    set.keep_announcement(&id, Some(timer));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_longer_until_the_longest() {
        let rounds = Rounds { initial: 50, max: 200, rounds: 5, step: 100 };
        let waits: Vec<_> = (1..=5).map(|told| rounds.next(told)).collect();
        assert_eq!(
            waits,
            [Some(50), Some(150), Some(200), Some(200), None].map(|ms| ms.map(|ms| ms * 1_000_000))
        );
        let odd = Rounds { initial: i64::MAX, max: i64::MAX, rounds: i64::MAX, step: i64::MIN };
        assert_eq!(odd.next(i64::MAX - 1), Some(0));
    }

    #[test]
    fn the_frame_is_a_reverse_request_for_the_devices_own_address() {
        let mac = MacAddr([2, 0, 0, 0, 0, 7]);
        let bytes = frame(mac, true);
        assert_eq!((bytes.len(), &bytes[..HEADER]), (HEADER + 60, &[0; HEADER][..]));
        let bytes = frame(mac, false);
        assert_eq!(
            (&bytes[..6], &bytes[6..12], &bytes[12..14]),
            (&[0xff; 6][..], &mac.0[..], &[0x80, 0x35][..])
        );
        assert_eq!((&bytes[22..28], &bytes[32..38]), (&mac.0[..], &mac.0[..]));
    }
}
