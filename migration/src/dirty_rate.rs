//! How fast the guest writes memory (`calc-dirty-rate`). A thread measures; nobody waits for it.
//!
//! - *page-sampling*: checksums of pages at random, of blocks of at least 128 MiB, before and after. Nothing is made resident by it, and of
//!   sparse memory only what is populated is looked at.
//! - *dirty-bitmap*: pages that the dirty log of all memory found, as its client [`DirtyClient::DirtyRate`]. Devices count, too.
//! - *dirty-ring*: pages that KVM noted of each vCPU.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use memory::{DirtyBitmap, DirtyClient, Memory, RamBlock};
use qapi::types::{DirtyRateInfo, DirtyRateMeasureMode as Mode, DirtyRateStatus, DirtyRateVcpu, TimeUnit};
use qapi::{Enum as _, Error, Result};

const CLIENT: DirtyClient = DirtyClient::DirtyRate;
const PAGE: u64 = DirtyBitmap::page_size();
const MIB: u64 = 1 << 20;
/// Smaller blocks are not sampled.
const SAMPLED_FROM: u64 = 128 * MIB;
const SAMPLE_PAGES: u64 = 512;
/// Milliseconds.
const TIMES: std::ops::RangeInclusive<i64> = 50..=60_000;

/// What can be told of vCPUs that write. Any thread.
pub trait VcpuWrites: Send + Sync {
    /// The vCPUs that there are now.
    fn indices(&self) -> Vec<u32>;

    /// Entries of a vCPU's dirty ring; 0 without rings.
    fn ring_size(&self) -> u32;

    /// Pages that a vCPU wrote while memory was logged, up to the last sync; 0 without rings.
    fn pages(&self, cpu: u32) -> u64;

    /// The same of each that there is now.
    fn all_pages(&self) -> BTreeMap<u32, u64> {
        self.indices().into_iter().map(|cpu| (cpu, self.pages(cpu))).collect()
    }

    /// Limits how fast a vCPU writes, in bytes a second, or takes the limit.
    fn limit(&self, cpu: u32, limit: Option<u64>);

    /// Has vCPUs rest that wrote too much; called several times a second while there is a limit.
    fn pace(&self);
}

/// Measures, one at a time.
pub struct DirtyRate {
    memory: Arc<Memory>,
    vcpus: Option<Arc<dyn VcpuWrites>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    over: Condvar,
}

/// The last measurement.
struct State {
    status: DirtyRateStatus,
    mode: Mode,
    sample_pages: u64,
    /// Seconds since 1970.
    start: i64,
    /// Milliseconds.
    time: i64,
    rate: Rate,
    /// The program ends.
    over: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            status: DirtyRateStatus::Unstarted,
            mode: Mode::PageSampling,
            sample_pages: 0,
            start: 0,
            time: 0,
            rate: Rate::default(),
            over: false,
        }
    }
}

/// What was found, MiB a second.
#[derive(Default, PartialEq, Debug)]
struct Rate {
    all: i64,
    /// By index.
    vcpus: Option<BTreeMap<u32, i64>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `time`. Whether the program goes on.
    fn wait(&self, time: Duration) -> bool {
        let (state, _) = self
            .over
            .wait_timeout_while(self.state(), time, |state| !state.over)
            .unwrap_or_else(PoisonError::into_inner);
        !state.over
    }
}

impl DirtyRate {
    /// Of the guest with this memory. `vcpus` if there is something to be told of them.
    pub fn new(memory: Arc<Memory>, vcpus: Option<Arc<dyn VcpuWrites>>) -> Self {
        Self { memory, vcpus, shared: Arc::default() }
    }

