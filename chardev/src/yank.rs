//! What has connections that can be given up (`yank`, `query-yank`).
//!
//! The commands run out of band: on any thread, also while the loop is busy. Functions that are registered here take only locks that
//! nobody waits with.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use qapi::commands::YankCommands;
use qapi::types::YankInstance;
use qapi::{Error, ErrorClass, Result};

type Function = Arc<dyn Fn() + Send + Sync>;

/// The instances of one virtual machine, in the order in which they were made.
#[derive(Default)]
pub struct YankInstances(Mutex<Table>);

#[derive(Default)]
struct Table {
    next: u64,
    entries: Vec<Entry>,
}

struct Entry {
    key: u64,
    instance: YankInstance,
    function: Function,
}

impl fmt::Debug for YankInstances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().entries.iter().map(|entry| &entry.instance)).finish()
    }
}

/// Keeps an instance listed.
#[must_use = "dropping it takes the instance off the list"]
#[derive(Debug)]
pub struct YankRegistration {
    instances: Weak<YankInstances>,
    key: u64,
}

impl Drop for YankRegistration {
    fn drop(&mut self) {
        let Some(instances) = self.instances.upgrade() else { return };
        let mut table = instances.lock();
        let gone: Vec<_> = table.entries.extract_if(.., |entry| entry.key == self.key).collect();
        drop(table);
        // What the function holds is dropped with no lock held.
        drop(gone);
    }
}

impl YankInstances {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Changed by whole insertions and removals only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists `instance`, whose connections `function` shuts down, from any thread and without waiting. It holds its subject weakly.
    pub fn register(
        self: &Arc<Self>,
        instance: YankInstance,
        function: impl Fn() + Send + Sync + 'static,
    ) -> YankRegistration {
        let mut table = self.lock();
        let key = table.next;
        table.next += 1;
        table.entries.push(Entry { key, instance, function: Arc::new(function) });
        YankRegistration { instances: Arc::downgrade(self), key }
    }

    fn functions(&self, instance: &YankInstance) -> Vec<Function> {
        let table = self.lock();
        let matching = table.entries.iter().filter(|entry| entry.instance == *instance);
        matching.map(|entry| Arc::clone(&entry.function)).collect()
    }
}

impl YankCommands for YankInstances {
    fn yank(&self, instances: Vec<YankInstance>) -> Result<()> {
        let functions: Vec<_> = instances.iter().map(|instance| self.functions(instance)).collect();
        if functions.iter().any(Vec::is_empty) {
            return Err(Error::new(ErrorClass::DeviceNotFound, "Instance not found"));
        }
        functions.iter().flatten().for_each(|function| function());
        Ok(())
    }

    fn query_yank(&self) -> Result<Vec<YankInstance>> {
        Ok(self.lock().entries.iter().map(|entry| entry.instance.clone()).collect())
    }
}

#[cfg(test)]
mod tests;
