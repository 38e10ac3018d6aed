//! Which program is under test, and what this machine can run.
//!
//! `PLIANT_BIN` names the program; without it, it is `pliant` in the folder that cargo built this very test into (a test of
//! one package is not told where another package's binary is). A program whose name begins with `qemu-system` is taken to
//! be QEMU, and the harness then leaves out what Debian's build lacks (the `qtest` accelerator).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The name that programs under test are started by (`argv[0]`).
///
/// QEMU puts the last component of `argv[0]` before each of its messages, and so does pliant; under one name the messages of
/// both are equal to the oracle's byte for byte.
pub const ARGV0: &str = "qemu-system-x86_64";

/// What the program under test is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Our own program.
    Pliant,
    /// The original, to check the harness with.
    Qemu,
}

/// Something a test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// `/dev/kvm`, to be opened for reading and writing.
    Kvm,
    /// The real QEMU 10.0.2, whatever the program under test is.
    Qemu,
    /// `qemu-storage-daemon`, QEMU's own vhost-user back end.
    StorageDaemon,
    /// `qmp-shell`, QEMU's own client.
    QmpShell,
    /// `tmux`, whose windows show what a person sees.
    Tmux,
    /// `socat`, with which people sit at a console on a socket.
    Socat,
    /// libvirt's daemon and `virsh`, and the right to give them namespaces of their own.
    Libvirt,
    /// The recorded transcripts.
    Oracle,
    /// The accelerator `qtest` in the program under test.
    QtestAccel,
    /// Pliant as the program under test, because it is about something QEMU does not have or does worse.
    Pliant,
}

/// The path of the program under test.
///
/// # Panics
///
/// If it does not exist: build the workspace first, or set `PLIANT_BIN`.
pub fn path() -> PathBuf {
    let path = match env::var_os("PLIANT_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let this = env::current_exe().expect("the kernel knows what it runs");
            // target/debug/deps/e2e-0123 and target/debug/testbed -> target/debug/pliant
            let folder = this.ancestors().find(|a| a.ends_with("deps")).unwrap_or(&this).parent();
            folder.expect("a program is in a folder").join("pliant")
        }
    };
    assert!(path.is_file(), "{}: no such program; run `cargo build` or set PLIANT_BIN", path.display());
    path
}

/// What the program under test is, by its name.
pub fn peer() -> Peer {
    let name = path();
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("qemu-system") { Peer::Qemu } else { Peer::Pliant }
}

/// The folder with the oracle's transcripts (`PLIANT_ORACLE`, or `shared/oracle` beside the repository).
pub fn oracle_folder() -> PathBuf {
    if let Some(path) = env::var_os("PLIANT_ORACLE") {
        return PathBuf::from(path);
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository");
    // A work tree may lie one level deeper than a clone.
    let beside = repository.ancestors().skip(1).map(|a| a.join("shared/oracle")).find(|p| p.is_dir());
    beside.unwrap_or_else(|| repository.join("../shared/oracle"))
}

/// Whether the machine has what a test needs; otherwise the test says so and returns.
///
/// # Panics
///
/// With `CI=true`, if something is missing that CI must have: a test that did not run is not a test that passed.
///
/// ```no_run
/// # use tests::{Need, have};
/// if !have(&[Need::Kvm]) {
///     return;
/// }
/// ```
pub fn have(needs: &[Need]) -> bool {
    for &need in needs {
        let Some(reason) = missing(need) else { continue };
        // Running the suite against QEMU is a check of the harness, and leaves out what QEMU cannot do.
        let owed = !matches!(need, Need::QtestAccel | Need::Pliant);
        assert!(!(owed && env::var("CI").is_ok_and(|ci| ci == "true")), "CI must have it: {reason}");
        println!("SKIPPED: {reason}");
        eprintln!("SKIPPED: {reason}");
        return false;
    }
    true
}

/// Why a need is not met.
fn missing(need: Need) -> Option<String> {
    match need {
        Need::Kvm => {
            let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
            opened.err().map(|e| format!("/dev/kvm: {e}"))
        }
        Need::Qemu => {
            qemu().is_none().then(|| "no qemu-system-x86_64 in PATH (run tests/install-peers)".into())
        }
        Need::Libvirt => {
            let out =
                Command::new("unshare").args(["--net", "--pid", "--fork", "libvirtd", "--version"]).output();
            match out {
                Ok(out) if out.status.success() && in_path("virsh").is_some() => None,
                Ok(out) => Some(format!("no libvirt to be run: {}", String::from_utf8_lossy(&out.stderr))),
                Err(e) => Some(format!("unshare: {e}")),
            }
        }
        Need::StorageDaemon => crate::vhost_user::StorageDaemon::program()
            .is_none()
            .then(|| "no qemu-storage-daemon in PATH (run tests/install-peers)".into()),
        Need::QmpShell => qmp_shell().is_none().then(|| "no qmp-shell (run tests/install-peers)".into()),
        Need::Tmux | Need::Socat => {
            let name = if need == Need::Tmux { "tmux" } else { "socat" };
            in_path(name).is_none().then(|| format!("no {name} in PATH (run tests/install-peers)"))
        }
        Need::Oracle => {
            let folder = oracle_folder();
            (!folder.join("README.md").is_file()).then(|| format!("no oracle at {}", folder.display()))
        }
        Need::QtestAccel | Need::Pliant => {
            (peer() == Peer::Qemu).then(|| format!("not for QEMU: the test needs {need:?}"))
        }
    }
}

/// The real QEMU on this machine.
pub fn qemu() -> Option<PathBuf> {
    in_path(ARGV0)
}

/// A program on this machine.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|p| p.join(name)).find(|p| p.is_file())
}

/// `qmp-shell` where `tests/install-peers` puts it.
pub fn qmp_shell() -> Option<PathBuf> {
    let home = PathBuf::from(env::var_os("HOME")?);
    Some(home.join(".cache/pliant-peers/qemu.qmp/bin/qmp-shell")).filter(|path| path.is_file())
}
