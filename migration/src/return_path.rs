//! The way back: what the destination tells the source, over the same socket.
//!
//! A message is its kind and the bytes of its data (two bytes each, big endian), then the data. The source asks for it with a command in
//! the stream; from then on each side hears when the other is gone, and the source is not done before the destination says that it runs.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::channel::Channel;
use crate::wire::Input;

/// Commands in the stream.
pub mod command {
    /// The destination answers from now on.
    #[doc(alias = "MIG_CMD_OPEN_RETURN_PATH")]
    pub const OPEN: u16 = 1;
    /// To be answered with the same number.
    #[doc(alias = "MIG_CMD_PING")]
    pub const PING: u16 = 2;
    /// The guest was stopped; what follows is the rest.
    #[doc(alias = "MIG_CMD_SWITCHOVER_START")]
    pub const SWITCHOVER_START: u16 = 11;
}

/// Kinds of messages.
mod message {
    #[doc(alias = "MIG_RP_MSG_SHUT")]
    pub(super) const SHUT: u16 = 1;
    #[doc(alias = "MIG_RP_MSG_PONG")]
    pub(super) const PONG: u16 = 2;
    #[doc(alias = "MIG_RP_MSG_SWITCHOVER_ACK")]
    pub(super) const SWITCHOVER_ACK: u16 = 7;
}

/// Bytes of a message's data at most.
const MAX_DATA: u16 = 512;

/// The destination's end.
#[derive(Debug)]
pub struct Answers(Arc<Channel>);

impl Answers {
    /// Over the channel that the stream comes from.
    pub fn new(channel: Arc<Channel>) -> Self {
        Self(channel)
    }

    fn send(&self, kind: u16, data: &[u8]) -> io::Result<()> {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
        bytes.extend_from_slice(data);
        self.0.write_all(&bytes)
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
}

/// What the source has heard.
#[derive(Debug, Default, Clone)]
struct Heard {
    /// The last message came.
    shut: Option<u32>,
    acked: bool,
    /// Nothing more comes, for this reason.
    broken: Option<String>,
}

/// The source's end.
#[derive(Debug, Default)]
pub struct ReturnPath {
    heard: Mutex<Heard>,
    changed: Condvar,
}

impl ReturnPath {
    /// Listens on a thread of its own, until the last message or the end of the channel.
    ///
    /// # Errors
    /// The host has no thread.
    pub fn open(channel: &Arc<Channel>) -> io::Result<Arc<Self>> {
        let this = Arc::new(Self::default());
        let (listener, channel) = (Arc::clone(&this), Arc::clone(channel));
        std::thread::Builder::new().name("mig/src/return".into()).spawn(move || {
            if let Err(error) = listener.listen(Input::new(channel)) {
                listener.change(|heard| heard.broken = Some(error));
            }
        })?;
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        // Fields are assigned whole.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn listen(&self, mut input: Input) -> Result<(), String> {
        let lost = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => "the other side is gone".to_owned(),
            _ => qapi::strerror(&error),
        };
        loop {
            let kind = u16::from_be_bytes(input.array().map_err(lost)?);
            let len = u16::from_be_bytes(input.array().map_err(lost)?);
            let expected = match kind {
                message::SHUT | message::PONG => 4,
                message::SWITCHOVER_ACK => 0,
                _ => return Err(format!("Received invalid message {kind:#06x} length {len:#06x}")),
            };
            if len != expected || len > MAX_DATA {
                return Err(format!("Received invalid message {kind:#06x} length {len:#06x}"));
            }
            match kind {
                message::SHUT => {
                    let value = input.u32().map_err(lost)?;
                    self.change(|heard| heard.shut = Some(value));
                    return Ok(());
                }
                message::PONG => {
                    input.u32().map_err(lost)?;
                }
                _ => self.change(|heard| heard.acked = true),
            }
        }
    }

    /// Whether the guest may be stopped as far as the destination is concerned.
    pub fn is_acked(&self) -> bool {
        self.lock().acked
    }

    /// Why nothing more comes, if that is so and the last message did not come.
    pub fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    /// Waits for the last message.
    ///
    /// # Errors
    /// The destination failed, or the channel broke.
    pub fn wait(&self) -> Result<(), String> {
        let going_on = |heard: &mut Heard| heard.shut.is_none() && heard.broken.is_none();
        let heard = self.changed.wait_while(self.lock(), going_on).unwrap_or_else(PoisonError::into_inner);
        match (heard.shut, &heard.broken) {
            (Some(0), _) => Ok(()),
            (Some(_), _) => Err("the destination could not take the machine in".to_owned()),
            (None, Some(why)) => Err(why.clone()),
            (None, None) => Ok(()),
        }
    }
}
