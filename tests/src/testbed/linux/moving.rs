//! A guest that changes its VMM: it leaves one process and goes on in another of the same command line.

use serde_json::json;

use super::{Linux, Process};
use crate::Vm;

impl Linux {
    /// Another process with this machine's command line, which waits to be told where the guest comes from. Processors that came since this one was
    /// started come there as well.
    ///
    /// # Panics
    ///
    /// If it ends at once.
    pub fn twin(&mut self) -> Vm {
        let builder = Process::builder(&self.machine.vmm, &self.images, &self.line, self.boot())
            .line("-incoming defer");
        let there = builder.try_start();
        let mut there = there.unwrap_or_else(|exited| panic!("the other process ended at once: {exited:?}"));
        // A machine without such places answers with an error.
        let places = self.machine.vm.qmp().try_execute("query-hotpluggable-cpus", json!({}));
        let places = places.ok().and_then(Result::ok).unwrap_or_default();
        for place in places.as_array().into_iter().flatten() {
            let Some(id) =
                place["qom-path"].as_str().and_then(|path| path.strip_prefix("/machine/peripheral/"))
            else {
                continue;
            };
            let mut device = place["props"].clone();
            (device["driver"], device["id"]) = (place["type"].clone(), json!(id));
            there.qmp().ok("device_add", device);
        }
        there
    }

    /// The guest is in the other process from now on: this one ends, and what the guest said to it last comes before what it says there. Returns the process
    /// that ended, which still has its folder.
    ///
    /// # Panics
    ///
    /// If the process does not end well.
    pub fn is_now_in(&mut self, there: Vm) -> Vm {
        let mut here = std::mem::replace(&mut self.machine.vm, there);
        // The answer may be lost with the connection.
        let _ = here.qmp().try_execute("quit", json!({}));
        let said = here.serial().rest().unwrap_or_else(|e| panic!("the process that was left: {e}"));
        self.machine.vm.serial().put_back(&said);
        let exited = here.wait_mut();
        assert_eq!((exited.code, exited.signal), (Some(0), None), "{}", exited.stderr);
        here
    }
}
