//! A new pseudo terminal, whose far side somebody opens later, leaves and opens again.
//!
//! The kernel does not report the opening of the far side to the near side, so inotify watches the device node; where it
//! cannot, a timer looks every second, as QEMU does.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mainloop::{Clock, Interest, Timer, Watch};
use qapi::{Error, Result, strerror};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::backend::Backend;
use crate::sink::Sink;
use crate::stream::{End, FdKind, Stream};
use crate::tty;

const LOOK_AGAIN_NS: i64 = 1_000_000_000;

/// The back end `pty`.
pub(crate) struct Pty {
    state: Arc<PtyState>,
    link: Option<PathBuf>,
}

struct PtyState {
    this: Weak<PtyState>,
    path: String,
    near: End,
    sink: Arc<Sink>,
    stream: Arc<Stream>,
    /// Kept alive only; its callback looks whether somebody is there.
    openings: Mutex<Option<Watch>>,
    timer: Mutex<Option<Timer>>,
}

impl Pty {
    pub(crate) fn new(sink: &Arc<Sink>, link: Option<&str>) -> Result<Self> {
        let failed =
            |error: std::io::Error| Error::generic(format!("Failed to create PTY: {}", strerror(&error)));
        let (near, path) = make_pair().map_err(|errno| failed(errno.into()))?;
        let state = Arc::new_cyclic(|this: &Weak<PtyState>| {
            let owner = this.clone();
            let stream = Stream::new(
                sink,
                Box::new(move || {
                    if let Some(state) = owner.upgrade() {
                        state.left();
                    }
                }),
            );
            PtyState {
                this: this.clone(),
                path,
                near,
                sink: Arc::clone(sink),
                stream,
                openings: Mutex::default(),
                timer: Mutex::default(),
            }
        });
        state.watch_openings();
        let mut pty = Self { state, link: None };
        if let Some(link) = link {
            std::os::unix::fs::symlink(&pty.state.path, link).map_err(|error| {
                Error::generic(format!("Failed to create PTY symlink: {}", strerror(&error)))
            })?;
            pty.link = Some(link.into());
        }
        Ok(pty)
    }
}

/// The near side, non-blocking, and the path of the far side, in raw mode and opened once: only then does the near side
/// report a hang-up while nobody is there.
fn make_pair() -> rustix::io::Result<(End, String)> {
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&near)?;
    unlockpt(&near)?;
    rustix::io::ioctl_fionbio(&near, true)?;
    let path = ptsname(&near, Vec::new())?;
    let far = open(&path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    tty::make_raw(far.as_fd());
    let path = path.into_string().map_err(|_| rustix::io::Errno::INVAL)?;
    Ok((End::new(near, FdKind::File), path))
}

impl PtyState {
    /// Looks whenever the far side is opened. Without inotify, every second.
    fn watch_openings(&self) {
        let watch = || -> std::io::Result<Watch> {
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            let events = inotify::init(flags)?;
            inotify::add_watch(&events, self.path.as_str(), inotify::WatchFlags::OPEN)?;
            let this = self.this.clone();
            let source = events.try_clone()?;
            self.sink.handle().watch(&events, Interest::READ, move |_| {
                // What was opened does not matter; the events are small and read only to be gone.
                let mut records = [0u8; 1024];
                while rustix::io::read(&source, &mut records).is_ok_and(|count| count > 0) {}
                if let Some(state) = this.upgrade() {
                    state.look();
                }
            })
        };
        match watch() {
            Ok(watch) => *self.openings.lock().unwrap_or_else(PoisonError::into_inner) = Some(watch),
            Err(error) => {
                trace::emit!(pliant_chr_pty_poll, trace::Id::of(self), error);
                self.look_later();
            }
        }
    }

    fn look_later(&self) {
        let this = self.this.clone();
        let handle = self.sink.handle();
        let timer =
            handle.timer(Clock::Realtime, handle.now_ns(Clock::Realtime) + LOOK_AGAIN_NS, move || {
                if let Some(state) = this.upgrade() {
                    state.look();
                }
            });
        *self.timer.lock().unwrap_or_else(PoisonError::into_inner) = Some(timer);
    }

    /// Connects if somebody has the far side open. Loop thread only.
    fn look(&self) {
        if self.sink.is_open() {
            return;
        }
        let mut fds = [PollFd::new(&*self.near.fd, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let somebody = poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().contains(PollFlags::HUP);
        if somebody {
            match self.stream.open(Some(self.near.clone()), Some(self.near.clone()), None) {
                Ok(()) => self.sink.set_open_now(true),
                Err(error) => tracing::error!(%error, "cannot watch a pty"),
            }
        } else if self.openings.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.look_later();
        }
    }

    /// The far side was closed by the last who had it open.
    fn left(&self) {
        self.sink.set_open_now(false);
        // Somebody may have come between the hang-up and now.
        self.look();
    }
}

impl Backend for Pty {
    fn filename(&self) -> String {
        format!("pty:{}", self.state.path)
    }

    fn stream(&self) -> Option<&Stream> {
        Some(&self.state.stream)
    }

    fn pty_path(&self) -> Option<&str> {
        Some(&self.state.path)
    }

    fn shut_down(&self) {
        self.state.stream.close();
        if let Some(link) = &self.link {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(link);
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        self.shut_down();
    }
}
