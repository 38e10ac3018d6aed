//! `virtio-balloon` (virtio 1.3 §5.5): the guest does without pages, which go back to the host, until it is told to take them again.
//!
//! - [`pages`] gives them back; [`stats`] is what the guest tells of its memory; [`hints`] are free pages that a migration need not send.
//!
//! A machine has one balloon at most. While something pins guest memory, pages stay where they are, and the guest is not told.
//!
//! The queue of hints is served on the thread that the user names.

mod class;
mod hints;
mod migration;
mod pages;
mod stats;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use mainloop::{Clock, Timer};
use memory::DiscardClaim;
use qapi::events::Event;
use qapi::types::MemoryDeviceInfo;
use qapi::{Error, Result};
use qom::Class;
use vmstate::Saved;

use self::hints::Hints;
use self::pages::{PAGE, Partial, give_back, runs};
use self::stats::{REPORT, Stats};
use super::migration::Carrier;
use super::pci::PciBackend;
use super::ring::Chain;
use super::{Outcome, Violation, VirtioBackend, VirtioCommon, VirtioDevice, unpoisoned};
use crate::core::{Device, DeviceState, IoThread, Machine};
use crate::mem::MemoryDevices;

pub(super) use self::class::register;

const DEVICE_ID: u16 = 5;
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATS: u16 = 2;
/// The queues that are always there.
const ALWAYS: [u16; 3] = [128, 128, 128];
const HINT_SIZE: u16 = 1024;
const REPORTING_SIZE: u16 = 32;
/// Page numbers that are looked at in one go.
const GO: usize = 4096;

mod feature {
    pub(super) const STATS_VQ: u64 = 1 << 1;
    pub(super) const DEFLATE_ON_OOM: u64 = 1 << 2;
    pub(super) const FREE_PAGE_HINT: u64 = 1 << 3;
    pub(super) const PAGE_POISON: u64 = 1 << 4;
    pub(super) const REPORTING: u64 = 1 << 5;
}

/// Offsets in the configuration space.
mod config {
    pub(super) const ACTUAL: usize = 4;
    pub(super) const HINT_COMMAND: usize = 8;
    pub(super) const POISON: usize = 12;
    pub(super) const WHOLE: usize = 16;
}

#[derive(Debug, Clone, Copy)]
struct Config {
    deflate_on_oom: bool,
    free_page_hint: bool,
    page_poison: bool,
    free_page_reporting: bool,
    old_config_size: bool,
}

#[derive(Default)]
struct State {
    machine: Weak<Machine>,
    /// Pages the guest shall do without.
    wanted: u32,
    /// Pages it does without.
    actual: u32,
    /// What it fills free pages with.
    poison: u32,
    /// Whether the driver tells of it.
    accepted: u64,
    partial: Partial,
    hints: Hints,
    /// How far the first buffer of the inflating and of the deflating queue was looked at.
    done: [u64; 2],
    /// The queue that has to be served on, for `settle`.
    unfinished: Option<u16>,
    stats: Stats,
    /// Whether the buffer of the statistics queue was read, and waits until the next report is wanted.
    stats_held: bool,
    stats_wanted: bool,
    /// Seconds between reports; 0: none.
    interval: u32,
    poll: Option<Timer>,
}

/// The device, behind `virtio-bus`.
pub(crate) struct VirtioBalloon {
    common: VirtioCommon,
    me: Weak<Self>,
    config: Mutex<Config>,
    /// Who serves the queue of hints.
    iothread: Mutex<Option<Arc<IoThread>>>,
    queue_sizes: OnceLock<Vec<u16>>,
    state: Mutex<State>,
}
crate::device_object!(VirtioBalloon, common.dev);

/// The machine's balloon.
#[derive(Default)]
struct TheBalloon(Mutex<Weak<VirtioBalloon>>);

