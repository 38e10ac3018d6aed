//! What users of a sparse block can rely on, over the public interface alone: each holds what is populated of its part after every
//! step, hears of nothing twice, in whole runs, and of a refusal as if it had not been asked. Mappings hear of what users agreed on, after
//! them, and of what goes before them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use crate::{DiscardListener, DiscardListenerId, DiscardManager};

use Call::{Discard, Populate};

const GRANULE: u64 = 4;
/// The last granule is half a one.
const SIZE: u64 = 20 * GRANULE + 2;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Populate(Range<u64>),
    Discard(Range<u64>),
}

/// A user that knows what it may touch, and fails when it is told nonsense.
#[derive(Default)]
struct User {
    /// Bytes it was told are populated.
    holds: Mutex<BTreeSet<u64>>,
    /// Refuses what holds this byte.
    refuses: Mutex<Option<u64>>,
    /// All calls to all users, in order, by the user's number.
    log: Arc<Mutex<Vec<(usize, Call)>>>,
    number: usize,
}

impl DiscardListener for User {
    fn populate(&self, range: Range<u64>) -> Result<(), String> {
        assert!(!range.is_empty());
        if self.refuses.lock().unwrap().is_some_and(|byte| range.contains(&byte)) {
            return Err(format!("user {} refuses", self.number));
        }
        for byte in range.clone() {
            assert!(self.holds.lock().unwrap().insert(byte), "{byte} is populated twice");
        }
        self.log.lock().unwrap().push((self.number, Populate(range)));
        Ok(())
    }

    fn discard(&self, range: Range<u64>) {
        assert!(!range.is_empty());
        for byte in range.clone() {
            assert!(self.holds.lock().unwrap().remove(&byte), "{byte} is discarded and was not populated");
        }
        self.log.lock().unwrap().push((self.number, Discard(range)));
    }
}

impl User {
    fn new(log: &Arc<Mutex<Vec<(usize, Call)>>>, number: usize) -> Arc<Self> {
        Arc::new(Self { log: Arc::clone(log), number, ..Self::default() })
    }

    fn refuse(&self, byte: Option<u64>) {
        *self.refuses.lock().unwrap() = byte;
    }
}

fn take(log: &Mutex<Vec<(usize, Call)>>) -> Vec<(usize, Call)> {
    std::mem::take(&mut log.lock().unwrap())
}

#[test]
fn each_section_hears_of_its_own_part_only_and_of_granules_that_its_edges_cut() {
    let manager = DiscardManager::new(SIZE, GRANULE);
    let log = Arc::default();
    // Two sections of one block, and one that shows all of it elsewhere.
    manager.register(0..10, User::new(&log, 0)).unwrap();
    manager.register(10..40, User::new(&log, 1)).unwrap();
    manager.register(0..SIZE, User::new(&log, 2)).unwrap();
    manager.populate(8..16).unwrap();
    assert_eq!(take(&log), [(0, Populate(8..10)), (1, Populate(10..16)), (2, Populate(8..16))]);
    manager.populate(80..82).unwrap();
    assert_eq!(take(&log), [(2, Populate(80..82))], "the last granule is smaller");
    manager.discard(0..SIZE).unwrap();
    let mut told = take(&log);
    told.sort_by_key(|(user, _)| *user);
    assert_eq!(told, [(0, Discard(8..10)), (1, Discard(10..16)), (2, Discard(8..16)), (2, Discard(80..82))]);
}

#[test]
fn only_what_changes_is_told_and_adjacent_granules_are_one_run() {
    let manager = DiscardManager::new(SIZE, GRANULE);
    let log = Arc::default();
    manager.register(0..SIZE, User::new(&log, 0)).unwrap();
    manager.populate(8..12).unwrap();
    manager.populate(16..20).unwrap();
    take(&log);
    manager.populate(0..32).unwrap();
    assert_eq!(take(&log), [(0, Populate(0..8)), (0, Populate(12..16)), (0, Populate(20..32))]);
    manager.populate(0..32).unwrap();
    assert!(take(&log).is_empty(), "populating again");
    manager.discard(12..24).unwrap();
    manager.discard(12..24).unwrap();
    manager.discard(40..48).unwrap();
    assert_eq!(take(&log), [(0, Discard(12..24))], "discarding again, and what never was populated");
    manager.populate(4..4).unwrap();
    manager.discard(4..4).unwrap();
    assert!(take(&log).is_empty());
    let (mut populated, mut discarded) = (Vec::new(), Vec::new());
    manager.replay_populated(2..30, |run| populated.push(run));
    manager.replay_discarded(2..30, |run| discarded.push((run.start, run.end)));
    assert_eq!(populated, [2..12, 24..30], "cut to what was asked for");
    assert_eq!(discarded, [(12, 24)]);
}

