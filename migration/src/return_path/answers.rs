//! The destination's end of the way back.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::{BITMAP_END, RESUMED, message};
use crate::channel::Channel;

/// Answers the source; any thread may.
#[derive(Debug)]
pub struct Answers {
    channel: Arc<Channel>,
    /// The block that was named last. Held while a message is written, which must not be broken by another.
    last: Mutex<Option<String>>,
}

impl Answers {
    /// Over the channel that the stream comes from.
    pub fn new(channel: Arc<Channel>) -> Self {
        Self { channel, last: Mutex::default() }
    }

    /// Ends the channel, and with it all waiting for the source.
    pub fn shut_channel(&self) {
        self.channel.shut();
    }

    fn send(&self, kind: u16, data: &[u8]) -> io::Result<()> {
        let _last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.channel.write_all(&message(kind, data))
    }

    /// The last message: whether all is well.
    ///
    /// # Errors
    /// The channel's.
    pub fn shut(&self, well: bool) -> io::Result<()> {
        self.send(message::SHUT, &u32::from(!well).to_be_bytes())
    }

    /// Answers a ping.
    ///
    /// # Errors
    /// The channel's.
    pub fn pong(&self, number: u32) -> io::Result<()> {
        self.send(message::PONG, &number.to_be_bytes())
    }

    /// The guest may be stopped.
    ///
    /// # Errors
    /// The channel's.
    pub fn switchover_ack(&self) -> io::Result<()> {
        self.send(message::SWITCHOVER_ACK, &[])
    }

    /// Asks for pages of a block.
    ///
    /// # Errors
    /// The channel's.
    pub fn request(&self, block: &str, offset: u64, len: u32) -> io::Result<()> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut data = offset.to_be_bytes().to_vec();
        data.extend_from_slice(&len.to_be_bytes());
        let kind = if last.as_deref() == Some(block) {
            message::PAGES
        } else {
            put_name(&mut data, block);
            *last = Some(block.to_owned());
            message::PAGES_OF
        };
        self.channel.write_all(&message(kind, &data))
    }

    /// Tells what is there of a block: a bit for each page, the first in bit 0 of byte 0.
    ///
    /// # Errors
    /// The channel's.
    pub fn bitmap(&self, block: &str, bits: &[u8]) -> io::Result<()> {
        let mut data = Vec::new();
        put_name(&mut data, block);
        let mut bytes = message(message::BITMAP, &data);
        bytes.extend_from_slice(&(bits.len() as u64).to_be_bytes());
        bytes.extend_from_slice(bits);
        bytes.extend_from_slice(&BITMAP_END.to_be_bytes());
        let _last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.channel.write_all(&bytes)
    }

    /// Memory may follow again.
    ///
    /// # Errors
    /// The channel's.
    pub fn resumed(&self) -> io::Result<()> {
        self.send(message::RESUMED, &RESUMED.to_be_bytes())
    }
}

fn message(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A name behind its length; those of blocks are no longer than that can say, or none of that name came.
fn put_name(data: &mut Vec<u8>, name: &str) {
    let len = name.len().min(u8::MAX.into());
    data.push(len as u8);
    data.extend_from_slice(&name.as_bytes()[..len]);
}
