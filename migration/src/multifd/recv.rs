//! The destination's threads: each reads the packets of a channel and puts pages where they belong, without a copy of ours unless they
//! come compressed.

use std::io::ErrorKind;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vmstate::{Errno, LoadError, Result};

use super::compression::{Compression, Unpacker};
use super::{BEGIN, Head, MAGIC, VERSION};
use crate::channel::Channel;
use crate::ram::load::LoadBlocks;
use crate::wire::PAGE;

#[derive(Default)]
struct State {
    /// Where memory is; channels wait for it.
    blocks: Option<Arc<LoadBlocks>>,
    channels: Vec<Arc<Channel>>,
    /// Whether the main channel came.
    has_main: bool,
    /// Numbers of the channels that came.
    numbers: Vec<u8>,
    /// Flushes that all channels have reached are let go up to this one.
    flushes: u64,
    /// Channels that wait for the next one.
    waiting: usize,
    /// Channels that ended.
    lost: usize,
    error: Option<LoadError>,
    /// Nobody wants any more.
    ended: bool,
}

impl State {
    /// Nothing comes any more: neither channels nor memory are held for it.
    fn end(&mut self) -> Vec<Arc<Channel>> {
        self.ended = true;
        self.blocks = None;
        std::mem::take(&mut self.channels)
    }
}

/// All channels of a machine that arrives.
pub(crate) struct Receivers {
    state: Mutex<State>,
    changed: Condvar,
    /// How many there are to be.
    count: usize,
}

