//! A byte stream over descriptors: non-blocking reads paced by the front end, writes through a bounded queue.
//!
//! The lock of a stream guards descriptors and queue only. It is never held while the front end or the owner is called,
//! so that a device may write with its own lock held. Whoever sees the stream break on another thread leaves the rest
//! to the loop.

use std::collections::VecDeque;
use std::fmt;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mainloop::{Handle, Interest, Ready, Watch};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::frontend::Frontend;
use crate::sink::Sink;
use crate::socket::receive;

/// Bytes read at once.
const READ_CHUNK: usize = 4096;
/// Reads of one turn, so that one busy stream does not starve the others.
const READS_PER_TURN: usize = 16;

/// How a descriptor is read and written without blocking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FdKind {
    /// A socket: asked not to block call by call, so the mode it shares with other processes stays as it is.
    Socket,
    /// As `Socket`, but others use it besides us: closing our copy must not shut it down.
    SharedSocket,
    /// Anything else, opened non-blocking (or a regular file, which does not block).
    File,
}

/// One direction of a stream.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) kind: FdKind,
}

impl End {
    pub(crate) fn new(fd: OwnedFd, kind: FdKind) -> Self {
        Self { fd: Arc::new(fd), kind }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> Result<usize, Errno> {
        match self.kind {
            FdKind::File => rustix::io::writev(self.as_fd(), parts),
            // One part after the other: the queue has two at most.
            FdKind::Socket | FdKind::SharedSocket => match parts.iter().find(|part| !part.is_empty()) {
                Some(part) => {
                    rustix::net::send(self.as_fd(), part, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                }
                None => Ok(0),
            },
        }
    }
}

/// Why a stream ended; told to its owner on the loop thread, once per [`Stream::open`].
pub(crate) type OnEnd = Box<dyn Fn() + Send + Sync>;
/// Sees input before the front end (telnet takes its commands out).
pub(crate) type Filter = Box<dyn FnMut(&mut Vec<u8>) + Send>;

pub(crate) struct Stream {
    this: Weak<Stream>,
    sink: Arc<Sink>,
    on_end: OnEnd,
    /// Nothing is read until the front end has room; see `pause`.
    paused: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Counts openings, so that news of an old one is not taken for the present one.
    epoch: u64,
    open: bool,
    source: Option<End>,
    dest: Option<End>,
    read_watch: Option<Watch>,
    write_watch: Option<Watch>,
    queue: VecDeque<u8>,
    fds: Vec<OwnedFd>,
    filter: Option<Filter>,
    /// Who is given the input of this connection instead of the sink, by a loop of its own; see [`Stream::read_on`].
    reader: Option<Reader>,
}

type Reader = Arc<Mutex<Box<dyn Frontend>>>;

fn lock_reader(reader: &Reader) -> MutexGuard<'_, Box<dyn Frontend>> {
    reader.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("Stream").field("open", &inner.open).field("queue", &inner.queue.len()).finish()
    }
}

impl Stream {
    /// A stream without descriptors. `on_end` is called after the stream has closed itself.
    pub(crate) fn new(sink: &Arc<Sink>, on_end: OnEnd) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            sink: Arc::clone(sink),
            on_end,
            paused: AtomicBool::new(false),
            inner: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts on descriptors; what was open before is closed.
    pub(crate) fn open(
        &self,
        source: Option<End>,
        dest: Option<End>,
        filter: Option<Filter>,
    ) -> std::io::Result<()> {
        self.close();
        let handle = self.sink.handle();
        let epoch = self.lock().epoch;
        // Both or neither: a watch whose stream does not know its descriptor would make the loop spin.
        let read_watch =
            source.as_ref().map(|end| self.watch_source(handle, end, epoch, None)).transpose()?;
        let write_watch = dest.as_ref().map(|end| self.watch_dest(handle, end, epoch)).transpose()?;
        let mut inner = self.lock();
        (inner.read_watch, inner.write_watch) = (read_watch, write_watch);
        self.paused.store(false, Ordering::SeqCst);
        (inner.source, inner.dest, inner.filter, inner.open) = (source, dest, filter, true);
        Ok(())
    }

