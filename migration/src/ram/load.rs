//! Taking memory in.
//!
//! Pages go where the stream says, if there is memory there: a block of that name and size, inside of it, and plugged. Zeroes are not
//! written where the host still has none of our pages, so that memory which was never touched on the other side takes none here.

use std::ops::Range;
use std::sync::Arc;

use memory::{BlockReader, Memory, RamBlock};
use vmstate::{LoadError, Result};

use super::blocks;
use super::mapped::Place;
use crate::wire::{Input, PAGE, ram};

/// What is looked at at once for memory that was never touched.
const LOOK: u64 = 64 << 20;

struct LoadBlock {
    block: Arc<RamBlock>,
    name: String,
    reader: BlockReader,
    /// A bit for each page that the stream brought something for.
    written: Vec<u64>,
    /// Pages that held nothing when they were looked at.
    hole: Range<u64>,
}

impl LoadBlock {
    fn new(block: Arc<RamBlock>) -> Self {
        let words = block.size().div_ceil(PAGE).div_ceil(64) as usize;
        let (name, reader) = (block.name(), block.reader());
        Self { block, name, reader, written: vec![0; words], hole: 0..0 }
    }

    fn note(&mut self, offset: u64) {
        let page = offset / PAGE;
        self.written[(page / 64) as usize] |= 1 << (page % 64);
    }

    fn was_written(&self, offset: u64) -> bool {
        let page = offset / PAGE;
        self.written[(page / 64) as usize] & (1 << (page % 64)) != 0
    }

    /// Whether the page is zero without anybody having to look.
    fn is_untouched(&mut self, offset: u64) -> bool {
        if self.was_written(offset) {
            return false;
        }
        if !self.hole.contains(&offset) {
            let end = self.block.size().min(offset + LOOK);
            self.hole = offset..self.reader.next_data(offset..end).start;
        }
        self.hole.contains(&offset)
    }

    /// Whether a page may be put there.
    fn check(&self, offset: u64) -> Result<()> {
        let inside = offset.checked_add(PAGE).is_some_and(|end| end <= self.block.size());
        let plugged = |manager: Arc<memory::DiscardManager>| {
            let start = offset - offset % manager.granularity();
            manager.is_populated(start..start + manager.granularity())
        };
        if inside && self.block.discard_manager().is_none_or(plugged) {
            return Ok(());
        }
        Err(LoadError::invalid(format!("Illegal RAM offset {offset:x}")))
    }
}

/// Takes in the memory of a machine.
pub struct Loader {
    blocks: Vec<LoadBlock>,
    last: Option<usize>,
    /// Whether pages are at places of their own in a file.
    mapped: bool,
    places: Vec<(usize, Place)>,
}

impl Loader {
    /// For the blocks of `memory`. `mapped`: pages are at places of their own in a file.
    pub fn new(memory: &Memory, mapped: bool) -> Self {
        let blocks = blocks(memory).into_iter().map(LoadBlock::new).collect();
        Self { blocks, last: None, mapped, places: Vec::new() }
    }

    /// Reads the pages that are at places of their own, now that it is known where memory is.
    ///
    /// # Errors
    /// The file is shorter, or there is no such memory.
    pub fn mapped_pages(&mut self, input: &Input) -> Result<()> {
        for (index, mut place) in std::mem::take(&mut self.places) {
            let block = &mut self.blocks[index];
            for run in place.runs(input, block.block.size())? {
                for page in run.clone().step_by(PAGE as usize) {
                    block.check(page)?;
                }
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
            match flags & !ram::CONTINUE {
                ram::BLOCKS => self.list(input, offset)?,
                ram::FILLED => {
                    let index = self.block(input, flags)?;
                    let byte = input.u8()?;
                    self.fill(index, offset, byte)?;
                }
                ram::PAGE => {
                    let index = self.block(input, flags)?;
                    self.page(input, index, offset)?;
                }
                ram::END => return Ok(()),
                _ => {
                    let text = format!("Unknown combination of migration flags: {flags:#x}");
                    return Err(LoadError::invalid(text));
                }
            }
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.blocks.iter().position(|block| block.name == name)
    }

    fn list(&mut self, input: &mut Input, mut total: u64) -> Result<()> {
        while total > 0 {
            let name = input.text()?;
            let len = input.u64()?;
            let Some(index) = self.find(&name) else {
                return Err(LoadError::invalid(format!(
                    "Unknown ramblock \"{name}\", cannot accept migration"
                )));
            };
            let own = self.blocks[index].block.size();
            if len != own {
                return Err(LoadError::invalid(format!(
                    "Size mismatch: {name}: {len:#x} != {own:#x}: Invalid argument"
                )));
            }
            if self.mapped {
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
        let found = self.find(&name);
        self.last = found;
        found.ok_or_else(|| LoadError::invalid(format!("Can't find block {name}")))
    }

    fn fill(&mut self, index: usize, offset: u64, byte: u8) -> Result<()> {
        let block = &mut self.blocks[index];
        block.check(offset)?;
        if byte == 0 && block.is_untouched(offset) {
            return Ok(());
        }
        block.note(offset);
        let written = block.block.write(offset, &[byte; PAGE as usize]);
        written.map_err(|_| LoadError::invalid(format!("Illegal RAM offset {offset:x}")))
    }

    fn page(&mut self, input: &mut Input, index: usize, offset: u64) -> Result<()> {
        let block = &mut self.blocks[index];
        block.check(offset)?;
        block.note(offset);
        if input.guest(&block.block, offset, PAGE)? {
            return Ok(());
        }
        Err(LoadError::invalid(format!("Illegal RAM offset {offset:x}")))
    }
}
