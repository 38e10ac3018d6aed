//! QEMU's own back end: `qemu-storage-daemon` that exports a file.

use std::env;
use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::wire::{patience, ready};
use crate::{Qmp, Wire};

/// A running daemon; it is killed and waited for when it is dropped.
#[derive(Debug)]
pub struct StorageDaemon {
    child: Killed,
    path: PathBuf,
    qmp: Qmp,
    queues: u16,
}

/// A process that does not outlive its test, however far that gets.
#[derive(Debug)]
struct Killed(Child);

impl Killed {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.end();
    }
}

impl StorageDaemon {
    /// The program on this machine.
    pub fn program() -> Option<PathBuf> {
        let path = env::var_os("PATH")?;
        env::split_paths(&path).map(|folder| folder.join("qemu-storage-daemon")).find(|path| path.is_file())
    }

    /// Exports a fresh file of so many bytes in `folder`, as node `disk`, with this many queues.
    ///
    /// # Panics
    ///
    /// If the daemon does not come up.
    pub fn start(folder: &Path, bytes: u64, queues: u16) -> Self {
        File::create(folder.join("disk")).and_then(|file| file.set_len(bytes)).expect("a fresh file");
        Self::start_again(folder, queues)
    }

    /// As [`StorageDaemon::start`], with the file that an earlier daemon has left.
    ///
    /// # Panics
    ///
    /// If the daemon does not come up.
    pub fn start_again(folder: &Path, queues: u16) -> Self {
        let (path, monitor) = (folder.join("daemon"), folder.join("daemon-qmp"));
        for left in [&path, &monitor] {
            let _ = fs::remove_file(left);
        }
        let listener = UnixListener::bind(&monitor).expect("a fresh folder");
        let mut command = Command::new(Self::program().expect("Need::StorageDaemon was asked for"));
        let mut option = |name: &str, value: String| {
            command.args([name, &value]);
        };
        option("--blockdev", format!("file,node-name=disk,filename={}", folder.join("disk").display()));
        let export = "vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix";
        option("--export", format!("{export},num-queues={queues},addr.path={}", path.display()));
        // Options are worked off in their order: once the monitor is there, so is the export.
        option("--chardev", format!("socket,id=monitor,path={}", monitor.display()));
        option("--monitor", "chardev=monitor".into());
        let child = Killed(command.stdin(Stdio::null()).spawn().expect("a program that is there"));
        let pidfd = pidfd_open(Pid::from_child(&child.0), PidfdFlags::empty())
            .expect("a child that was not waited for");
        let flags =
            ready(&[(&listener, PollFlags::IN), (&pidfd, PollFlags::IN)], Instant::now() + patience());
        assert!(!flags.expect("poll works")[0].is_empty(), "the storage daemon did not come up");
        let (stream, _) = listener.accept().expect("a connection is waiting");
        let mut qmp = Qmp::new(Wire::new(stream.into()));
        qmp.negotiate().expect("a monitor greets");
        Self { child, path, qmp, queues }
    }

    /// Kills it, and has another one in its place with the same file.
    ///
    /// # Panics
    ///
    /// If the other one does not come up.
    pub fn start_over(&mut self, folder: &Path) {
        let queues = self.queues;
        self.child.end();
        *self = Self::start_again(folder, queues);
    }

    /// Where it listens for the program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child.0)
    }

    /// Its monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }
}
