//! Between the program and a back end: passes messages on, writes them down, and breaks the rules it is told to break.
//!
//! Two threads a connection, one for each direction. A connection from the program is answered by one to the back end; when either
//! hangs up, the other is hung up, and the next connection is waited for.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::net::shutdown;

use super::Region;
use super::message::{Message, Request};
use super::witness::Witness;
use crate::wire::patience;

/// What the relay does instead of passing a message on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Takes this request and everything after it, and passes nothing on until [`Relay::resume`].
    Stall(Request),
    /// Answers this request with a failure, if it asks how it went. The back end does not see it.
    Refuse(Request),
    /// Answers this request with these bytes, header and all.
    Garble(Request, Vec<u8>),
    /// Hangs up when this request comes.
    HangUp(Request),
    /// Puts this word into the back end's answers to this request.
    Answer(Request, u64),
    /// Takes these bits out of the back end's answers to this request.
    Mask(Request, u64),
}

/// What happened, as far as tests ask.
#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<(Request, Vec<Region>)>,
    told: BTreeSet<Region>,
    witness: Witness,
    /// Times that a stall has begun, and that it was lifted.
    stalls: usize,
    resumed: usize,
    connections: usize,
    /// The sockets of the connection there is.
    live: Vec<UnixStream>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    backend: PathBuf,
}

/// See the module.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    listener: UnixListener,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Listens at `path` for the program, on behalf of the back end that listens at `backend`.
    ///
    /// # Panics
    ///
    /// If `path` cannot be listened at.
    pub fn start(path: &Path, backend: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a fresh path");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            backend: backend.to_owned(),
        });
        let thread = thread::spawn({
            let (shared, listener) = (Arc::clone(&shared), listener.try_clone().expect("a copy"));
            move || shared.accept(&listener)
        });
        Self { shared, listener, thread: Some(thread) }
    }

    /// Adds a rule; it holds until [`Relay::obey`].
    pub fn rule(&self, rule: Rule) {
        self.shared.lock().rules.push(rule);
    }

    /// Forgets all rules. What is stalled stays so until [`Relay::resume`].
    pub fn obey(&self) {
        self.shared.lock().rules.clear();
    }

    /// Passes on what was stalled.
    pub fn resume(&self) {
        let mut state = self.shared.lock();
        state.rules.retain(|rule| !matches!(rule, Rule::Stall(_)));
        state.resumed = state.stalls;
        self.shared.changed.notify_all();
    }

    /// Ends the connection there is, as a back end that dies does.
    pub fn hang_up(&self) {
        self.shared.hang_up();
    }

    /// What the program has asked since the last call, with the regions it named.
    pub fn take_seen(&self) -> Vec<(Request, Vec<Region>)> {
        std::mem::take(&mut self.shared.lock().seen)
    }

    /// How the rings of the connection stand, for people.
    pub fn rings(&self) -> String {
        self.shared.state.lock().unwrap_or_else(|e| e.into_inner()).witness.text()
    }

    /// The regions that the back end has been told of and not been told to forget.
    pub fn regions(&self) -> Vec<Region> {
        self.shared.lock().told.iter().copied().collect()
    }

    /// Waits for the n-th connection of the program, the first being 1.
    ///
    /// # Panics
    ///
    /// If it does not come in time.
    pub fn wait_for_connection(&self, n: usize) {
        self.wait(|state| state.connections >= n && !state.live.is_empty(), "a connection");
    }

    /// Connections that the program has made so far.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// Waits until there is no connection.
    ///
    /// # Panics
    ///
    /// If there is one for too long.
    pub fn wait_for_hang_up(&self) {
        self.wait(|state| state.live.is_empty(), "the end of the connection");
    }

    /// Waits until the program has asked this, since [`Relay::take_seen`].
    ///
    /// # Panics
    ///
    /// If it does not ask in time.
    pub fn wait_for(&self, request: Request) {
        self.wait(|state| state.seen.iter().any(|(seen, _)| *seen == request), "a request");
    }

    /// Waits until a [`Rule::Stall`] has come into force.
    ///
    /// # Panics
    ///
    /// If it does not in time.
    pub fn wait_for_stall(&self) {
        self.wait(|state| state.stalls > state.resumed, "a stall");
    }

    fn wait(&self, mut done: impl FnMut(&State) -> bool, what: &str) {
        let until = Instant::now() + patience();
        let mut state = self.shared.lock();
        while !done(&state) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come: {state:?}");
            state = self.shared.changed.wait_timeout(state, left).expect("nobody panicked").0;
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock().unwrap_or_else(|e| e.into_inner());
            Shared::cut(&mut state);
            self.shared.changed.notify_all();
        }
        // Wakes the thread that waits for connections, also when the path is gone.
        let _ = shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What is to be done with a request.