    /// `calc-dirty-rate`.
    ///
    /// # Errors
    /// QEMU's.
    pub fn start(
        &self,
        time: i64,
        unit: Option<TimeUnit>,
        sample_pages: Option<i64>,
        mode: Option<Mode>,
    ) -> Result<()> {
        let mut state = self.shared.state();
        if state.status == DirtyRateStatus::Measuring {
            return Err(Error::generic("the dirty rate is already being measured."));
        }
        let time = match unit {
            Some(TimeUnit::Millisecond) => time,
            Some(TimeUnit::Second) | None => time.saturating_mul(1000),
        };
        if !TIMES.contains(&time) {
            return Err(Error::generic("Calculation time is out of range [50ms, 60000ms]."));
        }
        let mode = mode.unwrap_or(Mode::PageSampling);
        if sample_pages.is_some() && mode != Mode::PageSampling {
            return Err(Error::generic("sample-pages is used only in page-sampling mode"));
        }
        let samples = sample_pages.map_or(Some(SAMPLE_PAGES), |pages| u64::try_from(pages).ok());
        let Some(samples) = samples.filter(|pages| (128..=16384).contains(pages)) else {
            return Err(Error::generic("sample-pages is out of range[128, 16384]."));
        };
        let rings = self.vcpus.as_ref().is_some_and(|vcpus| vcpus.ring_size() != 0);
        let there = match mode {
            Mode::PageSampling => true,
            Mode::DirtyRing => rings,
            Mode::DirtyBitmap => !rings,
        };
        if !there {
            let mode = mode.as_str();
            return Err(Error::generic(format!("mode {mode} is not enabled, use other method instead.")));
        }
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (memory, vcpus) = (Arc::clone(&self.memory), self.vcpus.clone());
        let shared = Arc::clone(&self.shared);
        let wanted = Duration::from_millis(time.unsigned_abs());
        let measure = move || {
            let found = match mode {
                Mode::PageSampling => by_samples(&memory, samples, wanted, &shared),
                Mode::DirtyBitmap => by_log(&memory, wanted, &shared),
                Mode::DirtyRing => by_rings(&memory, vcpus.as_deref(), wanted, &shared),
            };
            let mut state = shared.state();
            match found {
                Ok((rate, took)) => {
                    state.status = DirtyRateStatus::Measured;
                    state.rate = rate;
                    if mode == Mode::PageSampling {
                        state.time = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
                    } else {
                        state.sample_pages = 0;
                    }
                }
                Err(error) => {
                    tracing::error!("the dirty rate cannot be measured: {}", error.desc());
                    state.status = DirtyRateStatus::Unstarted;
                }
            }
        };
        thread::Builder::new()
            .name("get_dirtyrate".to_owned())
            .spawn(measure)
            .map_err(|error| Error::generic(format!("the dirty rate cannot be measured: {error}")))?;
        *state = State {
            status: DirtyRateStatus::Measuring,
            mode,
            sample_pages: samples,
            start: i64::try_from(start).unwrap_or(i64::MAX),
            time,
            ..State::default()
        };
        Ok(())
    }

    /// `query-dirty-rate`.
    pub fn info(&self, unit: Option<TimeUnit>) -> DirtyRateInfo {
        let state = self.shared.state();
        let unit = unit.unwrap_or(TimeUnit::Second);
        let measured = state.status == DirtyRateStatus::Measured;
        let vcpus = state.rate.vcpus.as_ref().filter(|_| measured);
        let vcpu = |(id, rate): (&u32, &i64)| DirtyRateVcpu { id: i64::from(*id), dirty_rate: *rate };
        DirtyRateInfo {
            dirty_rate: measured.then_some(state.rate.all),
            status: state.status,
            start_time: state.start,
            calc_time: if unit == TimeUnit::Second { state.time / 1000 } else { state.time },
            calc_time_unit: unit,
            sample_pages: state.sample_pages,
            mode: state.mode,
            vcpu_dirty_rate: vcpus.map(|vcpus| vcpus.iter().map(vcpu).collect()),
        }
    }

    /// Ends what goes on.
    pub fn end(&self) {
        self.shared.state().over = true;
        self.shared.over.notify_all();
    }
}

impl Drop for DirtyRate {
    fn drop(&mut self) {
        self.end();
    }
}

/// MiB a second.
pub(crate) fn rate(pages: u64, time: Duration) -> i64 {
    let millis = time.as_millis().max(1);
    i64::try_from(u128::from(pages) * u128::from(PAGE) * 1000 / millis / u128::from(MIB)).unwrap_or(i64::MAX)
}

/// Pages that each vCPU wrote between two looks. One that came meanwhile began with none.
pub(crate) fn written(
    now: &BTreeMap<u32, u64>,
    before: &BTreeMap<u32, u64>,
) -> impl Iterator<Item = (u32, u64)> {
    now.iter().map(|(cpu, pages)| (*cpu, pages.saturating_sub(before.get(cpu).copied().unwrap_or(0))))
}

/// The program ends, and with it the measurement.
fn interrupted() -> Error {
    Error::generic("the program ends")
}

/// Logs all memory while it lives.
struct Logging<'a>(&'a Memory);

impl<'a> Logging<'a> {
    fn start(memory: &'a Memory) -> Result<Self> {
        memory.start_global_dirty_log(CLIENT)?;
        Ok(Self(memory))
    }
}

impl Drop for Logging<'_> {
    fn drop(&mut self) {
        self.0.stop_global_dirty_log(CLIENT);
    }
}

