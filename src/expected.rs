//! Clients that are about to come when a start fails.
//!
//! Who hands over a socket that listens already (`-chardev socket,fd=N,server=on`: libvirt does, for its monitor) connects to it once, without trying again. If it finds
//! nobody there and the process not yet gone, it can tell its user no more than that; whoever has connected, and waits for the answer to its first command, sees the end and reads in the log
//! why. An end that comes earlier libvirt 11.3 may see before it knows where the log is. So a start that fails ends a little later than it could.

use std::os::fd::OwnedFd;
use std::time::Duration;

use chardev::ChardevSet;
use chardev::fds::Fds;
use qom::options;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, accept, recv, send, sockopt};

use crate::cli::{CommandLine, MonitorOption, option_name};
use crate::vm;

/// How long who comes may take, and then how long to say something: it goes on as soon as this process has been started.
const PATIENCE: Duration = Duration::from_millis(300);

/// What a command line that may be wrong says of sockets and monitors.
#[derive(Debug, Default)]
pub(crate) struct Expected<'l> {
    chardevs: Vec<&'l str>,
    /// Arguments of `-mon`.
    monitors: Vec<&'l str>,
}

impl<'l> Expected<'l> {
    /// Of a command line that could not be read.
    pub(crate) fn in_words(words: &'l [String]) -> Self {
        let of = |name: &str| {
            words
                .windows(2)
                .filter(|pair| option_name(&pair[0]) == Some(name))
                .map(|pair| pair[1].as_str())
                .collect()
        };
        Self { chardevs: of("chardev"), monitors: of("mon") }
    }

    /// Of one that could.
    pub(crate) fn in_line(line: &'l CommandLine) -> Self {
        let monitors = line.monitors.iter().filter_map(|monitor| match monitor {
            MonitorOption::Mon(raw) => Some(raw.text.as_str()),
            _ => None,
        });
        Self {
            chardevs: line.chardevs.iter().map(|raw| raw.text.as_str()).collect(),
            monitors: monitors.collect(),
        }
    }

    /// Waits until clients of QMP have asked something. Where none is connected (to a device of the `set`), it first waits until somebody comes to a socket that was handed over. Each
    /// wait is for [`PATIENCE`] at most; there is none where there is no such socket.
    pub(crate) fn wait(&self, set: Option<&ChardevSet>) {
        let connected = |id: String| Some(set?.get(&id)?.connection()?.socket);
        let mut clients: Vec<OwnedFd> = self.qmp().filter_map(connected).collect();
        if clients.is_empty() {
            clients = self.newcomers();
        }
        for client in &clients {
            // What is unread at the end would make a reset of it.
            if ready(std::iter::once(client)) == [true] {
                let _ = recv(client, &mut [0; 0x1000], RecvFlags::DONTWAIT);
            }
        }
    }

    /// Takes in who comes to a socket that was handed over, and greets those that come to QMP, which are returned.
    fn newcomers(&self) -> Vec<OwnedFd> {
        let sockets: Vec<_> = self.chardevs.iter().filter_map(|text| handed_over(text)).collect();
        if sockets.is_empty() {
            return Vec::new();
        }
        let came = ready(sockets.iter().map(|(_, socket)| socket));
        let came = sockets.iter().zip(came).filter(|(_, came)| *came);
        // Who is taken in sees an end; who only stands at the door a reset, which says nothing to libvirt.
        let clients = came.filter_map(|((id, socket), _)| Some((id, accept(socket).ok()?)));
        let greeting = format!("{}\r\n", qapi::json::to_string(&monitor::greeting(&vm::version())));
        let greet =
            |client: &OwnedFd| send(client, greeting.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        let is_qmp = |id: &String| self.qmp().any(|qmp| qmp == *id);
        clients.filter(|(id, client)| is_qmp(id) && greet(client).is_ok()).map(|(_, client)| client).collect()
    }

    /// Names of the character devices on which QMP is spoken.
    fn qmp(&self) -> impl Iterator<Item = String> {
        let spoken = |text: &&str| {
            let parsed = options::options(text, Some("chardev"));
            parsed.get("chardev").filter(|_| parsed.get("mode") == Some("control")).map(str::to_owned)
        };
        self.monitors.iter().filter_map(spoken)
    }
}

/// Which of them have something to be read, or a client, once one has; all that time is there for is [`PATIENCE`].
fn ready<'f>(sockets: impl Iterator<Item = &'f OwnedFd>) -> Vec<bool> {
    let mut waiting: Vec<_> = sockets.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    // A signal ends it, too.
    let _ = Timespec::try_from(PATIENCE).map(|patience| poll(&mut waiting, Some(&patience)));
    waiting.iter().map(|fd| fd.revents().contains(PollFlags::IN)).collect()
}