impl Receivers {
    /// For `count` channels.
    pub(crate) fn new(count: u8) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), count: count.into() })
    }

    /// How many there are to be.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Changed by whole steps that do not panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The main channel, which ends when one of these fails.
    ///
    /// # Errors
    /// There is one already, or it is too late.
    pub(crate) fn add_main(&self, channel: &Arc<Channel>) -> Result<()> {
        let mut state = self.lock();
        if state.has_main || state.ended {
            return Err(LoadError::invalid("multifd: a second main channel"));
        }
        state.has_main = true;
        state.channels.push(Arc::clone(channel));
        Ok(())
    }

    /// What failed first.
    pub(crate) fn error(&self) -> Option<LoadError> {
        self.lock().error.clone()
    }

    /// A channel failed, or the main one did. Says whether that is to be told: it is the first failure, and no main channel is there that
    /// would end for it.
    pub(crate) fn fail(&self, error: LoadError) -> bool {
        let mut state = self.lock();
        let told = state.ended || state.has_main;
        if !state.ended {
            state.error.get_or_insert(error);
        }
        let channels = state.end();
        channels.iter().for_each(|channel| channel.shut());
        drop(state);
        self.changed.notify_all();
        !told
    }

    /// From now on pages may come.
    pub(crate) fn open(&self, blocks: &Arc<LoadBlocks>) {
        let mut state = self.lock();
        if !state.ended {
            state.blocks.get_or_insert_with(|| Arc::clone(blocks));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until every channel has reached the next flush, and lets them go on.
    ///
    /// # Errors
    /// One failed.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut state = self.lock();
        while state.error.is_none() && state.lost == 0 && !state.ended && state.waiting < self.count {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(error) = &state.error {
            return Err(error.clone());
        }
        if state.waiting < self.count {
            return Err(LoadError::new(Errno::Io, "multifd: a channel ended before its time"));
        }
        state.waiting = 0;
        state.flushes += 1;
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// All is there.
    pub(crate) fn end(&self) {
        // Each is closed once its thread has read to its end.
        drop(self.lock().end());
        self.changed.notify_all();
    }

    /// Serves a channel whose magic was read, on this thread, until it ends. Its packets are to be compressed so.
    ///
    /// # Errors
    /// The channel's, or its packets are not for this memory.
    pub(crate) fn serve(
        &self,
        channel: &Arc<Channel>,
        uuid: [u8; 16],
        compression: Compression,
    ) -> Result<()> {
        let mut begin = [0; BEGIN - 4];
        channel.read_exact(&mut begin)?;
        let version = u32::from_be_bytes([begin[0], begin[1], begin[2], begin[3]]);
        if version != VERSION {
            let text = format!("multifd: received packet version {version} expected version {VERSION}");
            return Err(LoadError::invalid(text));
        }
        if begin[4..20] != uuid {
            return Err(LoadError::invalid("multifd: received uuid is another machine's"));
        }
        let number = begin[20];
        let blocks = {
            let mut state = self.lock();
            if usize::from(number) >= self.count || state.numbers.contains(&number) {
                let text = format!("multifd: received channel id {number} cannot be");
                return Err(LoadError::invalid(text));
            }
            if state.ended {
                return Ok(());
            }
            state.numbers.push(number);
            state.channels.push(Arc::clone(channel));
            while state.blocks.is_none() && !state.ended {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            match &state.blocks {
                Some(blocks) if !state.ended => Arc::clone(blocks),
                _ => return Ok(()),
            }
        };
        let unpacker = Unpacker::new(compression)?;
        self.packets(Pages { channel, blocks: &blocks, number, compression, unpacker })
    }

    fn packets(&self, mut pages: Pages<'_>) -> Result<()> {
        let (channel, mut expected) = (pages.channel, 0);
        loop {
            let mut first = true;
            let head = Head::read(|bytes| match channel.read_exact(bytes) {
                // Between two packets it may end.
                Err(error) if first && error.kind() == ErrorKind::UnexpectedEof => {
                    Err(ErrorKind::ConnectionAborted.into())
                }
                other => {
                    first = false;
                    other
                }
            });
            let head = match head {
                Err(_) if first => return self.ended(channel),
                other => other?,
            };
            if head.number != expected {
                let text = format!("multifd: received packet {} expected {expected}", head.number);
                return Err(LoadError::invalid(text));
            }
            expected += 1;
            if !head.normal.is_empty() || !head.zero.is_empty() {
                pages.take(&head)?;
            }
            if head.sync && !self.wait_for_flush() {
                return Ok(());
            }
        }
    }

    /// The channel ended between packets: right only once all is there.
    fn ended(&self, channel: &Channel) -> Result<()> {
        let mut state = self.lock();
        state.lost += 1;
        self.changed.notify_all();
        // The main channel's end may still be on its way, or nobody wants any more.
        while !state.ended && !channel.is_shut() && state.error.is_none() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Waits until all have come as far; `false` if nobody wants any more.
    fn wait_for_flush(&self) -> bool {
        let mut state = self.lock();
        let mine = state.flushes;
        state.waiting += 1;
        self.changed.notify_all();
        while state.flushes == mine && !state.ended {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.ended
    }
}

/// Takes in the pages of a channel.
struct Pages<'a> {
    channel: &'a Channel,
    blocks: &'a LoadBlocks,
    /// The channel's.
    number: u8,
    compression: Compression,
    unpacker: Option<Unpacker>,
}

impl Pages<'_> {
    fn take(&mut self, head: &Head) -> Result<()> {
        let expected = self.compression.flag();
        if head.compression != expected {
            return Err(LoadError::invalid(format!(
                "multifd {}: flags received {:x} flags expected {expected:x}",
                self.number, head.compression
            )));
        }
        let Some(block) = self.blocks.find(&head.block) else {
            return Err(LoadError::invalid(format!("multifd: unknown ram block {}", head.block)));
        };
        // All of them, before anything is written.
        head.normal.iter().chain(&head.zero).try_for_each(|page| block.check(*page))?;
        runs(&head.zero, |run| block.clear(run))?;
        let channel = self.channel;
        match &mut self.unpacker {
            None => runs(&head.normal, |run| {
                run.clone().step_by(PAGE as usize).for_each(|page| block.note(page));
                channel.read_guest(block.block(), run.start, run.end - run.start)?;
                Ok(())
            }),
            Some(_) if head.normal.is_empty() => Ok(()),
            Some(unpacker) => {
                let len = head.size as usize;
                channel.read_exact(unpacker.room(len))?;
                let mut rest = unpacker.unpack(len, head.normal.len())?;
                runs(&head.normal, |run| {
                    let (bytes, after) = rest.split_at((run.end - run.start) as usize);
                    rest = after;
                    block.put(run.start, bytes)
                })
            }
        }
    }
}

/// Pages that lie side by side, each with those after it.
fn runs(pages: &[u64], mut each: impl FnMut(Range<u64>) -> Result<()>) -> Result<()> {
    pages.chunk_by(|page, next| page + PAGE == *next).try_for_each(|run| match run {
        [first, .., last] => each(*first..last + PAGE),
        [only] => each(*only..only + PAGE),
        [] => Ok(()),
    })
}

/// Whether a channel's first four bytes are those of one of several.
pub(crate) fn is_one(magic: [u8; 4]) -> bool {
    u32::from_be_bytes(magic) == MAGIC
}

#[cfg(test)]
mod tests;
