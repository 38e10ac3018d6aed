//! All transports of a machine, for the moments in which it stops and goes on: what a driver announced before its vCPU stopped is
//! served before clients hear of the stop, and nothing after it; rings that are served elsewhere are served while it runs.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Transport;
use crate::core::Machine;

type List = Arc<Mutex<Vec<Weak<Transport>>>>;

/// A machine extension; see the module.
struct Transports(List);

/// Tells `transport` whenever `machine` stops and goes on, as long as it lives.
pub(in crate::virtio) fn follow_run_state(machine: &Machine, transport: &Arc<Transport>) {
    let transports = machine.extension(|| {
        let list = List::default();
        let stopped = Arc::clone(&list);
        machine.on_run_state(move |running, _| {
            living(&stopped).iter().for_each(|transport| transport.set_machine_running(running));
        });
        Transports(list)
    });
    let mut list = transports.0.lock().unwrap_or_else(PoisonError::into_inner);
    list.retain(|other| other.strong_count() > 0);
    list.push(Arc::downgrade(transport));
    drop(list);
    transport.turns.set_running(machine.is_running());
}

/// Those that are there, so that none is called with the list locked.
fn living(list: &List) -> Vec<Arc<Transport>> {
    list.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
}