/// The balloon of `machine`, if it has one.
pub(crate) fn of(machine: &Machine) -> Option<Arc<VirtioBalloon>> {
    let balloon = machine.extension(TheBalloon::default);
    let found = unpoisoned(&balloon.0).upgrade();
    found.filter(|balloon| balloon.common.dev.is_realized())
}

/// Memory that a balloon works with: what the machine started with, and DIMMs.
fn ram_size(machine: &Machine) -> u64 {
    let dimm = |info| match info {
        MemoryDeviceInfo::Dimm(dimm) => dimm.data.size.max(0).cast_unsigned(),
        _ => 0,
    };
    machine.sizes().ram + MemoryDevices::of(machine).infos().into_iter().map(dimm).sum::<u64>()
}

impl VirtioBalloon {
    fn new(class: &Arc<Class>) -> Arc<Self> {
        let config = Config {
            deflate_on_oom: false,
            free_page_hint: false,
            page_poison: true,
            free_page_reporting: false,
            old_config_size: false,
        };
        Arc::new_cyclic(|me| Self {
            common: VirtioCommon::new(class),
            me: me.clone(),
            config: Mutex::new(config),
            iothread: Mutex::default(),
            queue_sizes: OnceLock::new(),
            state: Mutex::default(),
        })
    }

    fn settings(&self) -> MutexGuard<'_, Config> {
        unpoisoned(&self.config)
    }

    /// The queue of hints, if there is one. It comes before that of reports.
    fn hints(&self) -> Option<u16> {
        self.settings().free_page_hint.then_some(ALWAYS.len() as u16)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(&self.state)
    }

    /// Bytes that the guest has left.
    pub(crate) fn actual(&self, machine: &Machine) -> u64 {
        ram_size(machine).saturating_sub(u64::from(self.state().actual) * PAGE)
    }

    /// Asks the guest to keep `target` bytes, all of its memory at most.
    pub(crate) fn set_target(&self, machine: &Machine, target: u64) {
        let ram = ram_size(machine);
        let pages = (ram - target.min(ram)) / PAGE;
        self.state().wanted = u32::try_from(pages).unwrap_or(u32::MAX);
        trace::emit!(virtio_balloon_to_target, target, pages);
        self.common.notifier.config_changed();
    }

    /// Looks at page numbers of the guest: gives what they name back, or notes that it is used again.
    fn look_at(&self, queue: u16, buffer: &Chain<'_>) -> Outcome {
        let mut state = self.state();
        let at = usize::from(queue == DEFLATE);
        let mut bytes = vec![0; GO * 4];
        let count = buffer.read_at(state.done[at], &mut bytes);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
        let mut numbers: Vec<u32> = bytes[..count].chunks_exact(4).map(number).collect();
        if let Some(machine) = state.machine.upgrade() {
            if queue == DEFLATE {
                state.partial.forget();
            } else if !is_inhibited(&machine) {
                for run in runs(&mut numbers) {
                    give_back(machine.system_space(), run, Some(&mut state.partial));
                }
            }
        }
        if count == bytes.len() {
            state.done[at] += count as u64;
            state.unfinished = Some(queue);
            return Outcome::Later;
        }
        // What is counted of a larger page does not outlive the buffer, as its pieces come together.
        state.done[at] = 0;
        Outcome::Done(0)
    }

    /// Gives free pages back that the guest reports; it waits until it has the buffer again.
    fn report(&self, buffer: &Chain<'_>) {
        let (machine, poison) = {
            let state = self.state();
            (state.machine.upgrade(), state.poison)
        };
        // A page that comes back is zero, and the guest may expect something else in it.
        let Some(machine) = machine.filter(|machine| poison == 0 && !is_inhibited(machine)) else { return };
        for &(addr, len) in buffer.writable() {
            if let Some(end) = addr.checked_add(len.into()) {
                give_back(machine.system_space(), addr..end, None);
            }
        }
    }

    /// Reads a report of statistics, or gives the buffer back for the next one.
    fn statistics(&self, buffer: &Chain<'_>) -> Outcome {
        let mut state = self.state();
        if state.stats_held {
            if !std::mem::take(&mut state.stats_wanted) {
                return Outcome::Later;
            }
            state.stats_held = false;
            return Outcome::Done(0);
        }
        let mut bytes = [0; REPORT];
        let count = buffer.read(&mut bytes);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        state.stats = Stats::parse(&bytes[..count], now);
        (state.stats_held, state.stats_wanted) = (true, false);
        Outcome::Later
    }

    /// Has the guest asked for statistics in `interval` seconds, and then again and again.
    fn poll_in(&self, state: &mut State) {
        state.poll = None;
        let Some(machine) = state.machine.upgrade().filter(|_| state.interval > 0) else { return };
        let mainloop = machine.mainloop();
        let at = mainloop.now_ns(Clock::Virtual).saturating_add(i64::from(state.interval) * 1_000_000_000);
        let me = self.me.clone();
        state.poll = Some(mainloop.timer(Clock::Virtual, at, move || {
            let Some(device) = me.upgrade() else { return };
            {
                let mut state = device.state();
                state.stats_wanted = state.stats_held;
                device.poll_in(&mut state);
            }
            device.common.notifier.queue_ready(STATS);
        }));
    }

    fn set_interval(&self, value: i64) -> Result<()> {
        if value < 0 {
            return Err(Error::generic("timer value must be greater than zero"));
        }
        let Ok(value) = u32::try_from(value) else { return Err(Error::generic("timer value is too big")) };
        let mut state = self.state();
        state.interval = value;
        self.poll_in(&mut state);
        Ok(())
    }
}

