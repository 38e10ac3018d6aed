//! A guest whose VMM is a process that is started here.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::{Boot, Failure, Linux, command_line, emulated};
use crate::testbed::Images;
use crate::testbed::machine::Machine;
use crate::{Vm, VmBuilder, Wire};

/// The VMM, and what it was started with.
#[derive(Debug)]
pub struct Process {
    pub(super) vm: Vm,
    pub(super) vmm: PathBuf,
    boot: Boot,
}

impl Process {
    /// The start of such a machine.
    pub(super) fn builder(vmm: &Path, images: &Images, line: &str, boot: &Boot) -> VmBuilder {
        let kernel = images.kernel(line).display().to_string();
        let initrd = images.initrd(line).display().to_string();
        Vm::new()
            .program(vmm)
            .accel(if emulated() { "tcg" } else { "kvm" })
            .line(if emulated() { "-cpu max" } else { "-cpu host" })
            .line(&boot.options.join(" "))
            .args(["-kernel", &kernel, "-initrd", &initrd, "-append", &command_line(images, boot.append)])
            .qmp()
            .serial()
    }
}

impl Machine for Process {
    fn serial(&mut self) -> &mut Wire {
        self.vm.serial()
    }

    fn origin(&mut self) -> String {
        self.vm.command_line().join(" ")
    }

    fn last_words(&mut self) -> String {
        let mut text = self.vm.stderr();
        for command in ["info status", "info registers"] {
            let arguments = json!({ "command-line": command });
            let Ok(reply) = self.vm.qmp().try_execute("human-monitor-command", arguments) else { break };
            let said = reply.unwrap_or_else(|e| e);
            let said = said.as_str().map_or_else(|| said.to_string(), str::to_owned);
            for line in said.lines().take(12) {
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
        text
    }
}

impl Linux {
    /// Boots on a program, to the shell.
    ///
    /// # Errors
    ///
    /// What the console and the VMM said, if the shell is not reached.
    pub fn start_on(vmm: &Path, images: &Images, line: &str, boot: &Boot) -> Result<Self, Failure> {
        let started = Instant::now();
        let vm = Process::builder(vmm, images, line, boot).try_start().map_err(|exited| Failure {
            reason: format!(
                "the VMM ended at once: {:?} {:?}: {}",
                exited.code,
                exited.signal,
                exited.stderr.trim()
            ),
            console: exited.stderr.clone(),
        })?;
        Self::boots(Process { vm, vmm: vmm.to_owned(), boot: *boot }, images, line, started)
    }

    /// The VMM.
    pub fn vm(&mut self) -> &mut Vm {
        &mut self.machine.vm
    }

    /// Which machine this is.
    pub fn boot(&self) -> &Boot {
        &self.machine.boot
    }

    /// KiB that a line of `/proc/PID/status` says of the VMM.
    ///
    /// # Panics
    ///
    /// If the VMM is gone or there is no such line.
    pub fn vmm_kib(&mut self, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.machine.vm.pid().as_raw_nonzero()));
        let text = text.expect("the VMM runs");
        let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("a line of the kernel");
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
    }
}
