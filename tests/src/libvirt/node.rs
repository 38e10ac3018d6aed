//! What libvirt takes for a machine.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Instant;
use std::{fs, thread};

use super::Domain;
use super::host::{Holder, Host};
use crate::program;
use crate::wire::patience;

/// What a command of `virsh` said.
#[derive(Debug)]
pub struct Ran {
    /// Whether it succeeded.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Folders, a host name and a libvirtd.
#[derive(Debug)]
pub struct Node<'h> {
    host: &'h Host,
    keeper: Holder,
    folder: PathBuf,
}

/// Where libvirt looks, and the folder of a node that is there instead.
const PLACES: [(&str, &str); 5] = [
    ("run", "/run/libvirt"),
    ("lib", "/var/lib/libvirt"),
    ("cache", "/var/cache/libvirt"),
    ("log", "/var/log/libvirt"),
    ("etc", "/etc/libvirt"),
];

/// Processes that nobody confines, whose output goes into a file, as the requirement was measured; and pliant's accelerator where there is no other.
const QEMU_CONF: &str = r#"user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
dynamic_ownership = 0
remember_owner = 0
max_core = 0
dump_guest_core = 0
save_image_format = "raw"
dump_image_format = "raw"
"#;

/// A folder of devices instead of the machine's: all that libvirt and a guest need but KVM, and what `$more` makes in `$dev`.
const DEVICES: &str = "dev=$(mktemp -d)
mount -t tmpfs dev $dev
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx $dev
mkdir $dev/pts $dev/net
cp -a /dev/net/tun $dev/net
mount --bind /dev/pts $dev/pts
eval \"$more\"
mount --move $dev /dev
rmdir $dev";

impl<'h> Node<'h> {
    /// A node of that name with a running libvirtd.
    ///
    /// # Panics
    ///
    /// If libvirtd does not start.
    pub fn start(host: &'h Host, name: &str) -> Self {
        Self::start_with(host, name, "")
    }

    /// The same on a machine that has no KVM.
    ///
    /// # Panics
    ///
    /// If libvirtd does not start.
    pub fn start_without_kvm(host: &'h Host, name: &str) -> Self {
        Self::start_with(host, name, DEVICES)
    }

    /// The same on a machine that has KVM, and a `/dev/vhost-net` that libvirt can open and nobody use.
    ///
    /// # Panics
    ///
    /// If libvirtd does not start.
    pub fn start_with_vhost_net(host: &'h Host, name: &str) -> Self {
        let more = "more='cp -a /dev/kvm $dev; cp -a /dev/null $dev/vhost-net'";
        Self::start_with(host, name, &format!("{more}\n{DEVICES}"))
    }

    /// `script` changes what the node sees, in namespaces of its own.
    fn start_with(host: &'h Host, name: &str, script: &str) -> Self {
        let changes = script;
        let folder = host.path(name);
        let path = |part: &str| folder.join(part);
        for (part, _) in PLACES {
            fs::create_dir_all(path(part)).expect("a new folder");
        }
        for part in ["lib/qemu", "bin"] {
            fs::create_dir_all(path(part)).expect("a new folder");
        }
        fs::write(path("etc/qemu.conf"), QEMU_CONF).expect("a new file");
        let daemon = format!(
            "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_group = \"root\"\nhost_uuid = \"{}\"\n\
             log_filters = \"1:qemu.qemu_monitor 3:*\"\nlog_outputs = \"1:file:{}\"\n",
            uuid(),
            path("log/libvirtd.log").display(),
        );
        fs::write(path("etc/libvirtd.conf"), daemon).expect("a new file");
        let mut script = String::from("set -e\nmount --make-rprivate /\n");
        for (part, place) in PLACES {
            // Writing to a String cannot fail.
            let _ = writeln!(script, "mkdir -p {place}\nmount --bind {} {place}", path(part).display());
        }
        let _ = writeln!(script, "hostname {name}\n{changes}\nexec cat");
        let node = Self { host, keeper: Holder::start(host.keeper(&script)), folder };
        node.start_daemon();
        node
    }

    /// The host it is on.
    pub fn host(&self) -> &Host {
        self.host
    }

