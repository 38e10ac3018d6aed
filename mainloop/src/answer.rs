//! One value from one thread to another that waits for it. A channel of the standard library does the same with ten times the code for each
//! type.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

enum State<T> {
    Pending,
    Sent(T),
    /// The sender is gone without a word, or the value was taken.
    Gone,
}

struct Slot<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Assigned whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, last: State<T>) {
        let mut state = self.lock();
        if matches!(*state, State::Pending) {
            *state = last;
            // Else the receiver wakes up to wait for the lock.
            drop(state);
            self.changed.notify_one();
        }
    }
}

/// Gives the value. Dropping it ends the wait without one.
pub(crate) struct Sender<T>(Arc<Slot<T>>);

/// Waits for the value.
pub(crate) struct Receiver<T>(Arc<Slot<T>>);

/// Two ends of a way for one value.
pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Arc::new(Slot { state: Mutex::new(State::Pending), changed: Condvar::new() });
    (Sender(Arc::clone(&slot)), Receiver(slot))
}

impl<T> Sender<T> {
    /// Gives it.
    pub(crate) fn send(self, value: T) {
        self.0.finish(State::Sent(value));
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.finish(State::Gone);
    }
}

impl<T> Receiver<T> {
    /// Waits; nothing if the sender was dropped.
    pub(crate) fn receive(self) -> Option<T> {
        let mut state = self.0.lock();
        while matches!(*state, State::Pending) {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match std::mem::replace(&mut *state, State::Gone) {
            State::Sent(value) => Some(value),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_arrives_from_another_thread_and_a_sender_that_is_dropped_ends_the_wait() {
        let (sender, receiver) = channel();
        let thread = std::thread::spawn(move || sender.send("value"));
        assert_eq!(receiver.receive(), Some("value"));
        thread.join().unwrap();
        let (sender, receiver) = channel::<u8>();
        let thread = std::thread::spawn(move || drop(sender));
        assert_eq!(receiver.receive(), None);
        thread.join().unwrap();
    }

    #[test]
    fn a_value_that_nobody_waits_for_is_dropped() {
        let (sender, receiver) = channel();
        let value = Arc::new(());
        drop(receiver);
        sender.send(Arc::clone(&value));
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