/// Whether somebody cannot live with pages being given back.
fn is_inhibited(machine: &Machine) -> bool {
    let policy = machine.memory().discard_policy();
    policy.is_suspended()
        || policy.is_claimed(DiscardClaim::Disabled)
        || policy.is_claimed(DiscardClaim::UncoordinatedDisabled)
}

impl Device for VirtioBalloon {
    fn dev(&self) -> &DeviceState {
        &self.common.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let the = machine.extension(TheBalloon::default);
        let mut the = unpoisoned(&the.0);
        if the.upgrade().is_some() {
            return Err(Error::generic("Only one balloon device is supported"));
        }
        let Config { free_page_hint, free_page_reporting, .. } = *self.settings();
        if free_page_hint && unpoisoned(&self.iothread).is_none() {
            return Err(Error::generic("'free-page-hint' requires 'iothread' to be set"));
        }
        self.queue_sizes.get_or_init(|| {
            let hints = free_page_hint.then_some(HINT_SIZE);
            ALWAYS.into_iter().chain(hints).chain(free_page_reporting.then_some(REPORTING_SIZE)).collect()
        });
        *the = self.me.clone();
        let mut state = self.state();
        state.machine = Arc::downgrade(machine);
        self.poll_in(&mut state);
        Ok(())
    }

    fn unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        let the = machine.extension(TheBalloon::default);
        *unpoisoned(&the.0) = Weak::new();
        let poll = self.state().poll.take();
        drop(poll);
    }

    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }
}

impl VirtioBackend for VirtioBalloon {
    fn common(&self) -> &VirtioCommon {
        &self.common
    }

    fn saved_behind(self: Arc<Self>, carrier: Carrier) -> Saved {
        migration::saved(self, carrier)
    }

    fn feature_texts(&self) -> &'static [(u64, &'static str)] {
        &[
            (feature::REPORTING, "VIRTIO_BALLOON_F_REPORTING: Page reporting VQ enabled"),
            (feature::PAGE_POISON, "VIRTIO_BALLOON_F_PAGE_POISON: Guest page poisoning enabled"),
            (feature::FREE_PAGE_HINT, "VIRTIO_BALLOON_F_FREE_PAGE_HINT: VQ reporting free pages enabled"),
            (feature::DEFLATE_ON_OOM, "VIRTIO_BALLOON_F_DEFLATE_ON_OOM: Deflate balloon when guest OOM"),
            (feature::STATS_VQ, "VIRTIO_BALLOON_F_STATS_VQ: Guest memory stats VQ available"),
            (1, "VIRTIO_BALLOON_F_MUST_TELL_HOST: Tell host before reclaiming pages"),
        ]
    }
}

