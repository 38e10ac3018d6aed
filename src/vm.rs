//! A virtual machine and everything that serves it: what the monitors' commands work on.

use std::sync::Arc;

use chardev::ChardevSet;
use chardev::fds::Fds;
use hw::commands::MachineHandlers;
use migration::Migration;
use monitor::{Backend, Conversation, Version};
use net::NetSet;
use qapi::Handlers;
use qom::Tree;

use crate::describe::Description;
use crate::log::Logging;

/// Version of QEMU whose names, numbers and texts are spoken.
const QEMU_VERSION: [u32; 3] = [10, 0, 2];

/// What greeting, `query-version` and `info version` say.
pub(crate) fn version() -> Version {
    Version { qemu: QEMU_VERSION, package: format!(" (pliant {})", env!("CARGO_PKG_VERSION")) }
}

/// The text of `-version`. Scripts look for QEMU's line, so it is the first.
pub(crate) fn version_text() -> String {
    let [major, minor, micro] = QEMU_VERSION;
    format!(
        "QEMU emulator version {major}.{minor}.{micro}{}\nThis is pliant, a program of its own that speaks QEMU's interface.\n",
        version().package
    )
}

/// The objects that implement the commands.
pub(crate) struct Vm {
    pub(crate) machine: MachineHandlers,
    pub(crate) tree: Arc<Tree>,
    pub(crate) command_line: Description,
    pub(crate) chardevs: Arc<ChardevSet>,
    pub(crate) net: Arc<NetSet>,
    pub(crate) migration: Arc<Migration>,
    pub(crate) logging: Logging,
}

impl Backend for Vm {
    fn handlers<'a>(&'a self, conversation: &'a dyn Conversation) -> Handlers<'a> {
        Handlers {
            session: conversation,
            fds: conversation,
            run_state: &self.machine,
            machine: &self.machine,
            qom: self.tree.as_ref(),
            qdev: &self.machine,
            chardev: self.chardevs.as_ref(),
            yank: self.chardevs.yank().as_ref(),
            net: self.net.as_ref(),
            pci: &self.machine,
            virtio: &self.machine,
            block: &self.machine,
            tpm: &self.machine,
            input: &self.machine,
            migration: self.migration.as_ref(),
            dump: &self.machine,
            inspect: &self.machine,
            command_line: &self.command_line,
            stats: &self.machine,
            machine_target: &self.machine,
            trace: &self.logging,
        }
    }

    fn fds(&self) -> &Fds {
        self.chardevs.fds()
    }
}
