//! Random lives of virtio-mem devices, 10,000 of them, each step against a naive model.
//!
//! A life is a machine's memory with one to three devices in it and a sequence of steps: what a guest asks (sensible and
//! not), what the user and the machine do (resize, reset, freeze as a migration does, hot-plug), and what those who use the memory do:
//! listeners that come late, veto and leave, devices that map memory for DMA with a budget, back ends with few memory slots that
//! are lost and come back. After each step [`check`] compares all there is to see with [`naive`], which knows no bitmap, no
//! transaction and no roll-back: one `bool` and one byte a block, and plain arithmetic.
//!
//! | file | what |
//! | --- | --- |
//! | [`steps`] | shapes of devices, steps, and how they are drawn |
//! | [`device`] | a device in the model: what it answers on its own, what a guest asks it |
//! | [`naive`] | the model: what a step answers and changes |
//! | [`picture`] | what follows from the model's state: views, DMA maps, slots |
//! | [`world`] | the real memory and units, built as `realize` builds them, and how a step is carried out |
//! | [`users`] | listeners that record, and fail when they are told nonsense |
//! | [`host`] | what the kernel says about pages |
//! | [`check`] | the comparison |
//! | [`whole`] | a device in a machine, with a ring and properties, against the same model |
//!
//! `PLIANT_TEST_CASES` says how many lives, in percent: `PLIANT_TEST_CASES=2000 cargo test -p hw --lib virtio_mem::tests::model`.
//!
//! Left out: accesses of vCPUs (`accel::kvm` has a model of its own), migration of the state, threads.

mod check;
mod device;
mod host;
mod naive;
mod picture;
mod steps;
mod users;
mod whole;
mod world;

use proptest::prelude::*;

use super::super::protection::Protection;
use naive::Naive;
use steps::{Kind, Life, life};
use world::World;

/// Lives of each test below; the nine make 10,008.
const LIVES: u32 = 1112;

/// Cases of a test that has `usual` ones, or the share of them that is wanted.
fn lives(usual: u32) -> ProptestConfig {
    let share = std::env::var("PLIANT_TEST_CASES").map_or(100, |text| text.parse().expect("percent"));
    ProptestConfig::with_cases((usual * share).div_ceil(100))
}

/// Lives through one life.
fn live(life: &Life) {
    let (mut naive, mut world) = (Naive::new(life), World::new(life));
    for step in &life.steps {
        let act = naive.act(step);
        let before = naive.clone();
        world.forget();
        let answer = world.carry_out(&act);
        let story = naive.carry_out(&act);
        check::step(&act, &answer, &story, &before, &naive, &mut world);
    }
    // Whoever held memory too long would have this wait for ever: closing a block waits for copies to end.
    for act in naive.ending() {
        let before = naive.clone();
        world.forget();
        let answer = world.carry_out(&act);
        let story = naive.carry_out(&act);
        check::step(&act, &answer, &story, &before, &naive, &mut world);
    }
    world.end();
}

macro_rules! lives {
    ($($name:ident: $kind:ident, $protection:ident;)*) => {
        proptest! {
            #![proptest_config(lives(LIVES))]
            $(
                #[test]
                fn $name(life in life(Kind::$kind, Protection::$protection)) {
                    live(&life);
                }
            )*
        }
    };
}

lives! {
    memory_mapped_at_once_without_protection: Whole, Off;
    memory_mapped_at_once_protected_as_a_whole: Whole, Slot;
    memory_mapped_at_once_protected_by_blocks: Whole, Block;
    parts_mapped_while_usable_without_protection: Usable, Off;
    parts_mapped_while_usable_protected_by_slots: Usable, Slot;
    parts_mapped_while_usable_protected_by_blocks: Usable, Block;
    parts_mapped_while_plugged_without_protection: Plugged, Off;
    parts_mapped_while_plugged_protected_by_slots: Plugged, Slot;
    parts_mapped_while_plugged_protected_by_blocks: Plugged, Block;
}
