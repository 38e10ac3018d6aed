//! Taking memory in.
//!
//! Pages go where the stream says, if there is memory there: a block of that name and size, inside of it, and plugged. Zeroes are not
//! written where the host still has none of our pages, so that memory which was never touched on the other side takes none here.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memory::{BlockReader, Memory, RamBlock};
use vmstate::{LoadError, Result};

use super::mapped::Place;
use super::{Form, blocks};
use crate::incoming::landing::Landing;
use crate::multifd::recv::Receivers;
use crate::wire::{AHEAD, Input, PAGE, ram};

/// What is looked at at once for memory that was never touched.
const LOOK: u64 = 64 << 20;

/// A block that is filled, by any thread.
pub(crate) struct LoadBlock {
    block: Arc<RamBlock>,
    name: String,
    reader: BlockReader,
    /// A bit for each page that the stream brought something for.
    written: Vec<AtomicU64>,
    /// Pages that held nothing when they were looked at.
    hole: Mutex<Range<u64>>,
}

impl LoadBlock {
    fn new(block: Arc<RamBlock>) -> Self {
        let words = block.size().div_ceil(PAGE).div_ceil(64);
        let (name, reader) = (block.name(), block.reader());
        let written = (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { block, name, reader, written, hole: Mutex::new(0..0) }
    }

    pub(crate) fn block(&self) -> &RamBlock {
        &self.block
    }

    fn bit(offset: u64) -> (usize, u64) {
        let page = offset / PAGE;
        ((page / 64) as usize, 1 << (page % 64))
    }

    /// Something is put there. The offset was checked.
    pub(crate) fn note(&self, offset: u64) {
        let (word, bit) = Self::bit(offset);
        self.written[word].fetch_or(bit, Ordering::Relaxed);
    }

    /// Whether the stream brought something for the page.
    fn is_written(&self, offset: u64) -> bool {
        let (word, bit) = Self::bit(offset);
        self.written[word].load(Ordering::Relaxed) & bit != 0
    }

    /// The hole from `offset` on, which is zero without anybody having to look; empty if there is something.
    fn hole(&self, offset: u64) -> Range<u64> {
        // Assigned whole.
        let mut hole = self.hole.lock().unwrap_or_else(PoisonError::into_inner);
        if !hole.contains(&offset) {
            let end = self.block.size().min(offset + LOOK);
            *hole = offset..self.reader.next_data(offset..end).start;
        }
        offset..hole.end.max(offset)
    }

    /// Whether a page may be put there.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn check(&self, offset: u64) -> Result<()> {
        let end = offset.checked_add(PAGE).ok_or_else(|| illegal(offset))?;
        self.check_all(offset..end)
    }

    /// Whether pages may be put there, of which there are some.
    ///
    /// # Errors
    /// Of one of them they may not.
    fn check_all(&self, range: Range<u64>) -> Result<()> {
        if range.end > self.block.size() || !range.start.is_multiple_of(PAGE) {
            return Err(illegal(range.start));
        }
        let Some(manager) = self.block.discard_manager() else { return Ok(()) };
        // A block of the device holds whole pages.
        let size = manager.granularity();
        let mut start = range.start - range.start % size;
        while start < range.end {
            if !manager.is_populated(start..start + size) {
                return Err(illegal(start.max(range.start)));
            }
            start += size;
        }
        Ok(())
    }

    /// How many pages from `offset` on may be put there and were not yet, at most `most`.
    fn fresh(&self, offset: u64, most: u64) -> u64 {
        let fresh = |page: &u64| {
            let (word, bit) = Self::bit(*page);
            self.written.get(word).is_some_and(|word| word.load(Ordering::Relaxed) & bit == 0)
                && self.check(*page).is_ok()
        };
        (0..most).map(|page| offset + page * PAGE).take_while(fresh).count() as u64
    }

    /// Puts whole pages there. Their offsets were checked.
    ///
    /// # Errors
    /// The memory cannot be written.
    pub(crate) fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        (offset..offset + bytes.len() as u64).step_by(PAGE as usize).for_each(|page| self.note(page));
        self.block.write(offset, bytes).map_err(|_| illegal(offset))
    }

    /// Lets whole pages be zero. They were checked.
    ///
    /// # Errors
    /// The memory cannot be written.
    pub(crate) fn clear(&self, range: Range<u64>) -> Result<()> {
        let mut hole = 0..0;
        for page in range.step_by(PAGE as usize) {
            if !self.is_written(page) {
                if !hole.contains(&page) {
                    hole = self.hole(page);
                }
                if hole.contains(&page) {
                    continue;
                }
            }
            self.fill(page, 0)?;
        }
        Ok(())
    }

    /// Fills a page with a byte. The offset was checked.
    ///
    /// # Errors
    /// The memory cannot be written.
    fn fill(&self, offset: u64, byte: u8) -> Result<()> {
        self.note(offset);
        self.block.write(offset, &[byte; PAGE as usize]).map_err(|_| illegal(offset))
    }
}