impl VirtioDevice for VirtioBalloon {
    fn name(&self) -> &'static str {
        "virtio-balloon"
    }

    fn device_id(&self) -> u16 {
        DEVICE_ID
    }

    fn queue_sizes(&self) -> &[u16] {
        self.queue_sizes.get().map_or(&[], Vec::as_slice)
    }

    fn iothread(&self, queue: u16) -> Option<Arc<IoThread>> {
        unpoisoned(&self.iothread).clone().filter(|_| self.hints() == Some(queue))
    }

    fn features(&self) -> u64 {
        let config = *self.settings();
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        feature::STATS_VQ
            | bit(config.deflate_on_oom, feature::DEFLATE_ON_OOM)
            | bit(config.free_page_hint, feature::FREE_PAGE_HINT)
            | bit(config.page_poison, feature::PAGE_POISON)
            | bit(config.free_page_reporting, feature::REPORTING)
    }

    fn config(&self) -> Vec<u8> {
        let settings = *self.settings();
        let state = self.state();
        let words = [state.wanted, state.actual, state.hints.command(), state.poison];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(match settings {
            Config { old_config_size: true, .. } | Config { page_poison: true, .. } => config::WHOLE,
            Config { free_page_hint: true, .. } => config::POISON,
            _ => config::HINT_COMMAND,
        });
        bytes
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        let mut bytes = self.config();
        for (at, byte) in (offset..).zip(data) {
            if let Some(place) = bytes.get_mut(at) {
                *place = *byte;
            }
        }
        let word = |at: usize| {
            let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        let (changed, machine) = {
            let mut state = self.state();
            let before = std::mem::replace(&mut state.actual, word(config::ACTUAL));
            let poisons = state.accepted & feature::PAGE_POISON != 0;
            state.poison = if poisons { word(config::POISON) } else { 0 };
            (before != state.actual, state.machine.upgrade())
        };
        if let Some(machine) = machine.filter(|_| changed) {
            let actual = self.actual(&machine).cast_signed();
            trace::emit!(virtio_balloon_set_config, actual, u64::from(word(config::ACTUAL)));
            machine.send(Event::BalloonChange { actual });
        }
    }

    fn started(&self, features: u64) {
        self.state().accepted = features;
    }

    fn serve(&self, queue: u16, buffer: &mut Chain<'_>) -> std::result::Result<Outcome, Violation> {
        Ok(match queue {
            INFLATE | DEFLATE => self.look_at(queue, buffer),
            STATS => self.statistics(buffer),
            _ if self.hints() == Some(queue) => return self.hint(buffer),
            _ => {
                self.report(buffer);
                Outcome::Done(0)
            }
        })
    }

    fn driver_reset(&self) {
        let mut state = self.state();
        (state.poison, state.accepted, state.done, state.unfinished) = (0, 0, [0; 2], None);
        (state.stats_held, state.stats_wanted) = (false, false);
        state.partial.forget();
        state.hints.forget();
    }

    fn settle(&self) {
        let unfinished = self.state().unfinished.take();
        if let Some(queue) = unfinished {
            self.common.notifier.queue_ready(queue);
        }
    }
}

impl PciBackend for VirtioBalloon {
    type Own = ();
    const HAS_LEGACY: bool = true;

    fn create(class: &Arc<Class>) -> Arc<Self> {
        Self::new(class)
    }

    fn default_vectors(&self, _machine: &Machine, (): &()) -> u32 {
        2
    }
}

#[cfg(test)]
mod tests;