    /// Starts libvirtd, and returns when it listens and has found its domains again.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_daemon(&self) {
        let mut command = self.command();
        let script = "ulimit -c 0; PATH=$0:$PATH exec libvirtd -d -f /etc/libvirt/libvirtd.conf -p /run/libvirt/libvirtd.pid";
        let out = run(command.args(["sh", "-c", script, &self.path("bin")]));
        assert!(out.status.success(), "libvirtd: {out:?}");
        // Domains are found again on threads of their own; an answer about them waits for those.
        self.virsh(&["list", "--all"]);
    }

    /// Kills libvirtd with a signal (`TERM`, `KILL`) and waits for its end.
    ///
    /// # Panics
    ///
    /// If it does not end.
    pub fn kill_daemon(&self, signal: &str) {
        let script =
            "pid=$(cat /run/libvirt/libvirtd.pid); kill -$0 $pid && tail --pid=$pid -s 0.02 -f /dev/null";
        // Busybox's own shell would take its own `tail`, which does not wait for processes.
        let out = run(self.command().args(["bash", "-c", script, signal]));
        assert!(out.status.success(), "{out:?}");
    }

    /// The start of a command on this node.
    fn command(&self) -> Command {
        self.keeper.command(&[("mount", "mnt"), ("uts", "uts"), ("net", "net"), ("pid", "pid_for_children")])
    }

    /// Runs `virsh`, whatever comes of it.
    pub fn try_virsh(&self, args: &[&str]) -> Ran {
        let out = run(self.virsh_command().args(args));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { ok: out.status.success(), out: text(&out.stdout), err: text(&out.stderr) }
    }

    pub(super) fn virsh_command(&self) -> Command {
        // It need not be among the host's processes, and is then the one that is started here.
        let mut command = self.keeper.command(&[("mount", "mnt"), ("uts", "uts"), ("net", "net")]);
        // By line, also into a pipe.
        command.args(["stdbuf", "-oL", "virsh", "-q", "-c", "qemu:///system"]);
        command
    }

    /// Starts `virsh` and does not wait for its end.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start_virsh(&self, args: &[&str]) -> Child {
        self.virsh_command().args(args).spawn().expect("virsh runs")
    }

    /// How often libvirtd has told an emulator something with this text in it.
    pub fn said(&self, text: &str) -> usize {
        self.traffic(usize::MAX)
            .iter()
            .filter(|line| line.contains("SEND_MSG") && line.contains(text))
            .count()
    }

    /// Waits until it was more often than `times`.
    ///
    /// # Panics
    ///
    /// If it does not come to that.
    pub fn until_said(&self, text: &str, times: usize) {
        let until = Instant::now() + patience();
        while self.said(text) <= times {
            assert!(Instant::now() < until, "nobody said {text}");
        }
    }

    /// How many descriptors libvirtd has open.
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn daemon_descriptors(&self) -> usize {
        let script = "ls /proc/$(cat /run/libvirt/libvirtd.pid)/fd | wc -l";
        let out = run(self.command().args(["sh", "-c", script]));
        String::from_utf8_lossy(&out.stdout).trim().parse().expect("libvirtd runs")
    }

    /// Runs `virsh`, which has to succeed; what it wrote, without blank ends.
    ///
    /// # Panics
    ///
    /// If it fails: with what it said, and with the end of the domains' logs.
    #[track_caller]
    pub fn virsh(&self, args: &[&str]) -> String {
        let ran = self.try_virsh(args);
        assert!(ran.ok, "virsh {args:?}: {}\n{}", ran.err, self.domain_logs());
        ran.out.trim().to_owned()
    }

    /// Runs `virsh`, which has to fail; what it complained.
    ///
    /// # Panics
    ///
    /// If it succeeds.
    #[track_caller]
    pub fn virsh_fails(&self, args: &[&str]) -> String {
        let ran = self.try_virsh(args);
        assert!(!ran.ok, "virsh {args:?} succeeded: {}", ran.out);
        ran.err.trim().to_owned()
    }

    /// Asks again until the answer is as wanted.
    ///
    /// # Panics
    ///
    /// If it is not when the time is over.
    #[track_caller]
    pub fn until(&self, args: &[&str], wanted: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + patience();
        loop {
            let ran = self.try_virsh(args);
            if ran.ok && wanted(ran.out.trim()) {
                return ran.out.trim().to_owned();
            }
            assert!(Instant::now() < until, "virsh {args:?} still says {ran:?}\n{}", self.domain_logs());
            thread::yield_now();
        }
    }

    /// Defines a domain.
    ///
    /// # Panics
    ///
    /// If libvirt refuses it.
    #[track_caller]
    pub fn define(&self, domain: &Domain) {
        let file = self.file(&format!("{}.xml", domain.name()), &domain.xml());
        self.virsh(&["define", &file]);
    }

    /// Writes a file that libvirt can read; its path.
    ///
    /// # Panics
    ///
    /// If the disk is full.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, text).expect("room on the disk");
        path.to_str().expect("the path is text").to_owned()
    }

    /// The path of a file of the node's that need not be there.
    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("the path is text").to_owned()
    }

    /// Puts the program under test where libvirt looks for an emulator of this name, for libvirtds that are started from now on.
    ///
    /// # Panics
    ///
    /// If there is one.
    pub fn install_as(&self, name: &str) {
        std::os::unix::fs::symlink(program::path(), self.folder.join("bin").join(name)).expect("a new link");
    }

    /// The folder that is `/run/libvirt` there, and the others, by their names in the node's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lines of errors in libvirtd's log, without those that the machine and the test cause whatever the emulator is: there are no control groups, no table of hardware and no
    /// message bus, and clients are killed.
    pub fn errors(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.join("log/libvirtd.log")).expect("libvirtd has a log");
        let of_the_machine = [
            "udevGetDMIData",
            "dmidecode",
            "virGDBusGetSystemBus",
            "/sys/fs/cgroup/",
            "virCgroup",
            "virNetSocketReadWire",
        ];
        let errors = log.lines().filter(|line| line.contains(": error : "));
        errors
            .filter(|line| !of_the_machine.iter().any(|known| line.contains(known)))
            .map(str::to_owned)
            .collect()
    }

    /// The same without those that have one of these words.
    pub fn errors_but(&self, words: &[&str]) -> Vec<String> {
        self.errors().into_iter().filter(|line| !words.iter().any(|word| line.contains(word))).collect()
    }

    /// How the other nodes of the host reach its libvirtd.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.path("run/libvirt-sock"))
    }

    /// The last messages between libvirtd and emulators, each cut short.
    pub fn traffic(&self, last: usize) -> Vec<String> {
        let log = fs::read_to_string(self.folder.join("log/libvirtd.log")).unwrap_or_default();
        let word = |line: &str| {
            let time = line.get(11..23)?;
            let (_, rest) = line.split_once("QEMU_MONITOR_")?;
            let kind = rest.split(':').next()?;
            let kind = ["SEND_MSG", "RECV_EVENT", "RECV_REPLY"].into_iter().find(|k| *k == kind)?;
            let (_, text) = rest.split_once('{')?;
            Some(format!("{time} {kind} {{{}", text.chars().take(200).collect::<String>()))
        };
        let words: Vec<String> = log.lines().filter_map(word).collect();
        words[words.len().saturating_sub(last)..].to_vec()
    }

    /// What the emulator of a domain wrote, and how it was started.
    ///
    /// # Panics
    ///
    /// If it never was.
    pub fn domain_log(&self, name: &str) -> String {
        let path = self.folder.join("log/qemu").join(name).with_extension("log");
        fs::read_to_string(path).expect("it was started")
    }

    /// The ends of what the emulators wrote.
    pub fn domain_logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(self.folder.join("log/qemu")).into_iter().flatten().flatten() {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(8).collect();
            let _ = writeln!(text, "{}:", entry.path().display());
            lines.iter().rev().for_each(|line| {
                let _ = writeln!(text, "  {line}");
            });
        }
        text
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("errors of libvirtd:\n{}", self.errors().join("\n"));
            eprintln!("last words with the emulator:\n{}", self.traffic(60).join("\n"));
        }
    }
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// A new identity for a node: two that move domains to each other must differ.
fn uuid() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").expect("Linux has it").trim().to_owned()
}