#[test]
fn a_late_user_that_refuses_a_run_is_not_registered_and_gives_the_ones_before_back() {
    let manager = DiscardManager::new(SIZE, GRANULE);
    for run in [0..8, 16..20, 40..48] {
        manager.populate(run).unwrap();
    }
    let log = Arc::default();
    let user = User::new(&log, 0);
    user.refuse(Some(41));
    let error = manager.register(4..SIZE, Arc::clone(&user) as _).unwrap_err();
    assert_eq!(error.to_string(), "user 0 refuses");
    assert_eq!(
        take(&log),
        [(0, Populate(4..8)), (0, Populate(16..20)), (0, Discard(16..20)), (0, Discard(4..8))]
    );
    manager.populate(8..16).unwrap();
    assert!(take(&log).is_empty(), "not registered");
    assert!(manager.is_populated(40..48), "what others use is not its business");
}

#[test]
fn a_refusal_reaches_those_who_agreed_backwards_and_nobody_after() {
    let manager = DiscardManager::new(SIZE, GRANULE);
    let log = Arc::default();
    let users = [0, 1, 2, 3].map(|number| User::new(&log, number));
    for (user, range) in users.iter().zip([0..SIZE, 0..20, 0..SIZE, 0..SIZE]) {
        manager.register(range, Arc::clone(user) as _).unwrap();
    }
    manager.populate(8..12).unwrap();
    take(&log);
    users[2].refuse(Some(20));
    assert_eq!(manager.populate(0..24).unwrap_err().to_string(), "user 2 refuses");
    let agreed = [
        (0, Populate(0..8)),
        (0, Populate(12..24)),
        (1, Populate(0..8)),
        (1, Populate(12..20)),
        (2, Populate(0..8)),
    ];
    let told = take(&log);
    assert_eq!(told[..5], agreed);
    let undone: Vec<_> = told[5..].iter().rev().cloned().collect();
    let mirrored = agreed.map(|(user, call)| match call {
        Populate(range) => (user, Discard(range)),
        Discard(range) => (user, Populate(range)),
    });
    assert_eq!(undone, mirrored);
    assert_eq!(manager.populated_bytes(), GRANULE);
    manager.populate(0..20).unwrap();
    users[2].refuse(None);
    manager.populate(20..24).unwrap();
}

