//! What a migration takes along of a virtio-mem device: which blocks are plugged, before any memory comes, and the sizes.
//!
//! The first section decides where memory may arrive. It also names what must be the same on both sides, so that nothing of a machine that
//! is another one is ever written. `x-early-migration=off` changes its name: streams of one kind are refused by the other, as in QEMU.

use std::ops::Range;
use std::sync::Arc;

use memory::DiscardManager;
use vmstate::{
    Apply, Bits, Decoder, Encoder, Field as _, FieldShape, LoadError, Priority, Result, Saved, Section,
    Shape, StateShape, VmState as _, put_struct, vmstate,
};

use super::device::{Inner, OnOffAuto, VirtioMem};
use super::unit::Unit;
use crate::mem::memslots::Policy;
use crate::virtio::migration::{BackendState, Carrier, section};

/// Blocks of the largest device: 64 bits a word.
const MAX_WORDS: u64 = vmstate::MAX_ELEMENTS as u64;

vmstate! {
    /// What must be the same on both sides.
    pub struct Checks: "virtio-mem-device/sanity-checks", version 1 {
        /// Guest-physical address.
        addr: u64,
        /// Bytes.
        region_size: u64,
        /// Bytes.
        block_size: u64,
        /// NUMA node.
        node: u32,
        /// Whether the guest was told that unplugged memory cannot be accessed.
        unplugged_inaccessible: bool,
        /// The fixed number of parts; 0 if it is not fixed.
        memslots: u64,
    }
}

vmstate! {
    /// The sizes.
    pub struct Sizes: "virtio-mem-device", version 1 {
        /// Bytes in which the guest may plug.
        usable_region_size: u64,
        /// Bytes that the guest should have.
        requested_size: u64,
    }
}

impl Checks {
    fn of(inner: &Inner) -> Self {
        let config = &inner.config;
        let memslots = match config.parts {
            Some((Policy::WhileUsable, parts)) => parts.count,
            Some((Policy::WhilePlugged, _)) | None => 0,
        };
        Self {
            addr: config.memaddr,
            region_size: config.memdev.as_ref().map_or(0, |backend| backend.size()),
            block_size: config.effective_block_size(),
            node: config.node,
            unplugged_inaccessible: config.unplugged_inaccessible == OnOffAuto::On,
            memslots,
        }
    }

    /// Whether this device is what `theirs` says.
    fn check(&self, theirs: &Self) -> Result<()> {
        let changed = |name: &str, from: String, to: String| {
            if from == to {
                return Ok(());
            }
            Err(LoadError::invalid(format!("Property '{name}' changed from {from} to {to}")))
        };
        let hex = |value: u64| format!("{value:#x}");
        let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
        let Self { addr, region_size, block_size, node, unplugged_inaccessible, memslots } = self;
        changed("memaddr", hex(theirs.addr), hex(*addr))?;
        changed("size", hex(theirs.region_size), hex(*region_size))?;
        changed("block-size", hex(theirs.block_size), hex(*block_size))?;
        changed("node", theirs.node.to_string(), node.to_string())?;
        let inaccessible = (switch(theirs.unplugged_inaccessible), switch(*unplugged_inaccessible));
        changed("unplugged-inaccessible", inaccessible.0, inaccessible.1)?;
        changed("memslots", theirs.memslots.to_string(), memslots.to_string())
    }
}

/// Its two names.
fn name(early: bool) -> &'static str {
    if early { "virtio-mem-device-early" } else { "virtio-mem-device-plugged" }
}

fn shape(early: bool) -> StateShape {
    let field = |name, shape| FieldShape { name, shape, since: 0 };
    StateShape {
        name: name(early),
        version: 1,
        oldest: 1,
        fields: vec![
            field("tmp", Shape::Struct(Checks::declared())),
            field("size", u64::shape()),
            field("bitmap", Shape::List(Box::new(u64::shape()))),
        ],
        subsections: Vec::new(),
    }
}

impl BackendState for Sizes {
    const SECTION: &'static str = "virtio-mem";
}

/// Both sections.
pub(super) fn sections(device: &Arc<VirtioMem>, carrier: Carrier) -> Saved {
    let (from, to) = (Arc::clone(device), Arc::clone(device));
    let rest = section(carrier, move || sizes(&from), move |state| take_sizes(&to, &state));
    Saved::Sections(vec![plugged(device), rest])
}

/// The section that comes before memory.
fn plugged(device: &Arc<VirtioMem>) -> Section {
    let early = device.lock().config.early_migration;
    let (from, to) = (Arc::clone(device), Arc::clone(device));
    let save = move |out: &mut Encoder| save(&from.lock(), out);
    let read = move |input: &mut Decoder<'_>, _| read(&to, early, input);
    let shape: fn() -> StateShape = if early { || shape(true) } else { || shape(false) };
    Section::custom(shape, save, read).at(Priority::Early)
}

