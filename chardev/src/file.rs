//! Back ends on files and device nodes: `file`, `pipe` and `serial`.

use std::os::fd::AsFd;
use std::sync::Arc;

use qapi::{Error, Result, strerror};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::io::Errno;

use crate::backend::Backend;
use crate::fds::{Claim, FdSets, HostFile};
use crate::sink::Sink;
use crate::stream::{End, FdKind, Stream};
use crate::tty;

/// `Could not open 'PATH': REASON`.
pub(crate) fn could_not_open(path: &str, errno: Errno) -> Error {
    Error::generic(format!("Could not open '{path}': {}", strerror(&errno.into())))
}

/// The descriptors of a stream back end that stays open for its whole life.
pub(crate) struct FileBackend {
    name: &'static str,
    stream: Arc<Stream>,
    /// Sets that the files are from.
    _claims: Vec<Claim>,
}

impl FileBackend {
    fn new(
        name: &'static str,
        sink: &Arc<Sink>,
        (source, dest): (Option<End>, Option<End>),
        claims: Vec<Claim>,
    ) -> Result<Self> {
        let on_end = {
            let sink = Arc::downgrade(sink);
            Box::new(move || {
                if let Some(sink) = sink.upgrade() {
                    sink.set_open_now(false);
                }
            })
        };
        let stream = Stream::new(sink, on_end);
        stream.open(source, dest, None).map_err(|error| Error::generic(strerror(&error)))?;
        sink.set_open(true);
        Ok(Self { name, stream, _claims: claims })
    }

    /// `file`: output to `path`, input from `input_path`.
    pub(crate) fn file(
        sink: &Arc<Sink>,
        sets: &FdSets,
        path: &str,
        append: bool,
        input_path: Option<&str>,
    ) -> Result<Self> {
        let mode = if append { OFlags::APPEND } else { OFlags::TRUNC };
        let dest = open_nonblocking(sets, path, OFlags::WRONLY | OFlags::CREATE | mode)?;
        let source = input_path.map(|path| open_nonblocking(sets, path, OFlags::RDONLY)).transpose()?;
        let mut claims = Vec::new();
        let mut end = |file: HostFile| {
            claims.extend(file.claim);
            End::new(file.fd, FdKind::File)
        };
        let ends = (source.map(&mut end), Some(end(dest)));
        Self::new("file", sink, ends, claims)
    }

    /// `pipe`: `path.in` and `path.out`, or `path` for both directions.
    pub(crate) fn pipe(sink: &Arc<Sink>, sets: &FdSets, path: &str) -> Result<Self> {
        // Read and write, so that opening a pipe does not wait for its other end, nor see its end when that closes.
        let open_one = |path: String| open_nonblocking(sets, &path, OFlags::RDWR);
        let pair =
            open_one(format!("{path}.in")).and_then(|source| Ok((source, open_one(format!("{path}.out"))?)));
        let (source, dest, claims) = match pair {
            Ok((source, dest)) => {
                let claims = source.claim.into_iter().chain(dest.claim).collect();
                (End::new(source.fd, FdKind::File), End::new(dest.fd, FdKind::File), claims)
            }
            Err(_) => {
                let file = open_one(path.to_owned())?;
                let both = End::new(file.fd, FdKind::File);
                (both.clone(), both, file.claim.into_iter().collect())
            }
        };
        Self::new("pipe", sink, (Some(source), Some(dest)), claims)
    }

    /// `serial`: a tty of the host at 115200 baud, 8N1, raw.
    pub(crate) fn serial(sink: &Arc<Sink>, sets: &FdSets, path: &str) -> Result<Self> {
        let HostFile { fd, claim } = open_nonblocking(sets, path, OFlags::RDWR)?;
        tty::make_serial_line(fd.as_fd());
        let both = End::new(fd, FdKind::File);
        Self::new("serial", sink, (Some(both.clone()), Some(both)), claim.into_iter().collect())
    }
}

fn open_nonblocking(sets: &FdSets, path: &str, flags: OFlags) -> Result<HostFile> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mode = Mode::from_raw_mode(0o666);
    match sets.open(path, flags, mode) {
        // A named pipe without a reader. QEMU waits for one; a descriptor that also reads never has to.
        Err(error) if error.errno == Errno::NXIO && flags.contains(OFlags::WRONLY) => {
            let file = sets.open(path, (flags - OFlags::WRONLY) | OFlags::RDWR, mode);
            let file = file.map_err(|error| could_not_open(path, error.errno))?;
            let is_pipe = fstat(&file.fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_fifo());
            if is_pipe { Ok(file) } else { Err(could_not_open(path, Errno::NXIO)) }
        }
        result => result.map_err(|error| could_not_open(path, error.errno)),
    }
}

impl Backend for FileBackend {
    fn filename(&self) -> String {
        self.name.to_owned()
    }

    fn stream(&self) -> Option<&Stream> {
        Some(&self.stream)
    }

    fn give_up(&self) {
        self.stream.drop_queue();
    }
}