enum Verdict {
    Pass,
    Answer(Vec<u8>),
    Drop,
    HangUp,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panicked")
    }

    fn cut(state: &mut State) {
        for socket in state.live.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // A new back end knows nothing.
        state.told.clear();
        state.witness = Witness::default();
        state.resumed = state.stalls;
    }

    fn hang_up(&self) {
        Self::cut(&mut self.lock());
        self.changed.notify_all();
    }

    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        while let Ok((program, _)) = listener.accept() {
            // Without a back end the program is hung up on, as it would be without a relay.
            let Ok(backend) = UnixStream::connect(&self.backend) else { continue };
            let pair = || (program.try_clone().expect("a copy"), backend.try_clone().expect("a copy"));
            {
                let mut state = self.lock();
                let (a, b) = pair();
                state.live = vec![a, b];
                state.connections += 1;
                self.changed.notify_all();
            }
            let requests = thread::spawn({
                let (shared, (program, backend)) = (Arc::clone(self), pair());
                move || shared.pass_requests(&program, &backend)
            });
            self.pass_answers(&backend, &program);
            self.hang_up();
            let _ = requests.join();
        }
    }

    fn pass_requests(&self, program: &UnixStream, backend: &UnixStream) {
        while let Ok(Some(message)) = Message::read(program) {
            let done = match self.judge(&message) {
                Verdict::Pass => message.write(backend).is_ok(),
                Verdict::Answer(bytes) => (&*program).write_all(&bytes).is_ok(),
                Verdict::Drop => true,
                Verdict::HangUp => false,
            };
            if !done {
                break;
            }
        }
        self.hang_up();
    }

    /// Writes a request down and says what is to be done with it.
    fn judge(&self, message: &Message) -> Verdict {
        let mut state = self.lock();
        let regions = message.regions();
        state.seen.push((message.request, regions.clone()));
        self.changed.notify_all();
        for rule in state.rules.clone() {
            match rule {
                Rule::Stall(request) if request == message.request => {
                    state.stalls += 1;
                    let mine = state.stalls;
                    self.changed.notify_all();
                    while state.resumed < mine {
                        state = self.changed.wait(state).expect("nobody panicked");
                    }
                }
                Rule::Refuse(request) if request == message.request => {
                    let no = Message::answer(request, 1).bytes();
                    return if message.needs_reply() { Verdict::Answer(no) } else { Verdict::Drop };
                }
                Rule::Garble(request, bytes) if request == message.request => return Verdict::Answer(bytes),
                Rule::HangUp(request) if request == message.request => return Verdict::HangUp,
                _ => {}
            }
        }
        state.witness.note(message);
        match message.request {
            Request::SET_MEM_TABLE => state.told = regions.into_iter().collect(),
            Request::ADD_MEM_REG => state.told.extend(regions),
            Request::REM_MEM_REG => {
                // The offset is not part of what is to go.
                let gone =
                    |told: &Region| regions.iter().any(|r| (r.guest, r.size) == (told.guest, told.size));
                state.told.retain(|told| !gone(told));
            }
            _ => {}
        }
        Verdict::Pass
    }

    fn pass_answers(&self, backend: &UnixStream, program: &UnixStream) {
        while let Ok(Some(mut message)) = Message::read(backend) {
            for rule in self.lock().rules.clone() {
                match rule {
                    Rule::Answer(request, value) if request == message.request && message.is_reply() => {
                        message.body = value.to_ne_bytes().into();
                    }
                    Rule::Mask(request, bits) if request == message.request && message.is_reply() => {
                        message.body = (message.word(0) & !bits).to_ne_bytes().into();
                    }
                    _ => {}
                }
            }
            if message.write(program).is_err() {
                break;
            }
        }
    }
}
