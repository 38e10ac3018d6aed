//! Limits on how fast vCPUs write memory (`set-vcpu-dirty-limit`). Needs KVM with dirty rings. While there is a limit a thread has the rings
//! read ten times a second, and tells once a second how fast each vCPU was.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use memory::{DirtyClient, Memory};
use qapi::types::DirtyLimitInfo;
use qapi::{Error, Result};

use crate::dirty_rate::{VcpuWrites, rate, written};

const CLIENT: DirtyClient = DirtyClient::DirtyLimit;
const MIB: u64 = 1 << 20;
const BEAT: Duration = Duration::from_millis(100);
/// Beats between two looks at how fast vCPUs are.
const BEATS: u32 = 10;

/// The limits of one machine.
pub struct DirtyLimit {
    memory: Arc<Memory>,
    vcpus: Option<Arc<dyn VcpuWrites>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// MiB a second, by index.
    limits: BTreeMap<u32, u64>,
    /// MiB in the last second, by index.
    rates: BTreeMap<u32, u64>,
    /// Whether there is the thread.
    beats: bool,
    /// The program ends.
    over: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DirtyLimit {
    /// Of the guest with this memory. `vcpus` if there is something to be told of them.
    pub fn new(memory: Arc<Memory>, vcpus: Option<Arc<dyn VcpuWrites>>) -> Self {
        Self { memory, vcpus, shared: Arc::default() }
    }

    fn vcpus(&self) -> Option<&Arc<dyn VcpuWrites>> {
        self.vcpus.as_ref().filter(|vcpus| vcpus.ring_size() != 0)
    }

    /// The vCPUs that are meant.
    fn chosen(vcpus: &dyn VcpuWrites, cpu: Option<i64>) -> Result<Vec<u32>> {
        let all = vcpus.indices();
        let Some(cpu) = cpu else { return Ok(all) };
        match all.into_iter().find(|one| i64::from(*one) == cpu) {
            Some(cpu) => Ok(vec![cpu]),
            None => Err(Error::generic("incorrect cpu index specified")),
        }
    }

    /// `set-vcpu-dirty-limit`, MiB a second.
    ///
    /// # Errors
    /// QEMU's.
    pub fn set(&self, cpu: Option<i64>, limit: u64) -> Result<()> {
        let Some(vcpus) = self.vcpus() else {
            return Err(Error::generic(
                "dirty page limit feature requires KVM with accelerator property 'dirty-ring-size' set'",
            ));
        };
        let chosen = Self::chosen(&**vcpus, cpu)?;
        if limit == 0 {
            return self.cancel(cpu);
        }
        self.memory.start_global_dirty_log(CLIENT)?;
        let mut state = self.shared.state();
        for cpu in chosen {
            state.limits.insert(cpu, limit);
            vcpus.limit(cpu, Some(limit.saturating_mul(MIB)));
        }
        if !state.beats && !state.over {
            let (memory, vcpus, shared) =
                (Arc::clone(&self.memory), Arc::clone(vcpus), Arc::clone(&self.shared));
            let beat = move || {
                run(&memory, &*vcpus, &shared);
            };
            match thread::Builder::new().name("vcpu dirty limit".to_owned()).spawn(beat) {
                Ok(_) => state.beats = true,
                Err(error) => tracing::warn!(%error, "limits are kept where rings are full only"),
            }
        }
        Ok(())
    }

    /// `cancel-vcpu-dirty-limit`.
    ///
    /// # Errors
    /// QEMU's.
    pub fn cancel(&self, cpu: Option<i64>) -> Result<()> {
        let Some(vcpus) = self.vcpus() else { return Ok(()) };
        let mut chosen = Self::chosen(&**vcpus, cpu)?;
        let mut state = self.shared.state();
        if cpu.is_none() {
            // Those of vCPUs that are gone as well, which would have them again.
            chosen = state.limits.keys().copied().collect();
        }
        for cpu in chosen.into_iter().filter(|cpu| state.limits.remove(cpu).is_some()).collect::<Vec<_>>() {
            vcpus.limit(cpu, None);
        }
        if state.limits.is_empty() {
            // Before another limit begins it again.
            self.memory.stop_global_dirty_log(CLIENT);
            self.shared.changed.notify_all();
        }
        Ok(())
    }

    /// `query-vcpu-dirty-limit`.
    pub fn info(&self) -> Vec<DirtyLimitInfo> {
        let there = self.vcpus().map(|vcpus| vcpus.indices()).unwrap_or_default();
        let state = self.shared.state();
        let info = |(cpu, limit): (&u32, &u64)| DirtyLimitInfo {
            cpu_index: i64::from(*cpu),
            limit_rate: *limit,
            current_rate: state.rates.get(cpu).copied().unwrap_or(0),
        };
        state.limits.iter().filter(|(cpu, _)| there.contains(cpu)).map(info).collect()
    }

    /// Ends the thread.
    pub fn end(&self) {
        self.shared.state().over = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for DirtyLimit {
    fn drop(&mut self) {
        self.end();
    }
}

/// The thread.
fn run(memory: &Memory, vcpus: &dyn VcpuWrites, shared: &Shared) {
    let (mut before, mut start) = (vcpus.all_pages(), Instant::now());
    for beat in 1u32.. {
        let goes_on = |state: &mut State| !state.over && !state.limits.is_empty();
        let (mut state, _) = shared
            .changed
            .wait_timeout_while(shared.state(), BEAT, goes_on)
            .unwrap_or_else(PoisonError::into_inner);
        if !goes_on(&mut state) {
            state.beats = false;
            state.rates.clear();
            return;
        }
        drop(state);
        vcpus.pace();
        if beat.is_multiple_of(BEATS) {
            let (now, took) = (vcpus.all_pages(), start.elapsed());
            let rates = written(&now, &before).map(|(cpu, pages)| (cpu, rate(pages, took).unsigned_abs()));
            shared.state().rates = rates.collect();
            (before, start) = (now, Instant::now());
            forget(memory);
        }
    }
}

/// Nobody asks which pages it were.
fn forget(memory: &Memory) {
    for block in memory.ram_blocks() {
        if let Some(log) = block.dirty_log(CLIENT) {
            log.clean(0, block.max_size());
        }
    }
}

#[cfg(test)]
mod tests;