fn illegal(offset: u64) -> LoadError {
    LoadError::invalid(format!("Illegal RAM offset {offset:x}"))
}

/// All blocks.
pub(crate) struct LoadBlocks(Vec<LoadBlock>);

impl LoadBlocks {
    /// The block with a name.
    pub(crate) fn find(&self, name: &str) -> Option<&LoadBlock> {
        self.index(name).map(|index| &self.0[index])
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|block| block.name == name)
    }
}

/// Takes in the memory of a machine.
pub struct Loader {
    blocks: Arc<LoadBlocks>,
    last: Option<usize>,
    /// The page that would come next if memory came in order, and how many behind it are guessed.
    next: Option<(usize, u64)>,
    guess: usize,
    form: Form,
    memory: Arc<Memory>,
    places: Vec<(usize, Place)>,
    /// Channels that pages come over.
    receivers: Option<Arc<Receivers>>,
    /// The guest runs already: pages are put where none are.
    landing: Option<Arc<Landing>>,
}

impl Loader {
    /// For the blocks of `memory`.
    pub(crate) fn new(memory: &Arc<Memory>, form: Form, receivers: Option<Arc<Receivers>>) -> Self {
        let blocks = LoadBlocks(blocks(memory).into_iter().map(LoadBlock::new).collect());
        let (blocks, memory) = (Arc::new(blocks), Arc::clone(memory));
        Self::with(blocks, memory, form, receivers, None)
    }

    /// From now on the guest may run.
    pub(crate) fn land(&mut self, landing: &Arc<Landing>) {
        self.landing = Some(Arc::clone(landing));
    }

    /// For a second channel of the same machine.
    pub(crate) fn second(&self) -> Self {
        let (blocks, memory) = (Arc::clone(&self.blocks), Arc::clone(&self.memory));
        Self::with(blocks, memory, self.form, None, self.landing.clone())
    }

    fn with(
        blocks: Arc<LoadBlocks>,
        memory: Arc<Memory>,
        form: Form,
        receivers: Option<Arc<Receivers>>,
        landing: Option<Arc<Landing>>,
    ) -> Self {
        let places = Vec::new();
        Self { blocks, last: None, next: None, guess: 0, form, memory, places, receivers, landing }
    }

    /// Lets pages come, now that it is known where memory is; those that are at places of their own are read here.
    ///
    /// # Errors
    /// The file is shorter, or there is no such memory.
    pub fn open(&mut self, input: &Input) -> Result<()> {
        if let Some(receivers) = &self.receivers {
            receivers.open(&self.blocks);
        }
        for (index, place) in std::mem::take(&mut self.places) {
            let block = &self.blocks.0[index];
            for run in place.runs(input, block.block.size())? {
                run.clone().step_by(PAGE as usize).try_for_each(|page| block.check(page))?;
                place.pages(input, &block.block, &run)?;
            }
        }
        Ok(())
    }

    /// Reads one section, up to its end.
    ///
    /// # Errors
    /// The stream ended, or it is not for this memory.
    pub fn section(&mut self, input: &mut Input) -> Result<()> {
        loop {
            let head = input.u64()?;
            let (offset, flags) = (head & !(PAGE - 1), head & (PAGE - 1));
            match (flags & !ram::CONTINUE, &self.receivers) {
                (ram::BLOCKS, _) => self.list(input, offset)?,
                (ram::FILLED, _) => {
                    let index = self.block(input, flags)?;
                    self.filled(input, index, offset)?;
                }
                (ram::PAGE, _) => {
                    let index = self.block(input, flags)?;
                    self.page(input, index, offset)?;
                }
                (ram::FLUSH, Some(receivers)) => receivers.flush()?,
                // Of a file whose pages are at places of their own, whoever wrote them.
                (ram::FLUSH, None) if self.form.mapped => {}
                (ram::END, _) => return Ok(()),
                _ => {
                    let text = format!("Unknown combination of migration flags: {flags:#x}");
                    return Err(LoadError::invalid(text));
                }
            }
        }
    }

