//! Claims about what front ends are told.

use proptest::prelude::*;

use super::Sink;
use crate::CharEvent::{self, Closed, MuxIn, MuxOut, Opened};
use crate::tests::{Bench, Recorder};

#[derive(Debug, Clone)]
enum Step {
    Open(bool),
    Attach,
    Release(usize),
    FocusNext,
    Turn,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<bool>().prop_map(Step::Open),
        Just(Step::Attach),
        (0usize..4).prop_map(Step::Release),
        Just(Step::FocusNext),
        Just(Step::Turn),
    ]
}

/// The events of one kind must alternate, starting with `first` if that is given.
fn alternates(events: &[CharEvent], kinds: [CharEvent; 2], first: Option<CharEvent>) -> bool {
    let kept: Vec<_> = events.iter().filter(|event| kinds.contains(event)).collect();
    kept.windows(2).all(|pair| pair[0] != pair[1])
        && kept.first().is_none_or(|seen| first.is_none_or(|first| **seen == first))
}

#[test]
fn a_connection_replaced_between_two_turns_is_told_as_closed_and_opened() {
    let mut bench = Bench::new();
    let sink = Sink::new(bench.main.handle(), false);
    let front = Recorder::default();
    let port = sink.reserve(std::sync::Weak::new()).unwrap();
    sink.set_handler(port, Box::new(front.clone()));
    sink.set_open(true);
    bench.settle();
    sink.set_open(false);
    sink.set_open(true);
    bench.settle();
    assert_eq!(front.events(), [Opened, Closed, Opened]);
}

proptest! {
    #[test]
    fn every_front_end_hears_a_consistent_story(is_mux: bool, steps in proptest::collection::vec(step(), 0..40)) {
        let mut bench = Bench::new();
        let sink = Sink::new(bench.main.handle(), is_mux);
        let mut ports: Vec<(u64, Recorder)> = Vec::new();
        let mut all: Vec<Recorder> = Vec::new();
        for step in steps {
            match step {
                Step::Open(open) => sink.set_open(open),
                Step::Attach => if let Some(port) = sink.reserve(std::sync::Weak::new()) {
                    let front = Recorder::default();
                    sink.set_handler(port, Box::new(front.clone()));
                    all.push(front.clone());
                    ports.push((port, front));
                },
                Step::Release(at) => if at < ports.len() { sink.release(ports.remove(at).0) },
                Step::FocusNext => sink.focus_next(),
                Step::Turn => bench.settle(),
            }
        }
        bench.settle();
        for front in &all {
            let events = front.events();
            prop_assert!(alternates(&events, [Opened, Closed], Some(Opened)), "{events:?}");
            prop_assert!(alternates(&events, [MuxIn, MuxOut], None), "{events:?}");
            prop_assert!(!is_mux || events.first().is_none_or(|first| matches!(first, MuxIn | MuxOut)));
        }
        for (port, front) in &ports {
            let events = front.events();
            let last = |kinds: [CharEvent; 2]| events.iter().rev().find(|event| kinds.contains(event)).copied();
            prop_assert_eq!(last([Opened, Closed]) == Some(Opened), sink.is_open());
            prop_assert_eq!(last([MuxIn, MuxOut]) == Some(MuxIn), is_mux && sink.focus() == Some(*port));
        }
    }
}
