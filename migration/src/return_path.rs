//! The way back: what the destination tells the source, over the same socket.
//!
//! A message is its kind and the bytes of its data (two bytes each, big endian), then the data. The source asks for it with a command in
//! the stream; from then on each side hears when the other is gone, and the source is not done before the destination says that it runs.
//! When memory follows a guest that runs there already, pages are asked for on this way.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::channel::Channel;
use crate::progress::Counters;
use crate::wire::{Input, PAGE};

mod answers;

pub use answers::Answers;

/// Commands in the stream.
pub mod command {
    /// The destination answers from now on.
    #[doc(alias = "MIG_CMD_OPEN_RETURN_PATH")]
    pub const OPEN: u16 = 1;
    /// To be answered with the same number.
    #[doc(alias = "MIG_CMD_PING")]
    pub const PING: u16 = 2;
    /// The guest may go on there before all of its memory is; sizes of pages.
    #[doc(alias = "MIG_CMD_POSTCOPY_ADVISE")]
    pub const ADVISE: u16 = 3;
    /// Whoever touches what is not there waits from now on.
    #[doc(alias = "MIG_CMD_POSTCOPY_LISTEN")]
    pub const LISTEN: u16 = 4;
    /// The guest goes on there.
    #[doc(alias = "MIG_CMD_POSTCOPY_RUN")]
    pub const RUN: u16 = 5;
    /// Parts of a block that will come again, or for the first time.
    #[doc(alias = "MIG_CMD_POSTCOPY_RAM_DISCARD")]
    pub const DISCARD: u16 = 6;
    /// Memory follows again, over another connection.
    #[doc(alias = "MIG_CMD_POSTCOPY_RESUME")]
    pub const RESUME: u16 = 7;
    /// So many bytes that belong together.
    #[doc(alias = "MIG_CMD_PACKAGED")]
    pub const PACKAGED: u16 = 8;
    /// Asks what is there of a block.
    #[doc(alias = "MIG_CMD_RECV_BITMAP")]
    pub const RECV_BITMAP: u16 = 9;
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
    #[doc(alias = "MIG_RP_MSG_REQ_PAGES_ID")]
    pub(super) const PAGES_OF: u16 = 3;
    #[doc(alias = "MIG_RP_MSG_REQ_PAGES")]
    pub(super) const PAGES: u16 = 4;
    #[doc(alias = "MIG_RP_MSG_RECV_BITMAP")]
    pub(super) const BITMAP: u16 = 5;
    #[doc(alias = "MIG_RP_MSG_RESUME_ACK")]
    pub(super) const RESUMED: u16 = 6;
    #[doc(alias = "MIG_RP_MSG_SWITCHOVER_ACK")]
    pub(super) const SWITCHOVER_ACK: u16 = 7;
}

/// What [`message::RESUMED`] says.
#[doc(alias = "MIGRATION_RESUME_ACK_VALUE")]
const RESUMED: u32 = 1;
/// What follows a bitmap.
#[doc(alias = "RAMBLOCK_RECV_BITMAP_ENDING")]
const BITMAP_END: u64 = 0x0123_4567_89ab_cdef;
/// Bytes of a bitmap at most: that of 16 TiB.
const MAX_BITMAP: u64 = 512 << 20;
/// Bitmaps that are waited for at most.
const MAX_BITMAPS: usize = 1024;
/// Bytes of a message's data at most.
const MAX_DATA: u16 = 512;
/// Requests that wait at most. Each stands for somebody who waits there.
const MAX_REQUESTS: usize = 1 << 16;

/// Pages that are waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Name of the block.
    pub block: Arc<str>,
    /// Bytes from its start: a multiple of a page.
    pub offset: u64,
    /// Bytes: a multiple of a page.
    pub len: u64,
}

