//! Memory that follows a guest which runs elsewhere already: what is still to be sent, and pages out of their order.
//!
//! The guest stands still here, so that the log only gets less. Whoever takes a page out of it sends it, and nobody else: pages go once,
//! whether they were asked for or their turn came. After a connection was lost the log is made anew from what the other side has.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use memory::{Memory, host_page_size};

use super::{CLIENT, SendBlock, Sender};
use crate::progress::Counters;
use crate::ram::is_within;
use crate::return_path::Request;
use crate::wire::{Output, PAGE, ram};

/// Sends pages that are asked for, on any thread.
pub(crate) struct Pages {
    memory: Arc<Memory>,
    blocks: Vec<Arc<SendBlock>>,
}

impl Sender {
    /// What is not sent yet, with the names of blocks.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (&str, Vec<Range<u64>>)> {
        self.blocks.iter().map(|block| {
            let mut found = Vec::new();
            for run in &block.runs {
                let len = run.end - run.start;
                block.log.runs(run.start, len, |start, len| found.push(start..start + len));
            }
            (&*block.name, found)
        })
    }

    /// Names of blocks of which something is sent.
    pub(crate) fn names(&self) -> Vec<String> {
        self.blocks.iter().filter(|b| !b.runs.is_empty()).map(|b| b.name.clone()).collect()
    }

    /// Sizes of pages, or'ed: both sides must have the same.
    #[doc(alias = "ram_pagesize_summary")]
    pub(crate) fn page_sizes(&self) -> u64 {
        self.blocks.iter().fold(0, |all, b| all | b.block.page_size())
    }

    /// For who sends pages that are asked for.
    pub(crate) fn pages(&self) -> Pages {
        Pages { memory: Arc::clone(&self.memory), blocks: self.blocks.clone() }
    }

    /// Counts what is left, which others may have taken from; bytes.
    pub(crate) fn recount(&mut self) -> u64 {
        self.pending = self.blocks.iter().map(|b| b.left()).sum();
        self.pending()
    }

    /// Goes on after pages of any block were sent over the same stream, or over another.
    pub(crate) fn restart(&mut self) {
        self.begin_pass();
        self.last = None;
    }

    /// Sends pages that are asked for over the stream itself.
    ///
    /// # Errors
    /// The channel's, or no such pages are sent.
    pub(crate) fn send_asked(
        &mut self,
        out: &mut Output,
        counters: &Counters,
        requests: &[Request],
    ) -> io::Result<()> {
        let pages = self.pages();
        self.last = None;
        requests.iter().try_for_each(|request| pages.send(out, counters, request))
    }

    /// What is to be sent, from what the other side has of each block: a bit for each page, the first in bit 0 of byte 0.
    ///
    /// # Errors
    /// A bitmap is missing, or is not of such a block.
    pub(crate) fn reload(&mut self, there: &HashMap<String, Vec<u8>>) -> Result<(), String> {
        for block in self.blocks.iter().filter(|block| !block.runs.is_empty()) {
            let len = block.block.size();
            let bits =
                there.get(&block.name).ok_or_else(|| format!("no bitmap of block '{}'", block.name))?;
            if bits.len() as u64 != bitmap_len(len) {
                let (name, bytes) = (&block.name, bits.len());
                return Err(format!("a bitmap of {bytes} bytes cannot be of block '{name}'"));
            }
            block.log.clean(0, len);
            for run in &block.runs {
                let mut start = run.start;
                while start < run.end {
                    let has = |at: u64| bits[(at / PAGE / 8) as usize] & (1 << (at / PAGE % 8)) != 0;
                    let kind = has(start);
                    let mut end = start + PAGE;
                    while end < run.end && has(end) == kind {
                        end += PAGE;
                    }
                    if !kind {
                        block.log.mark(start, end - start);
                    }
                    start = end;
                }
            }
        }
        self.recount();
        self.restart();
        Ok(())
    }
}

/// Bytes of a bitmap in the stream: whole words.
pub(crate) fn bitmap_len(block_len: u64) -> u64 {
    block_len.div_ceil(PAGE).div_ceil(64) * 8
}

impl SendBlock {
    /// Pages that are not sent yet.
    fn left(&self) -> u64 {
        self.runs.iter().map(|run| self.log.count_in(run.start, run.end - run.start)).sum()
    }
}

impl Pages {
    /// Sends what is asked for of a block, unless it was sent.
    ///
    /// # Errors
    /// The channel's; there is no such block, or part of it is outside or not plugged.
    pub(crate) fn send(&self, out: &mut Output, counters: &Counters, request: &Request) -> io::Result<()> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let Request { block: name, offset, len } = request;
        let block = self.blocks.iter().find(|block| *block.name == **name);
        let block = block.ok_or_else(|| invalid(format!("pages are asked for of no block: '{name}'")))?;
        let end = offset.checked_add(*len);
        let inside = end.filter(|end| is_within(&block.runs, *offset..*end));
        let Some(end) = inside else {
            let size = block.block.size();
            return Err(invalid(format!(
                "request outside of block '{name}' start={offset:x} len={len:x} blocklen={size:x}"
            )));
        };
        debug_assert_eq!(block.block.page_size(), host_page_size(), "others are refused there");
        for part in self.memory.take_dirty(CLIENT, &block.block, *offset, end - offset) {
            for page in part.step_by(PAGE as usize) {
                let zero = block.block.is_zero(page, PAGE as usize);
                let (kind, counter) = match zero {
                    true => (ram::FILLED, &counters.zero_pages),
                    false => (ram::PAGE, &counters.pages),
                };
                out.u64(page | kind)?;
                out.text(&block.name)?;
                if zero {
                    out.u8(0)?;
                } else {
                    out.guest(&block.block, page, PAGE)?;
                }
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