fn by_log(memory: &Memory, time: Duration, shared: &Shared) -> Result<(Rate, Duration)> {
    let logging = Logging::start(memory)?;
    let marked = |block: &RamBlock| block.dirty_log(CLIENT);
    for block in memory.ram_blocks() {
        if let Some(log) = marked(&block) {
            log.clean(0, block.max_size());
            memory.clear_dirty_log(&block, 0, block.max_size());
        }
    }
    let start = Instant::now();
    if !shared.wait(time) {
        return Err(interrupted());
    }
    memory.sync_dirty_log();
    let took = start.elapsed();
    let pages = memory.ram_blocks().iter().filter_map(|block| Some(marked(block)?.count())).sum();
    drop(logging);
    Ok((Rate { all: rate(pages, took), vcpus: None }, took))
}

fn by_rings(
    memory: &Memory,
    vcpus: Option<&dyn VcpuWrites>,
    time: Duration,
    shared: &Shared,
) -> Result<(Rate, Duration)> {
    let logging = Logging::start(memory)?;
    let pages = || vcpus.map_or_else(BTreeMap::new, VcpuWrites::all_pages);
    let (before, start) = (pages(), Instant::now());
    if !shared.wait(time) {
        return Err(interrupted());
    }
    memory.sync_dirty_log();
    let took = start.elapsed();
    let vcpus: BTreeMap<u32, i64> =
        written(&pages(), &before).map(|(cpu, pages)| (cpu, rate(pages, took))).collect();
    drop(logging);
    Ok((Rate { all: vcpus.values().sum(), vcpus: Some(vcpus) }, took))
}

/// Pages of a block that are compared.
struct Sample {
    /// It may be unplugged meanwhile.
    block: Weak<RamBlock>,
    /// Offsets and checksums.
    pages: Vec<(u64, u64)>,
    /// Bytes that they stand for.
    bytes: u64,
}

fn by_samples(memory: &Memory, per_gib: u64, time: Duration, shared: &Shared) -> Result<(Rate, Duration)> {
    let start = Instant::now();
    let samples: Vec<Sample> =
        memory.ram_blocks().iter().filter_map(|block| sample(block, per_gib)).collect();
    if !shared.wait(time) {
        return Err(interrupted());
    }
    let (mut looked, mut changed, mut bytes) = (0u64, 0u64, 0u64);
    for sample in &samples {
        let Some(block) = sample.block.upgrade() else { continue };
        let reader = block.reader();
        looked += sample.pages.len() as u64;
        changed += sample.pages.iter().filter(|(at, sum)| checksum(&reader, *at) != *sum).count() as u64;
        bytes += sample.bytes;
    }
    let took = start.elapsed();
    let pages = u128::from(bytes / PAGE) * u128::from(changed) / u128::from(looked.max(1));
    Ok((Rate { all: rate(u64::try_from(pages).unwrap_or(u64::MAX), took), vcpus: None }, took))
}

/// Pages at random; none of a block that is too small or is never written.
fn sample(block: &Arc<RamBlock>, per_gib: u64) -> Option<Sample> {
    let size = block.size();
    if size < SAMPLED_FROM || !block.is_writable() {
        return None;
    }
    let mut runs = Vec::new();
    match block.discard_manager() {
        None => runs.push(0..size),
        Some(manager) => manager.replay_populated(0..size, |run| runs.push(run)),
    }
    let bytes: u64 = runs.iter().map(|run| run.end - run.start).sum();
    let count = (u128::from(bytes) * u128::from(per_gib)) >> 30;
    let reader = block.reader();
    let mut random = Random::new(block.host_address() as u64);
    let pages = (0..count).filter_map(|_| {
        let mut at = random.below(bytes / PAGE) * PAGE;
        let run = runs.iter().find(|run| {
            let len = run.end - run.start;
            let here = at < len;
            at -= if here { 0 } else { len };
            here
        })?;
        let offset = run.start + at;
        Some((offset, checksum(&reader, offset)))
    });
    let pages: Vec<_> = pages.collect();
    (!pages.is_empty()).then(|| Sample { block: Arc::downgrade(block), pages, bytes })
}

/// Of a page; what cannot be read is like no page.
fn checksum(reader: &memory::BlockReader, offset: u64) -> u64 {
    let mut page = [0; PAGE as usize];
    // A page that nobody wrote is not touched either.
    let empty = reader.next_data(offset..offset + PAGE).is_empty();
    let readable = empty || reader.read(offset, &mut page).is_ok();
    let mut hasher = DefaultHasher::new();
    (readable, page).hash(&mut hasher);
    hasher.finish()
}

/// Numbers that need to be no better than spread (SplitMix64).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(seed ^ u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or(0))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % end.max(1)
    }
}

#[cfg(test)]
mod tests;