#[test]
fn who_leaves_while_memory_is_plugged_gives_up_its_part_and_others_keep_theirs() {
    let manager = DiscardManager::new(SIZE, GRANULE);
    let log = Arc::default();
    let users = [0, 1].map(|number| User::new(&log, number));
    let register = |(range, user): (Range<u64>, &Arc<User>)| manager.register(range, Arc::clone(user) as _);
    let ids: Vec<DiscardListenerId> =
        [0..30, 20..SIZE].into_iter().zip(&users).map(|each| register(each).unwrap()).collect();
    manager.populate(12..28).unwrap();
    take(&log);
    manager.unregister(ids[0]);
    assert_eq!(take(&log), [(0, Discard(12..28))]);
    manager.unregister(ids[0]);
    manager.discard(12..24).unwrap();
    assert_eq!(take(&log), [(1, Discard(20..24))]);
    assert!(users[0].holds.lock().unwrap().is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Populate(Range<u64>),
    Discard(Range<u64>),
    /// User, part of the block. The last one is a mapping.
    Register(usize, Range<u64>),
    Unregister(usize),
    Refuse(usize, Option<u64>),
    Bad(Range<u64>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let granules = || {
        (0..21u64, 0..8u64)
            .prop_map(|(first, count)| (first * GRANULE).min(SIZE)..((first + count) * GRANULE).min(SIZE))
    };
    let bytes = || (0..SIZE, 1..SIZE).prop_map(|(start, len)| start..(start + len).min(SIZE));
    let step = prop_oneof![
        6 => granules().prop_map(Step::Populate),
        5 => granules().prop_map(Step::Discard),
        4 => (0..5usize, bytes()).prop_map(|(user, range)| Step::Register(user, range)),
        2 => (0..5usize).prop_map(Step::Unregister),
        3 => (0..4usize, proptest::option::of(0..SIZE)).prop_map(|(user, at)| Step::Refuse(user, at)),
        1 => (0..SIZE, 1..GRANULE).prop_map(|(at, len)| Step::Bad(at..at + len)),
    ];
    proptest::collection::vec(step, 1..80)
}

/// The user that is a mapping. It refuses nothing.
const MAPPING: usize = 4;

/// Maximal runs of a set of bytes.
fn runs(bytes: &BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for &byte in bytes {
        match runs.last_mut() {
            Some(run) if run.end == byte => run.end += 1,
            _ => runs.push(byte..byte + 1),
        }
    }
    runs
}

/// The naive model: bytes that are populated, and who registered for what in which order.
struct Model {
    manager: DiscardManager,
    log: Arc<Mutex<Vec<(usize, Call)>>>,
    users: Vec<Arc<User>>,
    registered: Vec<(usize, Range<u64>, DiscardListenerId)>,
    populated: BTreeSet<u64>,
}

impl Model {
    fn new() -> Self {
        let log = Arc::default();
        let users = (0..=MAPPING).map(|number| User::new(&log, number)).collect();
        let manager = DiscardManager::new(SIZE, GRANULE);
        Self { manager, log, users, registered: Vec::new(), populated: BTreeSet::new() }
    }

    /// What one user is told of bytes that change.
    fn told(&self, part: &Range<u64>, changed: &BTreeSet<u64>) -> Vec<Range<u64>> {
        runs(&changed.iter().copied().filter(|byte| part.contains(byte)).collect())
    }

    /// What users are asked before `range` is populated, and whether all agree; a refusal takes back.
    fn asked(&self, parts: &[(usize, Range<u64>)], changed: &BTreeSet<u64>) -> (Vec<(usize, Call)>, bool) {
        let mut calls = Vec::new();
        for (user, part) in parts {
            for run in self.told(part, changed) {
                if self.users[*user].refuses.lock().unwrap().is_some_and(|byte| run.contains(&byte)) {
                    let back = |(user, call): &(usize, Call)| match call {
                        Populate(run) | Discard(run) => (*user, Discard(run.clone())),
                    };
                    let undone: Vec<_> = calls.iter().rev().map(back).collect();
                    calls.extend(undone);
                    return (calls, false);
                }
                calls.push((*user, Populate(run)));
            }
        }
        (calls, true)
    }

    /// Who registered for what, in the order in which they came; the mapping is the last to hear that memory comes.
    fn parts(&self) -> Vec<(usize, Range<u64>)> {
        let mut parts: Vec<_> =
            self.registered.iter().map(|(user, range, _)| (*user, range.clone())).collect();
        parts.sort_by_key(|(user, _)| *user == MAPPING);
        parts
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Populate(range) => {
                let changed = range.clone().filter(|byte| !self.populated.contains(byte)).collect();
                let (calls, agreed) = self.asked(&self.parts(), &changed);
                assert_eq!(self.manager.populate(range).is_ok(), agreed);
                assert_eq!(take(&self.log), calls);
                if agreed {
                    self.populated.extend(changed);
                }
            }
            Step::Discard(range) => {
                let changed = range.clone().filter(|byte| self.populated.contains(byte)).collect();
                let calls = |(user, part): &(usize, Range<u64>)| {
                    self.told(part, &changed).into_iter().map(|run| (*user, Discard(run))).collect::<Vec<_>>()
                };
                let mut expected: Vec<_> = self.parts().iter().flat_map(calls).collect();
                self.manager.discard(range).unwrap();
                // Of several users any may be the first; each hears in ascending order, and the mapping before all of them.
                let mut heard = take(&self.log);
                assert!(heard.is_sorted_by_key(|(user, _)| *user != MAPPING), "{heard:?}");
                heard.sort_by_key(|(user, _)| *user);
                expected.sort_by_key(|(user, _)| *user);
                assert_eq!(heard, expected);
                self.populated.retain(|byte| !changed.contains(byte));
            }
            Step::Register(user, range) => {
                if self.registered.iter().any(|(other, ..)| *other == user) {
                    return;
                }
                let (calls, agreed) = self.asked(&[(user, range.clone())], &self.populated);
                let listener = Arc::clone(&self.users[user]) as _;
                let id = match user {
                    MAPPING => self.manager.register_mapping(range.clone(), listener),
                    _ => self.manager.register(range.clone(), listener),
                };
                assert_eq!(id.is_ok(), agreed);
                assert_eq!(take(&self.log), calls);
                self.registered.extend(id.ok().map(|id| (user, range, id)));
            }
            Step::Unregister(user) => {
                let Some(at) = self.registered.iter().position(|(other, ..)| *other == user) else { return };
                let (_, range, id) = self.registered.remove(at);
                self.manager.unregister(id);
                let calls: Vec<_> =
                    self.told(&range, &self.populated).into_iter().map(|run| (user, Discard(run))).collect();
                assert_eq!(take(&self.log), calls);
            }
            Step::Refuse(user, byte) => self.users[user].refuse(byte),
            Step::Bad(range) => {
                let whole = |at: u64| at.is_multiple_of(GRANULE) || at == SIZE;
                if range.end <= SIZE && whole(range.start) && whole(range.end) {
                    return;
                }
                assert!(self.manager.populate(range.clone()).is_err());
                assert!(self.manager.discard(range).is_err());
                assert!(take(&self.log).is_empty());
            }
        }
    }

    fn check(&self) {
        for (number, user) in self.users.iter().enumerate() {
            let part = self.registered.iter().find(|(other, ..)| *other == number).map(|(_, range, _)| range);
            let holds = self.populated.iter().filter(|byte| part.is_some_and(|part| part.contains(byte)));
            assert_eq!(*user.holds.lock().unwrap(), holds.copied().collect());
        }
        let (mut populated, mut discarded) = (Vec::new(), Vec::new());
        // There is nothing behind the last granule, which is smaller.
        self.manager.replay_populated(0..SIZE + GRANULE, |run| populated.push(run));
        self.manager.replay_discarded(0..SIZE + GRANULE, |run| discarded.push(run));
        assert_eq!(populated, runs(&self.populated));
        assert_eq!(discarded, runs(&(0..SIZE).filter(|byte| !self.populated.contains(byte)).collect()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn users_hold_what_is_populated_and_hear_each_change_once(steps in steps()) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
            model.check();
        }
    }
}