/// Its name and the socket, if it listens.
fn handed_over(chardev: &str) -> Option<(String, OwnedFd)> {
    let parsed = options::options(chardev, Some("backend"));
    let fd = parsed.get("fd").filter(|_| parsed.get("backend") == Some("socket"))?;
    let socket = Fds::default().socket(fd).ok()?;
    let id = parsed.get("id").unwrap_or_default().to_owned();
    sockopt::socket_acceptconn(&socket).ok()?.then_some((id, socket))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;
    use std::time::Instant;

    use chardev::{Legacy, parse_legacy};
    use mainloop::MainLoop;

    use super::*;

    #[test]
    fn only_sockets_that_listen_are_waited_at() {
        let words =
            ["-chardev", "pty,id=a", "--chardev", "null,id=b", "-mon", "a", "-chardev"].map(str::to_owned);
        let expected = Expected::in_words(&words);
        assert_eq!((expected.chardevs, expected.monitors), (vec!["pty,id=a", "null,id=b"], vec!["a"]));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let of = |fd: i32| handed_over(&format!("socket,id=m,fd={fd},server=on,wait=off"));
        assert_eq!(of(listener.as_raw_fd()).unwrap().0, "m");
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
        let expected = Expected { chardevs: vec![&text], monitors: vec!["chardev=m,mode=readline"] };
        let begin = Instant::now();
        expected.wait(None);
        assert!(begin.elapsed() >= PATIENCE);
        let mut client = UnixStream::connect(&path).unwrap();
        let begin = Instant::now();
        expected.wait(None);
        Expected { chardevs: vec!["pty,id=a"], monitors: vec![] }.wait(None);
        assert!(begin.elapsed() < PATIENCE);
        drop(listener);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the end, and no error");
    }

    #[test]
    fn a_client_of_qmp_is_heard_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let text = format!("socket,id=m,fd={},server=on,wait=off", listener.as_raw_fd());
        let client = thread::spawn(move || {
            let mut lines = BufReader::new(UnixStream::connect(&path).unwrap());
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            lines.get_mut().write_all(b"{\"execute\":\"qmp_capabilities\"}\n").unwrap();
            (line, lines.read(&mut [0]).unwrap())
        });
        Expected { chardevs: vec![&text], monitors: vec!["chardev=m,id=monitor,mode=control"] }.wait(None);
        let (line, end) = client.join().unwrap();
        assert!(line.starts_with(r#"{"QMP": {"#) && line.ends_with("\r\n"), "{line}");
        assert_eq!(end, 0, "the end, and no error");
    }

    #[test]
    fn a_client_that_was_greeted_is_heard_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let mut main = MainLoop::new().unwrap();
        let set = ChardevSet::new(main.handle());
        let text = format!("unix:{},server=on,wait=off", path.display());
        let Ok(Legacy::New(options)) = parse_legacy("m", &text) else { panic!("{text}") };
        let chardev = set.add(&options, &mut |_| {}).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        while chardev.connection().is_none() {
            main.turn(None).unwrap();
        }
        let text = format!("socket,{text}");
        let expected = Expected { chardevs: vec![&text], monitors: vec!["chardev=m,mode=control"] };
        let begin = Instant::now();
        expected.wait(Some(&set));
        assert!(begin.elapsed() >= PATIENCE, "for what it has to say");
        client.write_all(b"a command").unwrap();
        expected.wait(Some(&set));
        drop((set, chardev, main));
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the end, and no error");
    }
}
