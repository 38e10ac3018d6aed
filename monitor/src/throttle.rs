//! Rate limits of events: at most one a second of each kind and subject, the latest one wins.
//!
//! The first event passes at once and opens a window; later ones replace each other; when the window closes the
//! last one passes and opens the next window. Nothing pending closes it for good. (Behaviour of QEMU 10.0.2,
//! `../shared/oracle/4-device/event-throttle-*.txt`.)

use std::collections::HashMap;
use std::hash::Hash;

/// Length of a window in nanoseconds.
pub(crate) const WINDOW_NS: i64 = 1_000_000_000;

/// Windows by subject. Who calls keeps the time.
#[derive(Debug)]
pub(crate) struct Throttle<K, T> {
    windows: HashMap<K, Option<T>>,
}

impl<K: Eq + Hash + Clone, T> Throttle<K, T> {
    pub(crate) fn new() -> Self {
        Self { windows: HashMap::new() }
    }

    /// An event happened. Gives it back when it may pass now; the caller then calls [`Throttle::close`] after
    /// [`WINDOW_NS`].
    pub(crate) fn offer(&mut self, key: K, event: T) -> Option<T> {
        match self.windows.get_mut(&key) {
            Some(pending) => {
                *pending = Some(event);
                None
            }
            None => {
                self.windows.insert(key, None);
                Some(event)
            }
        }
    }

    /// An event passes whether or not a window is open; what waits is older, and forgotten. Says whether the caller has to call [`Throttle::close`] for it,
    /// as for one that was offered.
    pub(crate) fn overtake(&mut self, key: K) -> bool {
        self.windows.insert(key, None).is_none()
    }

    /// The window of `key` is over. Gives the event that waited, if one did; its passing opens the next window.
    pub(crate) fn close(&mut self, key: &K) -> Option<T> {
        let pending = self.windows.get_mut(key)?.take();
        if pending.is_none() {
            self.windows.remove(key);
        }
        pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_awaited_takes_the_place_of_what_waits() {
        let mut t = Throttle::<_, i32>::new();
        assert!(t.overtake("vm0"), "it opens a window");
        assert_eq!(t.offer("vm0", 1), None);
        assert!(!t.overtake("vm0"), "there is one");
        assert_eq!(t.close(&"vm0"), None);
        assert_eq!(t.offer("vm0", 2), Some(2));
    }

    #[test]
    fn the_first_passes_and_the_latest_follows() {
        let mut t = Throttle::new();
        assert_eq!(t.offer("vm0", 1), Some(1));
        assert_eq!(t.offer("vm0", 2), None);
        assert_eq!(t.offer("vm0", 3), None);
        assert_eq!(t.offer("vm1", 9), Some(9));
        assert_eq!(t.close(&"vm0"), Some(3));
        assert_eq!(t.offer("vm0", 4), None);
        assert_eq!(t.close(&"vm0"), Some(4));
        assert_eq!(t.close(&"vm0"), None);
        assert_eq!(t.offer("vm0", 5), Some(5));
    }

    #[test]
    fn a_quiet_subject_costs_nothing() {
        let mut t = Throttle::new();
        t.offer("vm0", 1);
        t.close(&"vm0");
        assert!(t.windows.is_empty());
        assert_eq!(t.close(&"vm0"), None);
    }
}
