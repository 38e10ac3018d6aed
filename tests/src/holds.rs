//! What a process holds: descriptors, threads, memory. To show that nothing is left behind.

use std::fs;
use std::time::Instant;

use serde_json::json;

use crate::Vm;
use crate::wire::patience;

/// Descriptors and threads of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holds {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

impl Holds {
    /// What it holds at this moment.
    ///
    /// # Panics
    ///
    /// If the process has ended.
    pub fn of(vm: &Vm) -> Self {
        let count = |what: &str| {
            fs::read_dir(format!("/proc/{}/{what}", vm.pid().as_raw_nonzero())).expect("it runs").count()
        };
        Self { descriptors: count("fd"), threads: count("task") }
    }

    /// That a process holds no more than this, once threads that were told to have ended.
    ///
    /// # Panics
    ///
    /// If it still does when the time is over.
    pub fn are_not_exceeded(self, vm: &mut Vm) {
        let until = Instant::now() + patience();
        loop {
            let now = Self::of(vm);
            if now.descriptors <= self.descriptors && now.threads <= self.threads {
                return;
            }
            assert!(Instant::now() < until, "{self:?}, and then {now:?}");
            vm.qmp().ok("query-status", json!({}));
        }
    }
}

/// Bytes of memory of a process, as a field of `/proc/PID/status` has them (`RssAnon`, `VmData`).
///
/// # Panics
///
/// If the process has ended, or there is no such field.
pub fn memory(vm: &Vm, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", vm.pid().as_raw_nonzero())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("no {field} in {status}")) << 10
}