    fn watch_source(
        &self,
        handle: &Handle,
        end: &End,
        epoch: u64,
        reader: Option<Reader>,
    ) -> std::io::Result<Watch> {
        let this = self.this.clone();
        handle.watch(end.as_fd(), Interest::READ, move |ready| {
            if let Some(stream) = this.upgrade() {
                stream.readable(epoch, ready, reader.as_ref());
            }
        })
    }

    fn watch_dest(&self, handle: &Handle, end: &End, epoch: u64) -> std::io::Result<Watch> {
        let this = self.this.clone();
        handle.watch(end.as_fd(), Interest::NONE, move |_| {
            if let Some(stream) = this.upgrade() {
                stream.drain(epoch);
            }
        })
    }

    /// Moves the present connection to the loop of `handle`; see [`crate::Port::read_on`].
    pub(crate) fn read_on(&self, handle: &Handle, reader: Box<dyn Frontend>) -> bool {
        let reader: Reader = Arc::new(Mutex::new(reader));
        let mut inner = self.lock();
        let (Some(source), Some(dest)) = (inner.source.clone(), inner.dest.clone()) else { return false };
        // With the lock held: the other loop has to wait until it can see whose the input is.
        let read_watch = self.watch_source(handle, &source, inner.epoch, Some(Arc::clone(&reader)));
        let write_watch = self.watch_dest(handle, &dest, inner.epoch);
        let (Ok(read_watch), Ok(write_watch)) = (read_watch, write_watch) else { return false };
        if !inner.queue.is_empty() {
            write_watch.set_interest(Interest::WRITE);
        }
        let old = (inner.read_watch.replace(read_watch), inner.write_watch.replace(write_watch));
        inner.reader = Some(reader);
        self.paused.store(false, Ordering::SeqCst);
        drop(inner);
        drop(old);
        true
    }