/// What the source has heard.
#[derive(Debug, Default)]
struct Heard {
    /// The last message came.
    shut: Option<u32>,
    acked: bool,
    /// The last number that came back.
    pong: Option<u32>,
    requests: VecDeque<Request>,
    /// Nobody takes requests any more.
    no_more: bool,
    /// What is there of blocks; nothing while nobody wants to know.
    bitmaps: Option<HashMap<String, Vec<u8>>>,
    /// Memory is to follow again, over this connection.
    recovers: bool,
    resumed: bool,
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
    /// Listens on a thread of its own, until the last message or the end of the channel. Requests are counted.
    ///
    /// # Errors
    /// The host has no thread.
    pub fn open(channel: &Arc<Channel>, counters: &Arc<Counters>) -> io::Result<Arc<Self>> {
        let this = Arc::new(Self::default());
        let (listener, channel) = (Arc::clone(&this), Arc::clone(channel));
        let counters = Arc::clone(counters);
        std::thread::Builder::new().name("mig/src/return".into()).spawn(move || {
            if let Err(error) = listener.listen(Input::new(channel), &counters) {
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

    fn listen(&self, mut input: Input, counters: &Counters) -> Result<(), String> {
        let mut last: Option<Arc<str>> = None;
        loop {
            let kind = u16::from_be_bytes(input.array().map_err(lost)?);
            let len = u16::from_be_bytes(input.array().map_err(lost)?);
            let fits = match kind {
                message::SHUT | message::PONG | message::RESUMED => len == 4,
                message::SWITCHOVER_ACK => len == 0,
                message::PAGES => len == 12,
                message::PAGES_OF => len > 13,
                message::BITMAP => len > 1,
                _ => false,
            };
            if !fits || len > MAX_DATA {
                return Err(format!("Received invalid message {kind:#06x} length {len:#06x}"));
            }
            let mut data = vec![0; len.into()];
            input.read_exact(&mut data).map_err(lost)?;
            let number = |at: usize| u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
            match kind {
                message::SHUT => {
                    self.change(|heard| heard.shut = Some(number(0)));
                    return Ok(());
                }
                message::PONG => self.change(|heard| heard.pong = Some(number(0))),
                message::RESUMED => {
                    if number(0) != RESUMED {
                        return Err(format!("illegal resume_ack value {}", number(0)));
                    }
                    let mut heard = self.lock();
                    if !heard.recovers {
                        return Err("resume_ack that nobody waits for".to_owned());
                    }
                    heard.resumed = true;
                    drop(heard);
                    self.changed.notify_all();
                }
                message::PAGES | message::PAGES_OF => {
                    if kind == message::PAGES_OF {
                        last = Some(name(&data[12..])?.into());
                    }
                    let offset = (u64::from(number(0)) << 32) | u64::from(number(4));
                    self.requested(last.clone(), offset, number(8).into())?;
                    counters.requests.fetch_add(1, Ordering::Relaxed);
                }
                message::BITMAP => {
                    let block = name(&data)?;
                    let bitmap = bitmap(&mut input).map_err(lost)?;
                    let mut heard = self.lock();
                    // One of each block, and none that nobody waits for.
                    let waits = heard.bitmaps.as_mut().filter(|all| all.len() < MAX_BITMAPS);
                    waits.ok_or("a bitmap that was not asked for")?.insert(block, bitmap);
                    drop(heard);
                    self.changed.notify_all();
                }
                _ => self.change(|heard| heard.acked = true),
            }
        }
    }

    fn requested(&self, block: Option<Arc<str>>, offset: u64, len: u64) -> Result<(), String> {
        let block = block.ok_or("pages are asked for of no block")?;
        if len == 0 || !offset.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
            return Err(format!("Misaligned page request, start: {offset:#x} len: {len:#x}"));
        }
        let mut heard = self.lock();
        if heard.requests.len() >= MAX_REQUESTS {
            return Err("too many pages are asked for".to_owned());
        }
        heard.requests.push_back(Request { block, offset, len });
        drop(heard);
        self.changed.notify_all();
        Ok(())
    }

    fn wait(&self, going_on: impl FnMut(&mut Heard) -> bool) -> MutexGuard<'_, Heard> {
        self.changed.wait_while(self.lock(), going_on).unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the guest may be stopped as far as the destination is concerned.
    pub fn is_acked(&self) -> bool {
        self.lock().acked
    }

    /// Whether a ping with this number was answered, and none since.
    pub fn has_pong(&self, number: u32) -> bool {
        self.lock().pong == Some(number)
    }

    /// Whether the last message came.
    pub fn is_shut(&self) -> bool {
        self.lock().shut.is_some()
    }

    /// Why the destination does not go on, if that is so: the way is broken, or its last word was that it failed.
    pub fn failure(&self) -> Option<String> {
        let heard = self.lock();
        (heard.shut.is_some_and(|shut| shut != 0) || heard.broken.is_some()).then(|| why(&heard))
    }

    /// All requests that came since the last time.
    pub fn take_requests(&self) -> Vec<Request> {
        self.lock().requests.drain(..).collect()
    }

    /// Whether there are requests, or the way is broken: whoever takes pages out of their order looks.
    pub fn calls(&self) -> bool {
        let heard = self.lock();
        !heard.requests.is_empty() || heard.broken.is_some()
    }

    /// Waits for the next request; nothing once the way is broken or [`end_requests`](Self::end_requests) was called.
    pub fn next_request(&self) -> Option<Request> {
        let over = |heard: &Heard| heard.no_more || heard.shut.is_some() || heard.broken.is_some();
        let mut heard = self.wait(|heard| heard.requests.is_empty() && !over(heard));
        if over(&heard) { None } else { heard.requests.pop_front() }
    }

    /// Nobody takes requests any more.
    pub fn end_requests(&self) {
        self.change(|heard| heard.no_more = true);
    }

    /// Waits for `time`, or until something is to be done: a ping was answered, the way is broken, or, if `urgent`, a request came.
    pub fn rest(&self, time: Duration, urgent: bool) {
        let heard = self.lock();
        let pong = heard.pong;
        let quiet = |heard: &mut Heard| {
            heard.broken.is_none() && heard.pong == pong && (!urgent || heard.requests.is_empty())
        };
        // Either way the caller looks.
        drop(self.changed.wait_timeout_while(heard, time, quiet));
    }

    /// Waits for `time` at most until the destination agrees that the guest is stopped, or nothing more comes.
    pub fn wait_ack(&self, time: Duration) {
        let quiet = |heard: &mut Heard| !heard.acked && heard.shut.is_none() && heard.broken.is_none();
        // Either way the caller looks.
        drop(self.changed.wait_timeout_while(self.lock(), time, quiet));
    }

    /// Waits for an answer to the ping `number`, a request, or the end of the way.
    pub fn wait_pong(&self, number: u32, urgent: bool) {
        drop(self.wait(|heard| {
            heard.pong != Some(number)
                && heard.broken.is_none()
                && heard.shut.is_none()
                && (!urgent || heard.requests.is_empty())
        }));
    }

    /// What is there of blocks is going to be asked for, and then that memory may follow again.
    pub fn expect_bitmaps(&self) {
        self.change(|heard| (heard.bitmaps, heard.recovers) = (Some(HashMap::new()), true));
    }

    /// Waits for what is there of blocks.
    ///
    /// # Errors
    /// The way is broken.
    pub fn wait_bitmaps(&self, blocks: &[String]) -> Result<HashMap<String, Vec<u8>>, String> {
        let has = |heard: &Heard, name| heard.bitmaps.as_ref().is_some_and(|all| all.contains_key(name));
        let missing = |heard: &Heard| blocks.iter().any(|name| !has(heard, name));
        let mut heard = self.wait(|heard| missing(heard) && heard.broken.is_none() && heard.shut.is_none());
        if missing(&heard) { Err(why(&heard)) } else { Ok(heard.bitmaps.take().unwrap_or_default()) }
    }

    /// Waits until the destination goes on.
    ///
    /// # Errors
    /// The way is broken.
    pub fn wait_resumed(&self) -> Result<(), String> {
        let heard = self.wait(|heard| !heard.resumed && heard.broken.is_none() && heard.shut.is_none());
        if heard.resumed { Ok(()) } else { Err(why(&heard)) }
    }

    /// Waits for the last message.
    ///
    /// # Errors
    /// The destination failed, or the channel broke.
    pub fn wait_shut(&self) -> Result<(), String> {
        let heard = self.wait(|heard| heard.shut.is_none() && heard.broken.is_none());
        match heard.shut {
            Some(0) => Ok(()),
            _ => Err(why(&heard)),
        }
    }
}

fn why(heard: &Heard) -> String {
    let failed = || "the destination could not take the machine in".to_owned();
    heard.broken.clone().unwrap_or_else(failed)
}

fn lost(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the other side is gone".to_owned(),
        io::ErrorKind::InvalidData => error.to_string(),
        _ => qapi::strerror(&error),
    }
}

/// A name behind its length, and nothing behind it.
fn name(data: &[u8]) -> Result<String, String> {
    match data.split_first() {
        Some((len, name)) if usize::from(*len) == name.len() => {
            Ok(String::from_utf8_lossy(name).into_owned())
        }
        _ => Err("a block's name is not as long as it says".to_owned()),
    }
}

fn bitmap(input: &mut Input) -> io::Result<Vec<u8>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let len = input.u64()?;
    if len > MAX_BITMAP {
        return Err(invalid("a bitmap that is too long"));
    }
    let mut bytes = Vec::new();
    input.by_ref().take(len).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match input.u64()? {
        BITMAP_END => Ok(bytes),
        _ => Err(invalid("a bitmap without its end")),
    }
}