    fn list(&mut self, input: &mut Input, mut total: u64) -> Result<()> {
        let mut seen = vec![false; self.blocks.0.len()];
        while total > 0 {
            let name = input.text()?;
            let len = input.u64()?;
            let Some(index) = self.blocks.index(&name) else {
                return Err(LoadError::invalid(format!(
                    "Unknown ramblock \"{name}\", cannot accept migration"
                )));
            };
            let own = self.blocks.0[index].block.size();
            if len != own {
                return Err(LoadError::invalid(format!(
                    "Size mismatch: {name}: {len:#x} != {own:#x}: Invalid argument"
                )));
            }
            if std::mem::replace(&mut seen[index], true) {
                return Err(LoadError::invalid(format!("{name} is listed twice")));
            }
            let block = &self.blocks.0[index].block;
            let ignored = self.form.ignores(block);
            if self.form.ignore_shared {
                let (theirs, ours) = (input.u64()?, self.memory.address_of(block).unwrap_or(0));
                if ignored && theirs != ours {
                    let text = format!("Mismatched GPAs for block {name} {theirs:#x} != {ours:#x}");
                    return Err(LoadError::invalid(text));
                }
            }
            if self.form.mapped && ignored {
                Place::get_nowhere(input)?;
            } else if self.form.mapped {
                let place = Place::get(input, len)?;
                place.skip(input, len)?;
                self.places.push((index, place));
            }
            total = total
                .checked_sub(len)
                .ok_or_else(|| LoadError::invalid("the blocks are longer than all memory"))?;
        }
        Ok(())
    }

    fn block(&mut self, input: &mut Input, flags: u64) -> Result<usize> {
        if flags & ram::CONTINUE != 0 {
            return self.last.ok_or_else(|| LoadError::invalid("Ack, bad migration stream!"));
        }
        let name = input.text()?;
        let found = self.blocks.index(&name);
        self.last = found;
        found.ok_or_else(|| LoadError::invalid(format!("Can't find block {name}")))
    }

    /// Takes in a page of which each byte is the same; with one of zeroes, those of them that follow it in order and are here.
    fn filled(&mut self, input: &mut Input, index: usize, offset: u64) -> Result<()> {
        let byte = input.u8()?;
        let block = &self.blocks.0[index];
        block.check(offset)?;
        match &self.landing {
            Some(landing) if byte == 0 => landing.put(&block.name, offset, None),
            Some(landing) => landing.put(&block.name, offset, Some(&[byte; PAGE as usize])),
            None if byte != 0 => block.fill(offset, byte),
            None => {
                let mut end = offset + PAGE;
                let records = input.ready().chunks_exact(ram::ZERO_PAGE);
                let follow = |record: &&[u8]| {
                    let follows = end < block.block.size() && **record == ram::zero_page(end | ram::CONTINUE);
                    end += if follows { PAGE } else { 0 };
                    follows
                };
                let count = records.take_while(follow).count();
                input.skip(count * ram::ZERO_PAGE);
                block.check_all(offset..end)?;
                block.clear(offset..end)
            }
        }
    }

    /// Takes in a page, and those that follow it in order and in the form that a source sends memory in for the first time.
    fn page(&mut self, input: &mut Input, index: usize, offset: u64) -> Result<()> {
        let block = &self.blocks.0[index];
        block.check(offset)?;
        if let Some(landing) = &self.landing {
            let bytes: [u8; PAGE as usize] = input.array()?;
            return landing.put(&block.name, offset, Some(&bytes));
        }
        let head = |page| page | ram::PAGE | ram::CONTINUE;
        let (mut at, mut begun) = (offset, true);
        loop {
            // A page that came before is not to be lost to a wrong guess.
            let guess = self.guess as u64;
            let ahead = || block.fresh(at + if begun { PAGE } else { 0 }, guess) as usize;
            let mut wrong = false;
            let spoiled = |spoiled: Range<u64>| {
                wrong = true;
                for page in spoiled.step_by(PAGE as usize) {
                    block.note(page);
                    // It was written a moment ago.
                    let _ = block.block.write(page, &[0; PAGE as usize]);
                }
            };
            let count = input.pages(&block.block, at, begun, ahead, head, spoiled)?;
            (0..count).for_each(|page| block.note(at + page * PAGE));
            let follows = self.next == Some((index, at));
            at += count * PAGE;
            self.next = Some((index, at));
            // As many as came true of late: where zeroes lie between, guesses cost more than they save.
            if wrong || !follows {
                self.guess = 0;
            } else if count > 0 {
                self.guess = (self.guess * 2 + 1).min(AHEAD);
            }
            // With none, something else comes, or is in the buffer.
            if count == 0 || self.guess == 0 {
                return Ok(());
            }
            begun = false;
        }
    }
}