    /// Closes the descriptors and forgets queue and received descriptors. Nobody is told.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        let epoch = inner.epoch + 1;
        let old = std::mem::replace(&mut *inner, Inner { epoch, ..Inner::default() });
        drop(inner);
        if let Some(End { fd, kind: FdKind::Socket }) = &old.source {
            // Copies of the descriptor may live on (an inherited one, a callback that is running); the peer hears now.
            let _ = rustix::net::shutdown(fd, Shutdown::Both);
        }
    }

    /// The socket in use and its epoch.
    pub(crate) fn socket(&self) -> Option<(u64, Arc<OwnedFd>)> {
        let inner = self.lock();
        let source = inner.source.as_ref().filter(|end| inner.open && end.kind != FdKind::File)?;
        Some((inner.epoch, Arc::clone(&source.fd)))
    }

    /// Shuts the socket down: both sides see the end of it. Any thread, without waiting.
    pub(crate) fn shut_down(&self) {
        if let Some((_, socket)) = self.socket() {
            // The peer may have gone just now.
            let _ = rustix::net::shutdown(&socket, Shutdown::Both);
        }
    }

    /// Closes the stream of `epoch` and tells the owner. Loop thread only.
    pub(crate) fn end(&self, epoch: u64) {
        let current = {
            let inner = self.lock();
            inner.epoch == epoch && inner.open
        };
        if current {
            self.close();
            (self.on_end)();
        }
    }

    /// Leaves the end to the loop: the caller may hold locks of a device.
    fn end_later(&self, epoch: u64) {
        let this = self.this.clone();
        self.sink.handle().post(move || {
            if let Some(stream) = this.upgrade() {
                stream.end(epoch);
            }
        });
    }

    // --- input ---

    /// Bytes may have come. Called by the loop that reads for `reader`, or by the main loop for the sink.
    fn readable(&self, epoch: u64, ready: Ready, reader: Option<&Reader>) {
        for _ in 0..READS_PER_TURN {
            let source = {
                let inner = self.lock();
                // Reading moves to another loop while the bytes that ask for it are worked off.
                if inner.epoch != epoch || inner.reader.is_some() != reader.is_some() {
                    return;
                }
                inner.source.clone()
            };
            let Some(source) = source else { return };
            let room = self.room(reader);
            if room == 0 {
                if self.pause(epoch, &source, ready, reader) {
                    return;
                }
                continue;
            }
            let mut data = vec![0; room.min(READ_CHUNK)];
            match self.read(&source, &mut data) {
                Ok(0) => return self.source_ended(epoch, reader),
                Ok(count) => {
                    let all = count < data.len();
                    data.truncate(count);
                    self.deliver(epoch, data, reader);
                    if all {
                        return;
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(error) => {
                    trace::emit!(pliant_chr_read_err, trace::Id::of(self), error);
                    return self.end_here(epoch, reader);
                }
            }
        }
    }

    fn room(&self, reader: Option<&Reader>) -> usize {
        reader.map_or_else(|| self.sink.can_read(), |reader| lock_reader(reader).can_read())
    }

    /// Ends the stream: at once on the main loop, and from another one through it.
    fn end_here(&self, epoch: u64, reader: Option<&Reader>) {
        if reader.is_none() {
            return self.end(epoch);
        }
        let mut inner = self.lock();
        if inner.epoch == epoch {
            // The end would be seen again and again until then.
            let watch = inner.read_watch.take();
            drop(inner);
            drop(watch);
            self.end_later(epoch);
        }
    }

    fn read(&self, source: &End, data: &mut [u8]) -> Result<usize, Errno> {
        match source.kind {
            FdKind::File => rustix::io::read(source.as_fd(), data),
            FdKind::Socket | FdKind::SharedSocket => {
                let mut fds = Vec::new();
                let result = receive(source.as_fd(), data, &mut fds);
                if !fds.is_empty() {
                    let old = std::mem::replace(&mut self.lock().fds, fds);
                    drop(old);
                }
                result
            }
        }
    }

    fn deliver(&self, epoch: u64, mut data: Vec<u8>, reader: Option<&Reader>) {
        let filter = self.lock().filter.take();
        if let Some(mut filter) = filter {
            filter(&mut data);
            let mut inner = self.lock();
            if inner.epoch == epoch {
                inner.filter = Some(filter);
            }
        }
        match reader {
            _ if data.is_empty() => {}
            Some(reader) => lock_reader(reader).read(&data),
            None => self.sink.read(&data),
        }
    }

    /// Stops reading until [`Self::accept_input`]; false if there is room after all.
    fn pause(&self, epoch: u64, source: &End, ready: Ready, reader: Option<&Reader>) -> bool {
        // Flag first: a front end that makes room after our look sees the flag and resumes.
        self.paused.store(true, Ordering::SeqCst);
        if self.room(reader) > 0 {
            self.paused.store(false, Ordering::SeqCst);
            return false;
        }
        let gone = ready.hangup || ready.error;
        let must_drain = || reader.map_or_else(|| self.sink.must_drain(), |r| lock_reader(r).must_drain());
        if gone && !(must_drain() && has_input(source)) {
            self.source_ended(epoch, reader);
            return true;
        }
        let interest = if gone { Interest::NONE } else { Interest::HANGUP };
        let inner = self.lock();
        if let (true, Some(watch)) = (inner.epoch == epoch && self.is_paused(), &inner.read_watch) {
            watch.set_interest(interest);
        }
        true
    }

    fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// The front end may have room. Any thread.
    pub(crate) fn accept_input(&self) {
        if self.is_paused() {
            let inner = self.lock();
            self.paused.store(false, Ordering::SeqCst);
            if let Some(watch) = &inner.read_watch {
                watch.set_interest(Interest::READ);
            }
        }
    }

    /// End of input. A stream with two descriptors (stdio, pipes) still writes; QEMU calls it closed all the same.
    fn source_ended(&self, epoch: u64, reader: Option<&Reader>) {
        trace::emit!(pliant_chr_recv_eof, trace::Id::of(self));
        let two_way = {
            let mut inner = self.lock();
            let same = match (&inner.source, &inner.dest) {
                (Some(source), Some(dest)) => Arc::ptr_eq(&source.fd, &dest.fd),
                (_, dest) => dest.is_none(),
            };
            if !same {
                inner.read_watch = None;
                inner.source = None;
            }
            !same
        };
        match reader {
            _ if !two_way => self.end_here(epoch, reader),
            None => self.sink.set_open_now(false),
            Some(_) => self.sink.set_open(false),
        }
    }

    /// The descriptors that came last.
    pub(crate) fn take_fds(&self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.lock().fds)
    }

    // --- output ---

    /// See [`crate::backend::Backend::write`].
    pub(crate) fn write(&self, data: &[u8], limit: usize) -> usize {
        let mut inner = self.lock();
        let Some(dest) = inner.dest.clone() else { return data.len() };
        let mut done = 0;
        // Never past what is queued already.
        while inner.queue.is_empty() && done < data.len() {
            match dest.write(&[IoSlice::new(&data[done..])]) {
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    self.write_failed(&mut inner, error);
                    return data.len();
                }
            }
        }
        let room = limit.saturating_sub(inner.queue.len());
        let queued = room.min(data.len() - done);
        inner.queue.extend(&data[done..done + queued]);
        if let (false, Some(watch)) = (inner.queue.is_empty(), &inner.write_watch) {
            watch.set_interest(Interest::WRITE);
        }
        done + queued
    }

    /// A peer that is gone ends the stream; a full disk only costs the data.
    fn write_failed(&self, inner: &mut Inner, error: Errno) {
        trace::emit!(pliant_chr_write_err, trace::Id::of(self), error);
        inner.queue.clear();
        let gone = matches!(error, Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN | Errno::IO | Errno::BADF);
        if gone {
            inner.dest = None;
            self.end_later(inner.epoch);
        }
    }

    /// The host takes data again.
    fn drain(&self, epoch: u64) {
        let reader = {
            let mut inner = self.lock();
            let Some(dest) = inner.dest.clone().filter(|_| inner.epoch == epoch) else {
                // Broken, and the loop has not come to it yet: a hang-up would wake it for ever.
                inner.write_watch = None;
                return;
            };
            while !inner.queue.is_empty() {
                let (front, back) = inner.queue.as_slices();
                match dest.write(&[IoSlice::new(front), IoSlice::new(back)]) {
                    Ok(count) => drop(inner.queue.drain(..count)),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return,
                    Err(error) => self.write_failed(&mut inner, error),
                }
            }
            inner.queue.shrink_to(crate::WRITE_QUEUE);
            if let Some(watch) = &inner.write_watch {
                watch.set_interest(Interest::NONE);
            }
            inner.reader.clone()
        };
        match reader {
            None => self.sink.writable(),
            Some(reader) => {
                lock_reader(&reader).writable();
                self.sink.post_writable();
            }
        }
    }

    /// Bytes queued.
    pub(crate) fn queued(&self) -> usize {
        self.lock().queue.len()
    }

    /// The peer does not read: drops it, and what was meant for it.
    pub(crate) fn give_up(&self) {
        let mut inner = self.lock();
        tracing::warn!(bytes = inner.queue.len(), "a character device's peer does not read; giving it up");
        inner.queue = VecDeque::new();
        // What came after the hole in the stream would only confuse it.
        inner.dest = None;
        self.end_later(inner.epoch);
    }

    /// The host takes nothing: forgets what was meant for it. For back ends whose far end cannot be sent away.
    pub(crate) fn drop_queue(&self) {
        let mut inner = self.lock();
        tracing::warn!(bytes = inner.queue.len(), "a character device takes no output; dropping it");
        inner.queue = VecDeque::new();
    }
}

/// Whether a peer that hung up left something to read.
fn has_input(source: &End) -> bool {
    match source.kind {
        FdKind::Socket | FdKind::SharedSocket => {
            let mut byte = [0];
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            rustix::net::recv(source.as_fd(), &mut byte, flags).is_ok_and(|(count, _)| count > 0)
        }
        FdKind::File => rustix::io::ioctl_fionread(source.as_fd()).is_ok_and(|count| count > 0),
    }
}

#[cfg(test)]
mod tests;
