//! A back end for tests: speaks the protocol as a script says, and writes down what it was asked.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::channel::receive;
use super::message::{
    F_PROTOCOL_FEATURES, HEADER, Header, InflightBody, RegionBody, Request, protocol, short, word,
};

/// Longer than anything takes.
pub(super) const LONG: Duration = Duration::from_secs(20);

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub(super) enum Misdeed {
    /// No answer, to this and to anything later.
    Stall,
    /// The end of the connection.
    HangUp,
    /// These bytes instead of an answer.
    Say(Vec<u8>),
    /// An answer that says it failed.
    Refuse,
    /// An answer with this many descriptors.
    Descriptors(usize),
}

/// What a back end has, and does.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) features: u64,
    pub(super) protocol: u64,
    pub(super) queues: u64,
    pub(super) slots: u64,
    pub(super) config: Vec<u8>,
    /// By request; once each.
    pub(super) misdeeds: Vec<(Request, Misdeed)>,
    /// Where queues stop, by number.
    pub(super) stops_at: BTreeMap<u16, u16>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            // All of a disk's, indirect descriptors, event index, version 1.
            features: 0x7e76 | 1 << 28 | 1 << 29 | F_PROTOCOL_FEATURES | 1 << 32,
            protocol: protocol::KNOWN & !protocol::INFLIGHT_SHMFD,
            queues: 4,
            slots: 64,
            config: (0..60).collect(),
            misdeeds: Vec::new(),
            stops_at: BTreeMap::new(),
        }
    }
}

/// A ring as it was set up.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) size: u32,
    pub(super) base: u32,
    /// Descriptors, available, used.
    pub(super) addresses: [u64; 3],
    pub(super) kick: Option<OwnedFd>,
    pub(super) call: Option<OwnedFd>,
    pub(super) enabled: bool,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) script: Script,
    /// Names of requests.
    pub(super) log: Vec<String>,
    pub(super) regions: BTreeMap<u64, RegionBody>,
    pub(super) rings: BTreeMap<u16, Ring>,
    pub(super) features: u64,
    pub(super) inflight: Option<InflightBody>,
    pub(super) connections: usize,
    requests: Option<OwnedFd>,
    stalled: bool,
    socket: Option<UnixStream>,
}

/// The back end; it serves every connection that it is given.
#[derive(Clone, Default)]
pub(super) struct BackEnd(Arc<(Mutex<State>, Condvar)>);

