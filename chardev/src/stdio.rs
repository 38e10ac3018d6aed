//! The program's own terminal.
//!
//! The descriptors 0 and 1 are shared with whoever started the program and with its own messages, so they are not made
//! non-blocking: pipes and terminals are opened anew through `/proc/self/fd`, sockets are asked call by call, files do
//! not block. Where opening anew is forbidden the mode is changed and put back.
//!
//! After the program was stopped (Ctrl-Z) and continued, the shell has changed the terminal's mode: SIGCONT sets it again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mainloop::{Handle, Signal, SignalWatch};
use qapi::{Error, Result, strerror};
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open};
use rustix::termios::{Termios, isatty, tcgetattr};

use crate::backend::Backend;
use crate::sink::Sink;
use crate::stream::{End, FdKind, Stream};
use crate::tty;

/// The back end `stdio`. Dropping it puts the terminal back as it was.
pub(crate) struct Stdio {
    stream: Arc<Stream>,
    terminal: Option<Arc<Terminal>>,
    /// Where people read, if that is a terminal as well.
    screen: Option<tty::Terminal>,
    /// Kept alive only.
    continued: Option<SignalWatch>,
    changed_flags: Vec<(OwnedFd, OFlags)>,
    /// Shared with the set: there is one terminal.
    in_use: Arc<AtomicBool>,
}

struct Terminal {
    fd: OwnedFd,
    saved: Termios,
    signal: bool,
    echo: Mutex<bool>,
}

impl Terminal {
    /// As the device wants it.
    fn set_mode(&self) {
        let echo = *self.echo.lock().unwrap_or_else(PoisonError::into_inner);
        let mode = if echo { self.saved.clone() } else { tty::interactive(&self.saved, self.signal) };
        tty::set(self.fd.as_fd(), &mode);
    }
}

impl Stdio {
    pub(crate) fn new(sink: &Arc<Sink>, signal: bool, in_use: &Arc<AtomicBool>) -> Result<Self> {
        Self::on(sink, signal, in_use, rustix::stdio::stdin(), rustix::stdio::stdout())
    }

    /// On any two descriptors.
    pub(crate) fn on(
        sink: &Arc<Sink>,
        signal: bool,
        in_use: &Arc<AtomicBool>,
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
    ) -> Result<Self> {
        if in_use.swap(true, Ordering::AcqRel) {
            return Err(Error::generic("cannot use stdio by multiple character devices"));
        }
        let on_end = {
            let sink = Arc::downgrade(sink);
            Box::new(move || {
                if let Some(sink) = sink.upgrade() {
                    sink.set_open_now(false);
                }
            })
        };
        let mut stdio = Self {
            stream: Stream::new(sink, on_end),
            terminal: None,
            screen: None,
            continued: None,
            changed_flags: Vec::new(),
            in_use: Arc::clone(in_use),
        };
        let result = stdio.start(sink.handle(), signal, input, output);
        result.map_err(|error| Error::generic(format!("cannot use stdio: {}", strerror(&error))))?;
        sink.set_open(true);
        Ok(stdio)
    }

    fn start(
        &mut self,
        handle: &Handle,
        signal: bool,
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
    ) -> std::io::Result<()> {
        let source = self.end(input, OFlags::RDONLY)?;
        let dest = self.end(output, OFlags::WRONLY)?;
        if let Ok(saved) = tcgetattr(input) {
            let fd = input.try_clone_to_owned()?;
            let terminal = Arc::new(Terminal { fd, saved, signal, echo: Mutex::new(false) });
            terminal.set_mode();
            self.terminal = Some(Arc::clone(&terminal));
            if isatty(output) {
                self.screen = Some(tty::Terminal::new(output.try_clone_to_owned()?));
            }
            self.continued = Some(handle.watch_signals(&[Signal::CONT], move |_| terminal.set_mode())?);
        }
        self.stream.open(Some(source), Some(dest), None)
    }

    /// A way to read or write `fd` that never blocks.
    fn end(&mut self, fd: BorrowedFd<'_>, access: OFlags) -> std::io::Result<End> {
        let kind = FileType::from_raw_mode(fstat(fd)?.st_mode);
        if kind.is_socket() {
            return Ok(End::new(fd.try_clone_to_owned()?, FdKind::SharedSocket));
        }
        if kind.is_file() {
            return Ok(End::new(fd.try_clone_to_owned()?, FdKind::File));
        }
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        if let Ok(own) = open(path, flags, Mode::empty()) {
            return Ok(End::new(own, FdKind::File));
        }
        let old = fcntl_getfl(fd)?;
        fcntl_setfl(fd, old | OFlags::NONBLOCK)?;
        self.changed_flags.push((fd.try_clone_to_owned()?, old));
        Ok(End::new(fd.try_clone_to_owned()?, FdKind::File))
    }
}

impl Stdio {
    /// Puts the terminal and the descriptors back as they were.
    fn restore(&self) {
        if let Some(terminal) = &self.terminal {
            tty::set(terminal.fd.as_fd(), &terminal.saved);
        }
        for (fd, flags) in &self.changed_flags {
            // The descriptor was ours to change; if it is gone there is nothing to put back.
            let _ = fcntl_setfl(fd, *flags);
        }
    }
}

impl Backend for Stdio {
    fn filename(&self) -> String {
        "stdio".to_owned()
    }

    fn stream(&self) -> Option<&Stream> {
        Some(&self.stream)
    }

    fn give_up(&self) {
        self.stream.drop_queue();
    }

    fn shut_down(&self) {
        self.stream.close();
        self.restore();
    }

    fn terminal(&self) -> Option<tty::Terminal> {
        self.screen.clone()
    }

    fn set_echo(&self, on: bool) {
        let Some(terminal) = &self.terminal else { return };
        let old = {
            let mut echo = terminal.echo.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *echo, on)
        };
        if old != on {
            terminal.set_mode();
        }
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        self.stream.close();
        self.continued = None;
        self.restore();
        self.in_use.store(false, Ordering::Release);
    }
}
