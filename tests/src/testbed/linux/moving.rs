//! A guest that changes its VMM: it leaves one process and goes on in another of the same command line.

use super::Linux;
use crate::Vm;

impl Linux {
    /// Another process with this machine's command line, which waits to be told where the guest comes from.
    ///
    /// # Panics
    ///
    /// If it ends at once.
    pub fn twin(&self) -> Vm {
        let builder = Self::builder(&self.vmm, &self.images, &self.line, &self.boot).line("-incoming defer");
        builder.try_start().unwrap_or_else(|exited| panic!("the other process ended at once: {exited:?}"))
    }

    /// The guest is in the other process from now on: this one ends, and what the guest said to it last comes before what it says there. Returns the process
    /// that ended, which still has its folder.
    ///
    /// # Panics
    ///
    /// If the process does not end well.
    pub fn is_now_in(&mut self, there: Vm) -> Vm {
        let mut here = std::mem::replace(&mut self.vm, there);
        // The answer may be lost with the connection.
        let _ = here.qmp().try_execute("quit", serde_json::json!({}));
        let said = here.serial().rest().unwrap_or_else(|e| panic!("the process that was left: {e}"));
        self.vm.serial().put_back(&said);
        let exited = here.wait_mut();
        assert_eq!((exited.code, exited.signal), (Some(0), None), "{}", exited.stderr);
        here
    }
}
