//! The outer machine: QEMU emulates a processor with SVM, Debian's kernel has its KVM there, and this program runs in it a second time and takes jobs.
//!
//! It has one processor, and a thread of QEMU's emulates it: two emulated processors at a time were seen to corrupt a kernel's stack while one of them left a
//! nested guest, and each pays for the translations that the other throws away. What would be gained by a second one, a second outer machine gains.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::Images;
use super::lanes::Job;
use super::report::{Listener, Message, ToPerson};
use crate::{Vm, WireError, program};

/// How long the runner may be silent: a guest's whole patience, twice, and the outer boot.
const SILENCE: Duration = Duration::from_secs(1000);

/// What outer machines are made of.
#[derive(Debug)]
pub struct Supply {
    qemu: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    logs: PathBuf,
    loud: bool,
    started: AtomicU32,
}

impl Supply {
    /// Makes the initial file system with the program under test in it.
    ///
    /// # Errors
    ///
    /// It cannot be made, or there is no QEMU.
    pub fn new(images: &Images, vmm: &Path) -> io::Result<Self> {
        let initrd = images.folder().join("outer-initrd");
        fs::write(&initrd, images.outer_initrd(vmm)?)?;
        let qemu = program::qemu().ok_or_else(|| io::Error::other("no qemu-system-x86_64 in PATH"))?;
        let logs = images.folder().to_owned();
        Ok(Self {
            qemu,
            kernel: images.outer_kernel()?,
            initrd,
            logs,
            loud: images.is_loud(),
            started: AtomicU32::new(0),
        })
    }

    /// Starts a machine; its boot is part of its first job.
    ///
    /// # Errors
    ///
    /// QEMU ends at once.
    pub fn start(&self) -> io::Result<Outer> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let log = self.logs.join(format!("outer-{number}.log"));
        let (kernel, initrd) = (self.kernel.display().to_string(), self.initrd.display().to_string());
        let vm = Vm::new()
            .program(&self.qemu)
            .accel("tcg,thread=single")
            // A kernel that panics ends the machine, instead of standing there.
            .line("-machine q35 -cpu max,la57=off -smp 1 -m 4G -no-reboot")
            .args(["-kernel", &kernel, "-initrd", &initrd])
            .args([
                "-append",
                "console=ttyS0 quiet mitigations=off tsc=reliable no_timer_check panic=-1 oops=panic",
            ])
            .args(["-serial", &format!("file:{}", log.display())])
            .serial()
            .try_start()
            .map_err(|exited| io::Error::other(exited.stderr))?;
        Ok(Outer { vm, log, loud: self.loud })
    }
}

/// A running outer machine.
#[derive(Debug)]
pub struct Outer {
    vm: Vm,
    log: PathBuf,
    loud: bool,
}

/// An outer machine that ended or stood still before its job was done.
#[derive(Debug)]
pub struct Crash {
    /// In a line.
    pub what: String,
    /// What its kernel said.
    pub console: String,
    /// The claims that were told before.
    pub told: Vec<String>,
}

impl Outer {
    /// Has a job done and passes on what is said of it.
    ///
    /// # Errors
    ///
    /// The machine is of no use any more.
    pub fn work(&mut self, job: &Job, person: &ToPerson) -> Result<(), Crash> {
        let mut told = Vec::new();
        let done = self.hear(job, |message| {
            if let Message::Claim { name, .. } = &message {
                told.push(name.clone());
            }
            person.hear(message);
        });
        done.map_err(|e| {
            let what = match e {
                WireError::Closed { .. } => "the outer machine ended before its job was done".into(),
                WireError::Deadline { .. } => format!("no report for {} s", SILENCE.as_secs()),
                WireError::Io { .. } => e.to_string(),
            };
            let console = fs::read(&self.log).unwrap_or_default();
            Crash { what, console: String::from_utf8_lossy(&console).into_owned(), told }
        })
    }

    fn hear(&mut self, job: &Job, mut heard: impl FnMut(Message)) -> Result<(), WireError> {
        let mut sent = false;
        loop {
            let line = self.vm.serial().take_by(Instant::now() + SILENCE, "a report", |got| {
                got.iter().position(|&b| b == b'\n').map(|at| at + 1)
            })?;
            match Message::parse(&String::from_utf8_lossy(&line)) {
                // A port that nobody reads yet loses what is sent.
                Some(Message::Ready) if !sent => {
                    self.vm.serial().send(job.line(self.loud).as_bytes())?;
                    sent = true;
                }
                Some(Message::Done) if sent => return Ok(()),
                Some(message) => heard(message),
                None => {}
            }
        }
    }
}