fn save(inner: &Inner, out: &mut Encoder) {
    let checks = Checks::of(inner);
    put_struct(&checks, "tmp", None, out);
    inner.size().put("size", out);
    let mut bits = Bits(vec![0; words(&checks) as usize]);
    if let Some(live) = &inner.live {
        live.unit.blocks().replay_populated(0..checks.region_size, |run| {
            for block in run.start / checks.block_size..run.end / checks.block_size {
                bits.0[(block / 64) as usize] |= 1 << (block % 64);
            }
        });
    }
    bits.put("bitmap", out);
}

fn words(checks: &Checks) -> u64 {
    checks.region_size.checked_div(checks.block_size).unwrap_or(0).div_ceil(64)
}

fn read(device: &Arc<VirtioMem>, early: bool, input: &mut Decoder<'_>) -> Result<Apply> {
    let ours = Checks::of(&device.lock());
    let theirs = Checks::get(input).and_then(|theirs| ours.check(&theirs));
    theirs.map_err(|error| error.in_field(name(early), "tmp"))?;
    let size = u64::get(input)?;
    let words = words(&ours).min(MAX_WORDS);
    let Bits(bits) = Bits::get_words(input, words as usize)?;
    let runs = runs(&bits, &ours);
    let plugged: u64 = runs.iter().map(|run| run.end - run.start).sum();
    let outside = runs.last().is_some_and(|run| run.end > ours.region_size);
    if plugged != size || outside {
        let text = format!("{size:#x} bytes are said to be plugged, and blocks of {plugged:#x} bytes are");
        return Err(LoadError::invalid(text).in_field(name(early), "bitmap"));
    }
    let device = Arc::clone(device);
    Ok(Box::new(move || {
        let mut inner = device.lock();
        let Some(live) = &mut inner.live else {
            return Err(LoadError::invalid("the device is not realized"));
        };
        let kept = live.devices.keeps_shared() && live.unit.block().is_shared_by_name();
        live.unit.arrive(&runs, kept)
    }))
}

/// Runs of plugged blocks, as bytes of the region.
fn runs(bits: &[u64], checks: &Checks) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (word, bits) in (0..).zip(bits) {
        let mut left = *bits;
        while left != 0 {
            let block = word * 64 + u64::from(left.trailing_zeros());
            left &= left - 1;
            // Words are as many as the region has blocks, so this stays below 2^64 but for the last word's rest.
            let start = block.saturating_mul(checks.block_size);
            let end = start.saturating_add(checks.block_size);
            match runs.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
        }
    }
    runs
}

/// The sizes, which come with the rest of the device.
fn sizes(device: &VirtioMem) -> Sizes {
    let inner = device.lock();
    let usable = inner.live.as_ref().map_or(0, |live| live.unit.usable());
    Sizes { usable_region_size: usable, requested_size: inner.config.requested }
}

/// Takes the sizes over.
fn take_sizes(device: &VirtioMem, sizes: &Sizes) -> Result<()> {
    let mut inner = device.lock();
    let Sizes { usable_region_size, requested_size } = *sizes;
    let region = inner.config.memdev.as_ref().map_or(0, |backend| backend.size());
    let block = inner.config.effective_block_size();
    let Some(live) = &mut inner.live else { return Err(LoadError::invalid("the device is not realized")) };
    let blocks: &DiscardManager = live.unit.blocks();
    if usable_region_size > region || !blocks.is_discarded(usable_region_size..region) {
        let text = format!("virtio-mem: a usable region of {usable_region_size:#x} bytes cannot be");
        return Err(LoadError::invalid(text));
    }
    if !requested_size.is_multiple_of(block) {
        return Err(LoadError::invalid(format!(
            "virtio-mem: a requested size of {requested_size:#x} cannot be"
        )));
    }
    live.unit.resume_sizes(requested_size, usable_region_size);
    inner.config.requested = requested_size;
    Ok(())
}

impl Unit {
    /// Has exactly `runs` plugged, whatever was before, and nothing in what is not, unless the memory is there already (`kept`).
    pub(super) fn arrive(&mut self, runs: &[Range<u64>], kept: bool) -> Result<()> {
        self.system_reset(false);
        if !kept {
            self.discard_rest();
        }
        for run in runs {
            if run.end > self.usable() {
                self.widen_usable(run.end);
            }
            if !self.plug_run(run) {
                return Err(LoadError::new(
                    vmstate::Errno::NoMemory,
                    "virtio-mem: plugged memory cannot be had",
                ));
            }
        }
        Ok(())
    }
}
