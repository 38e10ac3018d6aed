//! Clients that are about to come when a start fails.
//!
//! Who hands over a socket that listens already (`-chardev socket,fd=N,server=on`: libvirt does, for its monitor) connects to it once, without trying again. If it finds
//! nobody there and the process not yet gone, it can tell its user no more than that; whoever has connected sees the end and reads in the log why. So a start that fails ends a little later
//! than it could.

use std::os::fd::OwnedFd;
use std::time::Duration;

use chardev::fds::Fds;
use qom::options;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{accept, sockopt};

/// How long who comes may take: it goes on as soon as this process has been started.
const PATIENCE: Duration = Duration::from_millis(300);

/// The arguments of `-chardev` in a command line that may be wrong.
pub(crate) fn chardevs(words: &[String]) -> impl Iterator<Item = &str> {
    let is_option = |word: &str| matches!(word, "-chardev" | "--chardev");
    words.windows(2).filter(move |pair| is_option(&pair[0])).map(|pair| pair[1].as_str())
}

/// Waits until somebody has connected to a socket that was handed over by one of these `-chardev`, for [`PATIENCE`] at most. Where there is none it does not wait.
pub(crate) fn wait<'a>(chardevs: impl Iterator<Item = &'a str>) {
    let sockets: Vec<OwnedFd> = chardevs.filter_map(handed_over).collect();
    if sockets.is_empty() {
        return;
    }
    let mut waiting: Vec<_> = sockets.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    // A signal ends it, too.
    let _ = Timespec::try_from(PATIENCE).map(|patience| poll(&mut waiting, Some(&patience)));
    let came: Vec<_> = waiting.iter().map(|fd| fd.revents().contains(PollFlags::IN)).collect();
    for (socket, _) in sockets.iter().zip(came).filter(|(_, came)| *came) {
        // Who is taken in sees an end; who only stands at the door a reset, which says nothing to libvirt.
        drop(accept(socket));
    }
}

/// The socket, if it listens.
fn handed_over(chardev: &str) -> Option<OwnedFd> {
    let parsed = options::options(chardev, Some("backend"));
    let fd = parsed.get("fd").filter(|_| parsed.get("backend") == Some("socket"))?;
    let socket = Fds::default().socket(fd).ok()?;
    sockopt::socket_acceptconn(&socket).ok()?.then_some(socket)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::Instant;

    use super::*;

    #[test]
    fn only_sockets_that_listen_are_waited_at() {
        let words = ["-chardev", "pty,id=a", "--chardev", "null,id=b", "-chardev"].map(str::to_owned);
        assert_eq!(chardevs(&words).collect::<Vec<_>>(), ["pty,id=a", "null,id=b"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let of = |fd: i32| handed_over(&format!("socket,id=m,fd={fd},server=on,wait=off"));
        assert!(of(listener.as_raw_fd()).is_some());
        assert!(of(client.as_raw_fd()).is_none());
        assert!(of(1 << 20).is_none());
        for other in ["socket,id=m,path=s,server=on", "file,id=m,fd=1", "socket,id=m,fd=x"] {
            assert!(handed_over(other).is_none(), "{other}");
        }
    }

    #[test]
    fn nobody_is_waited_for_who_has_come() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let text = format!("socket,id=m,fd={},server=on,wait=off", listener.as_raw_fd());
        let begin = Instant::now();
        wait([text.as_str()].into_iter());
        assert!(begin.elapsed() >= PATIENCE);
        let mut client = UnixStream::connect(&path).unwrap();
        let begin = Instant::now();
        wait([text.as_str()].into_iter());
        wait(["pty,id=a"].into_iter());
        assert!(begin.elapsed() < PATIENCE);
        drop(listener);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the end, and no error");
    }
}
