//! Starting the program under test in a folder of its own, and ending it.
//!
//! The harness listens on the sockets and the program connects to them as a client, so that nobody has to guess when a server is
//! up: the harness waits for the connection or for the program's end, whichever is first. Everything is in the machine's own
//! temporary folder; there are no ports. A machine that is dropped is killed and waited for.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tempfile::TempDir;

use crate::program::{self, ARGV0, Peer};
use crate::wire::{patience, ready};
use crate::{Hmp, Qmp, Qtest, Wire, words};

/// How a program ended and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exited {
    /// The exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it wrote to the standard output.
    pub stdout: String,
    /// What it wrote to the standard error.
    pub stderr: String,
}

/// What the standard input and output are connected to.
#[derive(Debug, Default)]
enum Stdio3 {
    /// Nothing to read, output to a file.
    #[default]
    Quiet,
    /// A terminal or a socket, for both.
    Fd(OwnedFd),
}

/// A command line in the making.
#[derive(Debug)]
pub struct VmBuilder {
    program: PathBuf,
    scratch: TempDir,
    /// Options that come before the test's own.
    base: Vec<String>,
    accel: Option<String>,
    args: Vec<String>,
    qmp: usize,
    hmp: bool,
    qtest: bool,
    serial: bool,
    stdio: Stdio3,
    env: Vec<(String, String)>,
}

impl VmBuilder {
    /// Options as a shell would split them; `$RUN` is the machine's own folder.
    #[must_use]
    pub fn line(self, line: &str) -> Self {
        self.args(words(line))
    }

