//! Hints of free pages (virtio 1.3 §5.5.6): while a migration asks, the guest sets free pages aside and says which, so that they are not sent.
//!
//! Each time it is asked under another number. It names the number, then pages, then that there are no more, and keeps them until it is told that it is done.
//! What is said under a number of before counts for nothing: such pages may have been written since.

use migration::FreePages;
use vmstate::vmstate;

use super::pages::leave_out;
use super::{VirtioBalloon, feature};
use crate::virtio::ring::Chain;
use crate::virtio::{Outcome, Violation};

/// Commands that are no numbers.
const STOP: u32 = 0;
const DONE: u32 = 1;
/// The lowest number.
const FIRST: u32 = 1 << 31;

vmstate! {
    /// What was asked last. There is nobody who goes on with it where it arrives.
    pub(in crate::virtio) struct HintState: "virtio-balloon-device/free-page-report", version 1 {
        free_page_hint_cmd_id: u32,
        /// QEMU's: 3 says that the guest may use its pages, any other that it keeps them.
        free_page_hint_status: u32,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Stopped,
    /// The guest was asked and has not named the number.
    Asked,
    /// What it names is free.
    Heard,
    Done,
}

/// What the guest was asked.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// The last number, 0 before the first.
    number: u32,
    phase: Phase,
}

impl Hints {
    /// What the configuration space shows.
    pub(super) fn command(&self) -> u32 {
        match self.phase {
            Phase::Asked => self.number,
            Phase::Stopped | Phase::Heard => STOP,
            Phase::Done => DONE,
        }
    }

    /// Gives whether the guest is to look at the configuration space.
    fn step(&mut self, step: FreePages) -> bool {
        let phase = match step {
            FreePages::Ask => {
                self.number = self.number.checked_add(1).unwrap_or(FIRST).max(FIRST);
                Phase::Asked
            }
            FreePages::Stop => Phase::Stopped,
            FreePages::Done => Phase::Done,
        };
        // Who was never asked need not be told that it is over.
        let changes = step == FreePages::Ask || (self.phase != phase && self.number != 0);
        if changes {
            self.phase = phase;
        }
        changes
    }

    /// The guest named a command. Only who began can end: another is late.
    fn named(&mut self, command: u32) {
        self.phase = match self.phase {
            Phase::Asked if command == self.number => Phase::Heard,
            Phase::Heard => Phase::Stopped,
            other => other,
        };
    }

    /// The driver starts anew.
    pub(super) fn forget(&mut self) {
        self.phase = Phase::Stopped;
    }

    pub(super) fn saved_state(&self) -> Option<HintState> {
        let status = match self.phase {
            Phase::Stopped => 0,
            Phase::Asked => 1,
            Phase::Heard => 2,
            Phase::Done => 3,
        };
        let saved = HintState { free_page_hint_cmd_id: self.number, free_page_hint_status: status };
        (self.number != 0).then_some(saved)
    }

    /// Any is taken: the guest keeps pages, or not.
    pub(super) fn load_state(&mut self, saved: Option<&HintState>) {
        let Some(HintState { free_page_hint_cmd_id, free_page_hint_status }) = saved else {
            *self = Self::default();
            return;
        };
        let phase = if *free_page_hint_status == 3 { Phase::Done } else { Phase::Stopped };
        *self = Self { number: *free_page_hint_cmd_id, phase };
    }
}

impl VirtioBalloon {
    /// Asks the guest for free pages, or ends that. Any thread.
    pub(crate) fn free_pages(&self, step: FreePages) {
        let changes = {
            let mut state = self.state();
            state.accepted & feature::FREE_PAGE_HINT != 0 && state.hints.step(step)
        };
        if changes {
            self.common.notifier.config_changed();
        }
    }

    /// A buffer of the queue of hints: a command, or pages.
    pub(super) fn hint(&self, buffer: &Chain<'_>) -> Result<Outcome, Violation> {
        let mut command = [0; 4];
        // Held to the end: nothing is left out once somebody has said `Stop`.
        let mut state = self.state();
        match buffer.read(&mut command) {
            0 => {}
            4 => state.hints.named(u32::from_le_bytes(command)),
            _ => return Err(Violation("received an incorrect cmd id".into())),
        }
        if let Some(machine) = state.machine.upgrade().filter(|_| state.hints.phase == Phase::Heard) {
            let pages = buffer.writable().iter();
            for range in pages.filter_map(|&(addr, len)| Some(addr..addr.checked_add(len.into())?)) {
                leave_out(machine.memory(), machine.system_space(), range);
            }
        }
        Ok(Outcome::Done(0))
    }
}

#[cfg(test)]
mod tests;
