//! Threads that play vCPUs: they sleep inside until a signal comes.

use std::sync::atomic::AtomicU64;
use std::thread;

use super::*;
use crate::testing::until;

/// Passes through the gate until told to end, counting; inside it waits for its kick like `KVM_RUN` does.
fn vcpu(gate: &Arc<Gate>, end: &Arc<AtomicBool>, count: &Arc<AtomicU64>) -> thread::JoinHandle<()> {
    let (gate, end, count) = (Arc::clone(gate), Arc::clone(end), Arc::clone(count));
    thread::spawn(move || {
        let passage = gate.passage();
        while !end.load(Ordering::SeqCst) {
            gate.enter(&passage);
            count.fetch_add(1, Ordering::SeqCst);
            // A guest that runs for a while.
            for _ in 0..100 {
                std::hint::spin_loop();
            }
            gate.leave(&passage);
        }
        gate.forget(&passage);
    })
}

#[test]
fn nobody_is_inside_while_it_is_closed_and_everybody_goes_on_afterwards() {
    super::super::kick::install().unwrap();
    let gate = Arc::new(Gate::default());
    let end = Arc::new(AtomicBool::new(false));
    let counts: Vec<_> = (0..3).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let threads: Vec<_> = counts.iter().map(|count| vcpu(&gate, &end, count)).collect();
    let sum = || counts.iter().map(|count| count.load(Ordering::SeqCst)).collect::<Vec<_>>();
    until("through", || !sum().contains(&0));
    for _ in 0..200 {
        let closed = gate.close();
        let before = sum();
        thread::yield_now();
        assert_eq!(sum(), before);
        drop(closed);
        until("open", || sum().iter().zip(&before).any(|(now, then)| now != then));
    }
    end.store(true, Ordering::SeqCst);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // Nobody is left to wait for.
    drop(gate.close());
}
