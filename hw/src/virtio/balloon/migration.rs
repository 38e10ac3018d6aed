//! What a migration takes along of a balloon. Pieces of a larger page are counted anew where it comes, so that this page stays, at worst;
//! how often statistics are asked for is the user's word there, as in QEMU.

use std::sync::Arc;

use vmstate::{Saved, vmstate};

use super::hints::HintState;
use super::stats::StatsState;
use super::{State, VirtioBalloon};
use crate::virtio::migration::{BackendState, Carrier, section};

vmstate! {
    /// The guest's and the user's wishes, and what was told.
    pub(in crate::virtio) struct BalloonState: "virtio-balloon-device", version 1 {
        num_pages: u32,
        actual: u32,
        poison_val: u32,
        guest_features: u64,
        /// How far the first buffer of the inflating and of the deflating queue was looked at.
        done: [u64; 2],
        stats: StatsState,
        stats_held: bool,
        stats_wanted: bool,
    }
    subsections {
        /// If the guest was ever asked for free pages.
        hints: HintState,
    }
}

impl BackendState for BalloonState {
    const SECTION: &'static str = "virtio-balloon";
}

pub(super) fn saved(balloon: Arc<VirtioBalloon>, carrier: Carrier) -> Saved {
    let loaded = Arc::clone(&balloon);
    let load = move |state: BalloonState| {
        loaded.load_state(&state);
        Ok(())
    };
    Saved::one(section(carrier, move || balloon.saved_state(), load))
}

impl VirtioBalloon {
    fn saved_state(&self) -> BalloonState {
        let state = self.state();
        let State {
            machine: _,
            wanted,
            actual,
            poison,
            accepted,
            partial: _,
            hints,
            done,
            // Told of before the machine stops: all queues are looked at.
            unfinished: _,
            stats,
            stats_held,
            stats_wanted,
            interval: _,
            poll: _,
        } = &*state;
        BalloonState {
            num_pages: *wanted,
            actual: *actual,
            poison_val: *poison,
            guest_features: *accepted,
            done: *done,
            stats: stats.saved_state(),
            stats_held: *stats_held,
            stats_wanted: *stats_wanted,
            hints: hints.saved_state(),
        }
    }

    /// The driver may write any of these, so that any is taken.
    fn load_state(&self, saved: &BalloonState) {
        let BalloonState {
            num_pages,
            actual,
            poison_val,
            guest_features,
            done,
            stats,
            stats_held,
            stats_wanted,
            hints,
        } = saved;
        let mut state = self.state();
        (state.wanted, state.actual, state.poison) = (*num_pages, *actual, *poison_val);
        (state.accepted, state.done) = (*guest_features, *done);
        state.stats.load_state(stats);
        (state.stats_held, state.stats_wanted) = (*stats_held, *stats_wanted);
        state.partial.forget();
        state.hints.load_state(hints.as_ref());
        // The guest's clock is another one than when this was asked for.
        self.poll_in(&mut state);
    }
}