    /// Options, one word each; `$RUN` is the machine's own folder.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let run = self.scratch.path().to_str().expect("temporary folders have plain names").to_owned();
        self.args.extend(args.into_iter().map(|arg| arg.into().replace("$RUN", &run)));
        self
    }

    /// The accelerator; without this call it is `qtest`, or for a QEMU that lacks it `tcg` with stopped vCPUs.
    #[must_use]
    pub fn accel(mut self, accel: &str) -> Self {
        self.accel = Some(accel.into());
        self
    }

    /// No options of the harness's own but monitors and their like: no `-accel`, `-nodefaults`, `-display`.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.base.clear();
        self.accel = Some(String::new());
        self
    }

    /// One more QMP monitor.
    #[must_use]
    pub fn qmp(mut self) -> Self {
        self.qmp += 1;
        self
    }

    /// The human monitor on a socket.
    #[must_use]
    pub fn hmp(mut self) -> Self {
        self.hmp = true;
        self
    }

    /// The qtest server (which works with any accelerator).
    #[must_use]
    pub fn qtest(mut self) -> Self {
        self.qtest = true;
        self
    }

    /// The first serial port on a socket.
    #[must_use]
    pub fn serial(mut self) -> Self {
        self.serial = true;
        self
    }

    /// Another program than the one under test, such as the real QEMU for a comparison.
    #[must_use]
    pub fn program(mut self, path: &Path) -> Self {
        self.program = path.to_owned();
        self
    }

    /// An environment variable for the program.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Connects standard input and output to a terminal's or socket's descriptor.
    #[must_use]
    pub fn stdio(mut self, fd: OwnedFd) -> Self {
        self.stdio = Stdio3::Fd(fd);
        self
    }

    /// The machine's own folder, to put files in before the start.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Starts the program and connects to what was asked for.
    ///
    /// # Panics
    ///
    /// If the program ends before everything is connected; the text is what it said.
    pub fn start(self) -> Vm {
        self.try_start().unwrap_or_else(|exited| panic!("the program ended: {exited:?}"))
    }

    /// Starts the program and connects to what was asked for.
    ///
    /// # Errors
    ///
    /// The program ended before everything was connected and negotiated.
    ///
    /// # Panics
    ///
    /// If the program neither connects nor ends in time.
    pub fn try_start(mut self) -> Result<Vm, Box<Exited>> {
        let names = self.monitor_names();
        let listeners: Vec<UnixListener> = names
            .iter()
            .map(|name| UnixListener::bind(self.scratch.path().join(name)).expect("a fresh folder"))
            .collect();
        let mut vm = self.spawn(&names);
        for (name, listener) in names.iter().zip(&listeners) {
            let Some(stream) = vm.accept(listener) else { return Err(Box::new(vm.wait())) };
            let wire = Wire::new(stream.into());
            match name.trim_end_matches(char::is_numeric) {
                "qmp" => vm.qmp.push(Qmp::new(wire)),
                "hmp" => vm.hmp = Some(Hmp::new(wire)),
                "qtest" => vm.qtest = Some(Qtest::new(wire)),
                _ => vm.serial = Some(wire),
            }
        }
        match vm.greet() {
            Ok(()) => Ok(vm),
            // The connections are made before the machine is, so that a later mistake closes them.
            Err(crate::WireError::Closed { .. } | crate::WireError::Io { .. }) => Err(Box::new(vm.wait())),
            Err(e) => panic!("{e}; stderr: {}", vm.stderr()),
        }
    }

    /// Runs the program to its end, with nothing to read.
    ///
    /// # Panics
    ///
    /// If it does not end in time.
    pub fn run(mut self) -> Exited {
        let names = self.monitor_names();
        assert!(names.is_empty(), "a program that ends has nobody to talk to");
        self.spawn(&names).wait()
    }

    /// Starts the program without connecting to anything.
    pub fn spawn_only(mut self) -> Vm {
        self.spawn(&[])
    }

    fn monitor_names(&self) -> Vec<String> {
        let mut names: Vec<String> = (0..self.qmp).map(|n| format!("qmp{n}")).collect();
        names.extend(self.hmp.then(|| "hmp".to_owned()));
        names.extend(self.qtest.then(|| "qtest".to_owned()));
        names.extend(self.serial.then(|| "serial".to_owned()));
        names
    }

    /// The whole command line.
    fn command_line(&self, names: &[String]) -> Vec<String> {
        let mut line = Vec::new();
        match self.accel.as_deref() {
            Some("") => {}
            Some(accel) => line.extend(["-accel".to_owned(), accel.to_owned()]),
            None => line.extend(default_accel().iter().map(|&s| s.to_owned())),
        }
        line.extend(self.base.iter().cloned());
        line.extend(self.args.iter().cloned());
        for name in names {
            let path = self.scratch.path().join(name);
            let path = path.display();
            match name.trim_end_matches(char::is_numeric) {
                "qmp" => {
                    line.extend(words(&format!("-chardev socket,id=harness-{name},path={path}")));
                    line.extend(words(&format!("-mon chardev=harness-{name},mode=control")));
                }
                "hmp" => {
                    line.extend(words(&format!("-chardev socket,id=harness-{name},path={path}")));
                    line.extend(words(&format!("-mon chardev=harness-{name},mode=readline")));
                }
                "qtest" => line.extend(words(&format!("-qtest unix:{path} -qtest-log none"))),
                _ => line.extend(words(&format!("-serial unix:{path}"))),
            }
        }
        line
    }

    fn spawn(&mut self, names: &[String]) -> Vm {
        let (program, line) = (self.program.clone(), self.command_line(names));
        let file = |name: &str| File::create(self.scratch.path().join(name)).expect("a fresh folder");
        let mut command = Command::new(&program);
        command
            .arg0(ARGV0)
            .args(&line)
            .current_dir(self.scratch.path())
            .stderr(file("stderr"))
            // What is typed in a test is nobody's history.
            .env("XDG_STATE_HOME", self.scratch.path().join("state"))
            .envs(self.env.iter().cloned());
        match std::mem::take(&mut self.stdio) {
            Stdio3::Quiet => command.stdin(Stdio::null()).stdout(file("stdout")),
            Stdio3::Fd(fd) => {
                let twin = fd.try_clone().expect("descriptors are left");
                command.stdin(twin).stdout(fd)
            }
        };
        let child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a child that was not waited for exists");
        let scratch = std::mem::replace(&mut self.scratch, tempfile::tempdir().expect("a temporary folder"));
        Vm {
            child,
            pidfd,
            scratch,
            line,
            status: None,
            qmp: Vec::new(),
            hmp: None,
            qtest: None,
            serial: None,
        }
    }
}

/// The options that stand for "no vCPU runs guest code".
pub fn default_accel() -> &'static [&'static str] {
    match program::peer() {
        Peer::Pliant => &["-accel", "qtest"],
        Peer::Qemu => &["-accel", "tcg", "-S"],
    }
}

/// A running program.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    pidfd: OwnedFd,
    scratch: TempDir,
    line: Vec<String>,
    status: Option<ExitStatus>,
    qmp: Vec<Qmp>,
    hmp: Option<Hmp>,
    qtest: Option<Qtest>,
    serial: Option<Wire>,
}

impl Vm {
    /// A machine with the options of all the oracle's recordings: no default devices, no display, no vCPU that runs.
    #[expect(clippy::new_ret_no_self, reason = "a machine exists when it is started")]
    pub fn new() -> VmBuilder {
        VmBuilder {
            program: program::path(),
            scratch: tempfile::Builder::new().prefix("pliant-test-").tempdir().expect("a temporary folder"),
            base: words("-nodefaults -no-user-config -display none"),
            accel: None,
            args: Vec::new(),
            qmp: 0,
            hmp: false,
            qtest: false,
            serial: false,
            stdio: Stdio3::default(),
            env: Vec::new(),
        }
    }

