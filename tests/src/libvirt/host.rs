//! Namespaces for processes and a network.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// What the first process of a host runs: it has `/sys` tell of its own network, answers what is said to it, buries who dies, and ends, and all others with it, when nobody can say anything
/// any more. A shell that only waits would leave the dead lying about, and libvirt would take them for alive.
const FIRST: &str = "mount -t sysfs sysfs /sys; while read -r line; do echo \"$line\"; done";

/// A process that keeps namespaces alive as long as this value lives.
#[derive(Debug)]
pub(super) struct Holder(Child);

impl Holder {
    /// Starts `command`, which has namespaces of its own and answers each line with itself; returns once it does.
    pub(super) fn start(mut command: Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdin = child.stdin.as_mut().expect("it is piped");
        stdin.write_all(b"ready\n").expect("it reads");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it answers");
        assert_eq!(line, "ready\n", "{command:?} has failed");
        Self(child)
    }

    /// A namespace of the holder's, or of its children's (`pid_for_children`).
    fn namespace(&self, name: &str) -> String {
        format!("/proc/{}/ns/{name}", self.0.id())
    }

    /// The start of a command in its namespaces. Each is `nsenter`'s name and the kernel's.
    pub(super) fn command(&self, namespaces: &[(&str, &str)]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(namespaces.iter().map(|(option, name)| format!("--{option}={}", self.namespace(name))));
        command.arg("--");
        command
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It ends when it hears no more.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Processes and a network apart, and a folder for them.
#[derive(Debug)]
pub struct Host {
    holder: Holder,
    folder: TempDir,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// Makes the namespaces.
    ///
    /// # Panics
    ///
    /// If this process may not (see [`crate::Need::Libvirt`]).
    pub fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", FIRST]);
        let host =
            Self { holder: Holder::start(command), folder: TempDir::new().expect("a folder for libvirt") };
        let up = host.command().args(["ip", "link", "set", "lo", "up"]).status().expect("nsenter runs");
        assert!(up.success(), "no loopback in a network of one's own");
        host
    }

    /// Where nodes, and whatever a test saves, are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path below the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The start of a command on this host.
    pub(super) fn command(&self) -> Command {
        self.holder.command(&[("mount", "mnt"), ("net", "net"), ("pid", "pid_for_children")])
    }

    /// Processes that run here, but for the first: their command lines.
    pub fn processes(&self) -> Vec<String> {
        let script = "for p in /proc/[0-9]*; do [ \"$p\" = /proc/1 ] || [ \"$p\" = \"/proc/$$\" ] || tr '\\0' ' ' <\"$p/cmdline\"; echo; done";
        let out = self.command().args(["sh", "-c", script]).output().expect("nsenter runs");
        let text = String::from_utf8_lossy(&out.stdout);
        // `tr` sees itself.
        text.lines().filter(|l| !l.is_empty() && !l.starts_with("tr ")).map(str::to_owned).collect()
    }

    /// The words of a command that keeps a node's namespaces: it is in this host's network, and its children are this host's processes.
    pub(super) fn keeper(&self, script: &str) -> Command {
        let inside = self.command();
        let args: Vec<OsString> = inside.get_args().map(OsString::from).collect();
        let mut command = Command::new("nsenter");
        // Without a fork, so that the process is the one whose number is known here.
        command.arg("--no-fork").args(args);
        command.args(["unshare", "--mount", "--uts", "bash", "-c", script]);
        command
    }
}
