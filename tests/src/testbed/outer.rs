//! The outer machine: QEMU emulates a processor with SVM, Debian's kernel has its KVM there, and this program runs in it a second time.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Images;
use super::report::{Listener, Message, ToPerson};
use crate::{Vm, WireError, program};

/// How long the runner may be silent: a guest's whole patience, twice, and the outer boot.
const SILENCE: Duration = Duration::from_secs(1000);

/// Boots the outer machine, which runs this program with `arguments`, and passes on what it says.
///
/// # Errors
///
/// The initial file system cannot be made.
pub fn run(images: &Images, vmm: &Path, arguments: &[String], person: &ToPerson) -> io::Result<()> {
    let initrd = images.folder().join("outer-initrd");
    fs::write(&initrd, images.outer_initrd(vmm, arguments)?)?;
    let kernel = images.outer_kernel()?;
    let (kernel, initrd) = (kernel.display().to_string(), initrd.display().to_string());
    let log = images.folder().join("outer.log");
    let qemu = program::qemu().ok_or_else(|| io::Error::other("no qemu-system-x86_64 in PATH"))?;
    let mut vm = Vm::new()
        .program(&qemu)
        .accel("tcg,thread=multi")
        .line("-machine q35 -cpu max,la57=off -smp 2 -m 4G")
        .args(["-kernel", &kernel, "-initrd", &initrd])
        .args(["-append", "console=ttyS0 quiet mitigations=off tsc=reliable no_timer_check"])
        .args(["-serial", &format!("file:{}", log.display())])
        .serial()
        .start();
    loop {
        let line = vm.serial().take_by(Instant::now() + SILENCE, "a report", |got| {
            got.iter().position(|&b| b == b'\n').map(|at| at + 1)
        });
        match line.map(|line| Message::parse(&String::from_utf8_lossy(&line))) {
            Ok(Some(Message::Done)) => break,
            Ok(Some(message)) => person.hear(message),
            Ok(None) => {}
            Err(e) => {
                let what = match e {
                    WireError::Closed { .. } => "the outer machine ended before its runner was done".into(),
                    WireError::Deadline { .. } => format!("no report for {} s", SILENCE.as_secs()),
                    WireError::Io { .. } => e.to_string(),
                };
                let console = fs::read(&log).unwrap_or_default();
                person.fail("outer machine", &what, &String::from_utf8_lossy(&console));
                break;
            }
        }
    }
    Ok(())
}