impl BackEnd {
    pub(super) fn new(script: Script) -> Self {
        Self(Arc::new((Mutex::new(State { script, ..State::default() }), Condvar::new())))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed need not fail twice.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done`.
    #[track_caller]
    pub(super) fn wait(&self, done: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let state = self.state();
        let (state, timeout) = self.0.1.wait_timeout_while(state, LONG, |state| !done(state)).unwrap();
        assert!(!timeout.timed_out(), "it did not happen; requests so far: {:?}", state.log);
        state
    }

    /// Requests since the last call.
    pub(super) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// Does something wrong from now on.
    pub(super) fn misbehave(&self, request: Request, misdeed: Misdeed) {
        self.state().script.misdeeds.push((request, misdeed));
    }

    /// A connection to it.
    pub(super) fn connect(&self) -> OwnedFd {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let back_end = self.clone();
        thread::spawn(move || back_end.serve(theirs));
        ours.into()
    }

    /// Serves clients of a path until the test is over, one after the other.
    pub(super) fn listen(&self, path: &std::path::Path) {
        let listener = UnixListener::bind(path).unwrap();
        let back_end = self.clone();
        thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                back_end.serve(socket);
            }
        });
    }

    /// Dies.
    pub(super) fn hang_up(&self) {
        if let Some(socket) = self.state().socket.take() {
            socket.shutdown(Shutdown::Both).unwrap();
        }
    }

    /// Sends a request of its own.
    pub(super) fn request(&self, bytes: &[u8]) {
        let state = self.wait(|state| state.requests.is_some());
        rustix::io::write(state.requests.as_ref().unwrap(), bytes).unwrap();
    }

    /// Interrupts the driver of a queue.
    pub(super) fn interrupt(&self, queue: u16) {
        let state = self.wait(|state| state.rings.get(&queue).is_some_and(|ring| ring.call.is_some()));
        rustix::io::write(state.rings[&queue].call.as_ref().unwrap(), &1u64.to_ne_bytes()).unwrap();
    }

    fn serve(&self, mut socket: UnixStream) {
        {
            let mut state = self.state();
            state.connections += 1;
            state.socket = socket.try_clone().ok();
            (state.regions, state.rings, state.stalled) = Default::default();
        }
        self.0.1.notify_all();
        while let Some((header, body, fds)) = read(&socket) {
            let answer = self.state().answer(header, &body, fds);
            self.0.1.notify_all();
            match answer {
                Answer::Nothing => {}
                Answer::Bytes(bytes) => drop(socket.write_all(&bytes)),
                Answer::WithFds(bytes, count) => send_with_fds(&socket, &bytes, count),
                Answer::HangUp => break,
            }
        }
        let mut state = self.state();
        (state.stalled, state.socket) = (false, None);
        drop(state);
        self.0.1.notify_all();
    }
}

enum Answer {
    Nothing,
    Bytes(Vec<u8>),
    WithFds(Vec<u8>, usize),
    HangUp,
}

/// An answer as bytes.
pub(super) fn reply(request: u32, body: &[u8]) -> Vec<u8> {
    [&Header::reply(request, body.len()).to_bytes()[..], body].concat()
}

/// The request of that number.
fn name(number: u32) -> Option<Request> {
    use Request::*;
    [
        GetFeatures,
        SetFeatures,
        SetOwner,
        SetMemTable,
        SetVringNum,
        SetVringAddr,
        SetVringBase,
        GetVringBase,
        SetVringKick,
        SetVringCall,
        GetProtocolFeatures,
        SetProtocolFeatures,
        GetQueueNum,
        SetVringEnable,
        SetBackendReqFd,
        GetConfig,
        SetConfig,
        GetInflightFd,
        SetInflightFd,
        GetMaxMemSlots,
        AddMemReg,
        RemMemReg,
    ]
    .into_iter()
    .find(|request| *request as u32 == number)
}

impl State {
    /// Whether somebody is connected to whom it does not answer.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    fn answer(&mut self, header: Header, body: &[u8], mut fds: Vec<OwnedFd>) -> Answer {
        let request = name(header.request).expect("a request that there is");
        self.log.push(format!("{request:?}"));
        let misdeeds = &mut self.script.misdeeds;
        let misdeed = misdeeds.iter().position(|(when, _)| *when == request).map(|at| misdeeds.remove(at).1);
        if matches!(misdeed, Some(Misdeed::Stall)) {
            self.stalled = true;
        }
        if self.stalled {
            return Answer::Nothing;
        }
        if matches!(misdeed, Some(Misdeed::Refuse)) {
            return Answer::Bytes(reply(header.request, &1u64.to_ne_bytes()));
        }
        let content = self.carry_out(request, body, &mut fds);
        let inflight = request == Request::GetInflightFd;
        match misdeed {
            Some(Misdeed::HangUp) => Answer::HangUp,
            Some(Misdeed::Say(bytes)) => Answer::Bytes(bytes),
            Some(Misdeed::Descriptors(count)) => {
                let body = content.unwrap_or_else(|| vec![0; 8]);
                Answer::WithFds(reply(header.request, &body), count)
            }
            _ => match content {
                Some(content) if inflight => Answer::WithFds(reply(header.request, &content), 1),
                Some(content) => Answer::Bytes(reply(header.request, &content)),
                None if header.needs_reply() => Answer::Bytes(reply(header.request, &0u64.to_ne_bytes())),
                None => Answer::Nothing,
            },
        }
    }

    fn ring(&mut self, queue: u16) -> &mut Ring {
        self.rings.entry(queue).or_default()
    }

    /// What a question is answered with; nothing for other requests.
    fn carry_out(&mut self, request: Request, body: &[u8], fds: &mut Vec<OwnedFd>) -> Option<Vec<u8>> {
        let number = |value: u64| Some(value.to_ne_bytes().to_vec());
        let queue = short(body, 0).map_or(0, |queue| queue as u16);
        match request {
            Request::GetFeatures => return number(self.script.features),
            Request::GetProtocolFeatures => return number(self.script.protocol),
            Request::GetQueueNum => return number(self.script.queues),
            Request::GetMaxMemSlots => return number(self.script.slots),
            Request::GetConfig => {
                let size = body.len() - 12;
                return Some([&body[..12], &self.script.config[..size]].concat());
            }
            Request::GetVringBase => {
                self.rings.remove(&queue).expect("a ring that was set up");
                let base = self.script.stops_at.get(&queue).copied().unwrap_or(0);
                return Some([u32::from(queue).to_ne_bytes(), u32::from(base).to_ne_bytes()].concat());
            }
            Request::GetInflightFd => {
                let asked = InflightBody::from_bytes(body).unwrap();
                return Some(InflightBody { size: 4096, offset: 512, ..asked }.to_bytes());
            }
            Request::SetInflightFd => self.inflight = InflightBody::from_bytes(body),
            Request::SetFeatures => self.features = word(body, 0).unwrap(),
            Request::SetBackendReqFd => self.requests = fds.pop(),
            Request::SetConfig => {
                let (at, data) = (short(body, 0).unwrap() as usize, &body[12..]);
                self.script.config[at..at + data.len()].copy_from_slice(data);
            }
            Request::AddMemReg => {
                let region = region(&body[8..]);
                assert_eq!(fds.len(), 1, "a region has a file");
                assert!(self.regions.insert(region.guest, region).is_none(), "{region:x?} is there already");
                assert!(self.regions.len() as u64 <= self.script.slots, "more regions than there may be");
            }
            Request::RemMemReg => {
                let region = region(&body[8..]);
                assert_eq!(self.regions.remove(&region.guest), Some(region));
            }
            Request::SetMemTable => {
                let count = short(body, 0).unwrap() as usize;
                assert_eq!((body.len(), fds.len()), (8 + 32 * count, count));
                self.regions = body[8..].chunks(32).map(region).map(|r| (r.guest, r)).collect();
            }
            Request::SetVringNum => self.ring(queue).size = short(body, 4).unwrap(),
            Request::SetVringBase => self.ring(queue).base = short(body, 4).unwrap(),
            Request::SetVringAddr => {
                self.ring(queue).addresses = [8, 24, 16].map(|at| word(body, at).unwrap())
            }
            Request::SetVringKick => self.ring(queue).kick = fds.pop(),
            Request::SetVringCall => self.ring(queue).call = fds.pop(),
            Request::SetVringEnable => self.ring(queue).enabled = short(body, 4) == Some(1),
            Request::SetOwner | Request::SetProtocolFeatures => {}
        }
        None
    }
}

fn region(words: &[u8]) -> RegionBody {
    let [guest, size, user, offset] = [0, 8, 16, 24].map(|at| word(words, at).unwrap());
    assert_eq!(guest, user, "nobody learns where our memory is");
    RegionBody { guest, size, offset }
}

fn read(socket: &UnixStream) -> Option<(Header, Vec<u8>, Vec<OwnedFd>)> {
    let mut fds = Vec::new();
    let mut head = [0; HEADER];
    fill(socket, &mut head, &mut fds)?;
    let header = Header::from_bytes(head);
    let mut body = vec![0; header.size as usize];
    fill(socket, &mut body, &mut fds)?;
    Some((header, body, fds))
}

fn fill(socket: &UnixStream, data: &mut [u8], fds: &mut Vec<OwnedFd>) -> Option<()> {
    let mut done = 0;
    while done < data.len() {
        match receive(socket.as_fd(), &mut data[done..], fds) {
            Ok(0) => return None,
            Ok(count) => done += count,
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(socket, PollFlags::IN)], None)),
            Err(_) => return None,
        }
    }
    Some(())
}

fn send_with_fds(socket: &UnixStream, bytes: &[u8], count: usize) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let file = tempfile::tempfile().unwrap();
    let fds = vec![file.as_fd(); count];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(socket, &[std::io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}
