//! What the user says about a network device, and its configuration space (virtio 1.3 §5.1.4).

use std::sync::Arc;

use ::net::{MacAddr, Netdev};
use qapi::{Error, Result};

use super::features::{LATE_SWITCHES, MAC, MQ, MTU, SPEED_DUPLEX, STATUS, SWITCHES};

/// Entries of a queue, unless others are asked for; fewer are not possible.
pub(super) const QUEUE_SIZE: u16 = 256;
const MAX_RX_QUEUE_SIZE: u16 = 1024;
/// More only go to who serves queues elsewhere.
const MAX_TX_QUEUE_SIZE: u16 = 256;
/// Bits of the status.
pub(super) const LINK_UP: u16 = 1;
pub(super) const ANNOUNCE: u16 = 2;
/// Nobody said how fast, and whether both may talk at a time.
const UNKNOWN_SPEED: i32 = -1;
const UNKNOWN_DUPLEX: u8 = 0xff;

/// Whether both ends talk at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duplex {
    Half,
    Full,
}

/// Properties.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// Features that are switched on, as bits.
    pub(super) switched: u64,
    pub(super) mac: Option<MacAddr>,
    pub(super) netdev: Option<Arc<Netdev>>,
    /// Kept; every packet is sent as soon as it is there.
    pub(super) tx: String,
    /// Kept, as `tx`.
    pub(super) tx_timer: u32,
    /// Kept, as `tx`.
    pub(super) tx_burst: i32,
    pub(super) rx_queue_size: u16,
    pub(super) tx_queue_size: u16,
    /// 0: nothing is said.
    pub(super) host_mtu: u16,
    /// Kept; means something to vhost alone.
    pub(super) mtu_bypass: bool,
    /// Megabits a second, or [`UNKNOWN_SPEED`].
    pub(super) speed: i32,
    pub(super) duplex_text: String,
    /// Of the text, once that was judged.
    pub(super) duplex: Option<Duplex>,
    pub(super) rsc_interval: u32,
    /// What is not there: `rss`, `hash`, `guest_rsc_ext`, `failover`.
    pub(super) refused: [bool; 4],
}

/// Names of what is refused.
pub(super) const REFUSED: [&str; 4] = ["rss", "hash", "guest_rsc_ext", "failover"];

impl Default for Config {
    fn default() -> Self {
        let on = SWITCHES.iter().chain(&LATE_SWITCHES).filter(|(_, on, _)| *on);
        Self {
            switched: on.fold(0, |all, (_, _, bit)| all | bit),
            mac: None,
            netdev: None,
            tx: String::new(),
            tx_timer: 150_000,
            tx_burst: 256,
            rx_queue_size: QUEUE_SIZE,
            tx_queue_size: QUEUE_SIZE,
            host_mtu: 0,
            mtu_bypass: true,
            speed: UNKNOWN_SPEED,
            duplex_text: String::new(),
            duplex: None,
            rsc_interval: 300_000,
            refused: [false; 4],
        }
    }
}

impl Config {
    /// Judges what cannot be judged before all is known.
    ///
    /// # Errors
    /// QEMU's texts, and a sentence for what is not there.
    pub(super) fn settle(&mut self) -> Result<()> {
        let error = |text: String| Err(Error::generic(text));
        self.duplex = match self.duplex_text.as_str() {
            "" => None,
            "half" => Some(Duplex::Half),
            "full" => Some(Duplex::Full),
            _ => return error("'duplex' must be 'half' or 'full'".into()),
        };
        if self.speed < UNKNOWN_SPEED {
            return error("'speed' must be between 0 and INT_MAX".into());
        }
        let possible = |size: u16, most: u16| (QUEUE_SIZE..=most).contains(&size) && size.is_power_of_two();
        let (rx, tx) = (self.rx_queue_size, self.tx_queue_size);
        if !possible(rx, MAX_RX_QUEUE_SIZE) {
            return error(format!(
                "Invalid rx_queue_size (= {rx}), must be a power of 2 between {QUEUE_SIZE} and {MAX_RX_QUEUE_SIZE}."
            ));
        }
        if !possible(tx, MAX_TX_QUEUE_SIZE) {
            return error(format!(
                "Invalid tx_queue_size (= {tx}), must be a power of 2 between {QUEUE_SIZE} and {MAX_TX_QUEUE_SIZE}"
            ));
        }
        if let Some((name, _)) = REFUSED.iter().zip(self.refused).find(|(_, on)| *on) {
            return error(format!("{name}=on is not supported"));
        }
        if !["", "timer", "bh"].contains(&self.tx.as_str()) {
            let tx = &self.tx;
            tracing::warn!(
                "virtio-net: Unknown option tx={tx}, valid options: \"timer\" \"bh\"\nDefaulting to \"bh\""
            );
        }
        Ok(())
    }

    /// The configuration space, as far as the device's features make it reach.
    pub(super) fn space(&self, features: u64, mac: MacAddr, status: u16) -> Vec<u8> {
        let mut bytes = mac.0.to_vec();
        bytes.extend(status.to_le_bytes());
        // Pairs of queues.
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(self.host_mtu.to_le_bytes());
        bytes.extend(self.speed.to_le_bytes());
        bytes.push(match self.duplex {
            Some(Duplex::Half) => 0,
            Some(Duplex::Full) => 1,
            None => UNKNOWN_DUPLEX,
        });
        let ends = [(MAC, 6), (STATUS, 8), (MQ, 10), (MTU, 12), (SPEED_DUPLEX, 17)];
        let end = ends.iter().filter(|(feature, _)| features & feature != 0).map(|(_, end)| *end).max();
        bytes.truncate(end.unwrap_or(0));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_reaches_as_far_as_the_features() {
        let config = Config { speed: 1000, host_mtu: 1500, duplex: Some(Duplex::Full), ..Config::default() };
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let space = |features| config.space(features | MAC, mac, LINK_UP);
        assert_eq!(space(0), mac.0);
        assert_eq!(space(STATUS), [2, 0, 0, 0, 0, 1, 1, 0]);
        assert_eq!(space(MTU)[6..], [1, 0, 1, 0, 0xdc, 5]);
        assert_eq!(space(SPEED_DUPLEX)[12..], [0xe8, 3, 0, 0, 1]);
        assert_eq!(Config::default().space(SPEED_DUPLEX, mac, 0)[12..], [0xff; 5]);
    }
}