    /// The first QMP monitor.
    ///
    /// # Panics
    ///
    /// If none was asked for.
    pub fn qmp(&mut self) -> &mut Qmp {
        self.qmp_at(0)
    }

    /// The n-th QMP monitor.
    ///
    /// # Panics
    ///
    /// If so many were not asked for.
    pub fn qmp_at(&mut self, n: usize) -> &mut Qmp {
        self.qmp.get_mut(n).expect("a QMP monitor for each call of VmBuilder::qmp")
    }

    /// The human monitor.
    ///
    /// # Panics
    ///
    /// If it was not asked for.
    pub fn hmp(&mut self) -> &mut Hmp {
        self.hmp.as_mut().expect("VmBuilder::hmp was called")
    }

    /// The qtest server.
    ///
    /// # Panics
    ///
    /// If it was not asked for.
    pub fn qtest(&mut self) -> &mut Qtest {
        self.qtest.as_mut().expect("VmBuilder::qtest was called")
    }

    /// The first serial port.
    ///
    /// # Panics
    ///
    /// If it was not asked for.
    pub fn serial(&mut self) -> &mut Wire {
        self.serial.as_mut().expect("VmBuilder::serial was called")
    }

    /// The machine's own folder.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The options it was started with.
    pub fn command_line(&self) -> &[String] {
        &self.line
    }

    /// The process, to read its `/proc` files or to send it signals.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // A process that ended is a zombie until we wait for it, so that the number is still its own.
        let _ = kill_process(self.pid(), signal);
    }

    /// What it wrote to the standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.scratch.path().join("stderr"))
    }

    /// What it wrote to the standard output so far (unless that is a terminal).
    pub fn stdout(&self) -> String {
        read(&self.scratch.path().join("stdout"))
    }

    /// Quits through QMP and waits for the end.
    ///
    /// # Panics
    ///
    /// If the program does not end in time.
    pub fn quit(mut self) -> Exited {
        // The answer may be lost with the connection.
        let _ = self.qmp().try_execute("quit", serde_json::json!({}));
        self.wait()
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    ///
    /// If it does not end in time.
    pub fn wait(mut self) -> Exited {
        self.wait_mut()
    }

    /// As [`Vm::wait`], for those that still want what the monitors sent last.
    ///
    /// # Panics
    ///
    /// If it does not end in time.
    pub fn wait_mut(&mut self) -> Exited {
        let flags = ready(&[(&self.pidfd, PollFlags::IN)], Instant::now() + patience()).expect("poll works");
        assert!(!flags[0].is_empty(), "still running: {:?}; stderr: {}", self.line, self.stderr());
        let status = self.child.wait().expect("it is our child");
        self.status = Some(status);
        Exited { code: status.code(), signal: status.signal(), stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Connects to a socket that the program itself listens on, as soon as it does.
    ///
    /// # Panics
    ///
    /// If the program ends first, or the socket does not appear in time.
    pub fn connect(&mut self, path: &Path) -> Wire {
        let until = Instant::now() + patience();
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return Wire::new(stream.into()),
                Err(e) if Instant::now() > until => panic!("{}: {e}", path.display()),
                Err(_) => {}
            }
            // The beat between two tries is a wait for the program's end.
            let beat = Instant::now() + std::time::Duration::from_millis(2);
            let flags = ready(&[(&self.pidfd, PollFlags::IN)], beat).expect("poll works");
            assert!(flags[0].is_empty(), "the program ended: {:?}", self.wait_mut());
        }
    }

    /// The connection that the program makes, or nothing if it ended.
    pub fn accept(&mut self, listener: &UnixListener) -> Option<UnixStream> {
        let fds: [(&dyn AsFd, PollFlags); 2] = [(listener, PollFlags::IN), (&self.pidfd, PollFlags::IN)];
        let flags = ready(&fds, Instant::now() + patience()).expect("poll works");
        if !flags[0].is_empty() {
            return Some(listener.accept().expect("a connection is waiting").0);
        }
        assert!(!flags[1].is_empty(), "neither connected nor ended: {:?}", self.line);
        None
    }

    /// Greets on all monitors.
    fn greet(&mut self) -> Result<(), crate::WireError> {
        for qmp in &mut self.qmp {
            qmp.negotiate()?;
        }
        if let Some(hmp) = &mut self.hmp {
            hmp.banner()?;
            // The banner comes while the machine is being built; an answer comes when it is there.
            hmp.try_run("")?;
        }
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A file's text; an absent file is empty.
fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_end(&mut bytes).map(|_| ()).expect("a plain file"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => panic!("{}: {e}", path.display()),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
