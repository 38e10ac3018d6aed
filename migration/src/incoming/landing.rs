//! Memory that is yet to come when the guest runs here already.
//!
//! | who | does |
//! | --- | --- |
//! | the thread of the stream | puts pages in their places as they come |
//! | one for the second channel, if there is one | the same |
//! | one for faults | asks the source for what somebody waits for |
//! | one for the devices | takes them over, which may touch memory, and with it wait |
//!
//! None of them needs the main loop to serve a fault: it may be the one that waits.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use memory::{DirtyBitmap, DiscardClaim, Fault, Memory, RamBlock, Suspension, Userfault};
use qapi::strerror;
use qapi::types::RunState;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use vmstate::{Apply, Errno, LoadError, Result};

use crate::channel::Channel;
use crate::lock;
use crate::machine::Machine;
use crate::ram::{blocks, is_within, populated};
use crate::return_path::Answers;
use crate::wire::PAGE;

/// How long a source may take to hear of a page that is waited for when that does not matter any more.
const ENOUGH: Duration = Duration::from_secs(1);
/// How often it is looked whether a peer that is waited for is still there.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// A block, and what of it has not come.
pub(crate) struct LandBlock {
    pub(crate) block: Arc<RamBlock>,
    pub(crate) name: String,
    /// What is populated.
    runs: Vec<Range<u64>>,
    missing: DirtyBitmap,
    /// Of that, what was asked for.
    asked: DirtyBitmap,
}

/// Whether the memory of a machine can come while its guest runs.
///
/// # Errors
/// Why not.
#[doc(alias = "postcopy_ram_supported_by_host")]
pub(crate) fn supported(memory: &Memory) -> std::result::Result<(), String> {
    if memory.discard_policy().is_claimed(DiscardClaim::Disabled) {
        return Err("memory that is locked or pinned cannot come later".to_owned());
    }
    let userfault =
        Userfault::open().map_err(|error| format!("Userfaultfd not available: {}", strerror(&error)))?;
    blocks(memory).iter().try_for_each(|block| userfault.check(block))
}

/// What is not here, before the guest runs.
pub(crate) struct Ground {
    blocks: Vec<LandBlock>,
}

impl Ground {
    /// Everything has come.
    pub(crate) fn new(memory: &Memory) -> Self {
        let block = |block: Arc<RamBlock>| {
            let len = block.size();
            LandBlock {
                name: block.name(),
                runs: populated(&block),
                missing: DirtyBitmap::new(len),
                asked: DirtyBitmap::new(len),
                block,
            }
        };
        Self { blocks: blocks(memory).into_iter().map(block).collect() }
    }

    /// Sizes of pages, or'ed.
    pub(crate) fn page_sizes(&self) -> u64 {
        self.blocks.iter().fold(0, |all, b| all | b.block.page_size())
    }

    /// A part of a block is to come, or to come again: what is there counts no more.
    pub(crate) fn discard(&self, name: &str, start: u64, len: u64) -> Result<()> {
        let block = self.blocks.iter().find(|block| block.name == name);
        let block = block
            .ok_or_else(|| LoadError::invalid(format!("ram_discard_range: Failed to find block '{name}'")))?;
        let page = block.block.page_size();
        let end = start.checked_add(len).filter(|_| len > 0);
        let aligned = start.is_multiple_of(page) && len.is_multiple_of(page);
        let inside = end.filter(|end| is_within(&block.runs, start..*end));
        let Some(_) = inside.filter(|_| aligned) else {
            return Err(LoadError::invalid(format!(
                "ram_discard_range: no memory of '{name}' at {start:#x}/{len:#x}"
            )));
        };
        block.missing.mark(start, len);
        Ok(())
    }
}

/// How far it is.
#[derive(Default)]
struct State {
    /// The devices were taken over, or could not be.
    devices: Option<std::result::Result<(), LoadError>>,
    /// The state of the source, once all of the devices is here.
    source: Option<RunState>,
    /// The guest is to run.
    run: bool,
    /// It was told to.
    told: bool,
    /// The stream broke before the devices were taken over: they never are.
    given_up: bool,
    /// The thread for faults is there.
    serves: bool,
    /// The second channel has ended, or broke.
    urgent: Option<Result<()>>,
}

/// Memory that comes while the guest runs.
pub(crate) struct Landing {
    machine: Arc<dyn Machine>,
    userfault: Userfault,
    blocks: Vec<LandBlock>,
    answers: Mutex<Option<Arc<Answers>>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Readable once nothing comes any more.
    stop: OwnedFd,
    faults: Mutex<Option<JoinHandle<()>>>,
    /// Until the end.
    suspension: Mutex<Option<Suspension>>,
}

impl Landing {
    /// Whoever touches what is not here waits from now on.
    pub(crate) fn begin(
        machine: &Arc<dyn Machine>,
        ground: Ground,
        answers: Arc<Answers>,
    ) -> Result<Arc<Self>> {
        let failed = |error: io::Error| LoadError::new(Errno::Io, format!("userfault: {}", strerror(&error)));
        let userfault = Userfault::open().map_err(failed)?;
        for block in ground.blocks.iter().filter(|block| block.missing.next_dirty(0).is_some()) {
            // What the host would fill by itself, it does not fill any more.
            block.block.set_huge_pages(false);
            // Holes, too: a mapping is not cut into more pieces than the host has room for. Who touches one finds a zero, as ever.
            userfault.watch(&block.block, 0..block.block.size()).map_err(failed)?;
            // Only now: whoever touches a page afterwards waits for it, and none is there that would be taken for one that came.
            let mut gone = Ok(());
            block.missing.runs(0, block.block.size(), |start, len| {
                if gone.is_ok() {
                    gone = block.block.discard(start, len);
                }
            });
            gone.map_err(|error| LoadError::invalid(error.report))?;
        }
        let this = Arc::new(Self {
            machine: Arc::clone(machine),
            userfault,
            blocks: ground.blocks,
            answers: Mutex::new(Some(answers)),
            state: Mutex::default(),
            changed: Condvar::new(),
            stop: eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?,
            faults: Mutex::default(),
            suspension: Mutex::new(Some(machine.memory().discard_policy().suspend())),
        });
        let server = Arc::clone(&this);
        let serve = move || {
            server.change(|state| state.serves = true);
            server.serve();
            server.change(|state| state.serves = false);
        };
        let thread = std::thread::Builder::new().name("mig/dst/fault".into()).spawn(serve);
        *lock(&this.faults) = Some(thread.map_err(failed)?);
        Ok(this)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn find(&self, name: &str) -> Result<&LandBlock> {
        let found = self.blocks.iter().find(|block| block.name == name);
        found.ok_or_else(|| LoadError::invalid(format!("Can't find block {name}")))
    }

    /// Puts a page where none is: its bytes, or zeroes. One that came before stays: the guest may have written it. The offset was checked.
    ///
    /// # Errors
    /// The host has no memory; or a page is there that did not come, which the guest may have seen.
    pub(crate) fn put(&self, name: &str, offset: u64, bytes: Option<&[u8]>) -> Result<()> {
        let block = self.find(name)?;
        if !block.missing.is_dirty(offset) {
            return Ok(());
        }
        let put = match bytes {
            Some(bytes) => self.userfault.put(&block.block, offset, bytes),
            None => self.userfault.put_zeroes(&block.block, offset, PAGE),
        };
        let put = put.map_err(|error| {
            LoadError::new(
                Errno::Io,
                format!("page {offset:#x} of '{name}' cannot be put: {}", strerror(&error)),
            )
        })?;
        // Two channels may have brought the same page.
        if !put && block.missing.is_dirty(offset) {
            tracing::warn!("page {offset:#x} of '{name}' is there already");
        }
        block.missing.clean(offset, PAGE);
        Ok(())
    }

    /// Asks for what somebody waits for, until nothing comes any more.
    fn serve(&self) {
        loop {
            match self.userfault.take() {
                Ok(Some(fault)) => self.fault(&fault),
                Ok(None) => {
                    let mut fds =
                        [PollFd::new(&self.userfault, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
                    // Whatever it says, the descriptors are looked at again.
                    let _ = poll(&mut fds, None);
                    if fds[1].revents().contains(PollFlags::IN) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!("userfault: {}", strerror(&error));
                    return self.disconnect();
                }
            }
        }
    }

    /// Nobody is asked for anything over a connection that is of no use any more, which others who use it hear of.
    fn disconnect(&self) {
        if let Some(answers) = lock(&self.answers).take() {
            answers.shut_channel();
        }
    }

    fn fault(&self, fault: &Fault) {
        let Some(block) = self.blocks.iter().find(|block| Arc::ptr_eq(&block.block, &fault.block)) else {
            return;
        };
        if !block.missing.is_dirty(fault.offset) {
            // It never was anything but zero; or it has come meanwhile, and whoever waits is woken.
            if let Err(error) = self.userfault.put_zeroes(&block.block, fault.offset, PAGE) {
                tracing::error!("page {:#x} of '{}': {}", fault.offset, block.name, strerror(&error));
                // Whoever waits for it touches it again, after a rest.
                let rest = rustix::event::Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
                let _ = poll(&mut [PollFd::new(&self.stop, PollFlags::IN)], Some(&rest));
                let _ = self.userfault.wake(&block.block, fault.offset, PAGE);
            }
            return;
        }
        if !block.asked.is_dirty(fault.offset) {
            block.asked.mark(fault.offset, PAGE);
            self.ask(block, fault.offset);
        }
    }

    fn ask(&self, block: &LandBlock, offset: u64) {
        let answers = lock(&self.answers).clone();
        if let Some(answers) = answers {
            // If the connection is lost, the stream's thread hears of it, too; what was asked for is asked for again over the next.
            let _ = answers.request(&block.name, offset, PAGE as u32);
        }
    }

    /// The connection is lost.
    pub(crate) fn disconnected(&self) {
        *lock(&self.answers) = None;
        self.change(|state| state.urgent = None);
    }

    /// Another connection is there; what is waited for is asked for later.
    pub(crate) fn connected(&self, answers: &Arc<Answers>) {
        *lock(&self.answers) = Some(Arc::clone(answers));
    }

    /// Asks again for all that is waited for.
    pub(crate) fn ask_again(&self) {
        for block in &self.blocks {
            let mut again = Vec::new();
            block.asked.runs(0, block.block.size(), |start, len| again.push(start..start + len));
            for page in again.into_iter().flat_map(|run| run.step_by(PAGE as usize)) {
                if block.missing.is_dirty(page) {
                    self.ask(block, page);
                }
            }
        }
    }

    /// Tells what is here of a block.
    pub(crate) fn tell(&self, name: &str) -> Result<()> {
        let block = self.find(name)?;
        let len = block.block.size();
        let mut bits = vec![0xff; (len.div_ceil(PAGE).div_ceil(64) * 8) as usize];
        block.missing.runs(0, len, |start, len| {
            for page in start / PAGE..(start + len) / PAGE {
                bits[(page / 8) as usize] &= !(1 << (page % 8));
            }
        });
        // Others look at it while this writes.
        let answers = lock(&self.answers).clone();
        match answers {
            Some(answers) => Ok(answers.bitmap(name, &bits)?),
            None => Err(LoadError::invalid("nobody can be told what is here")),
        }
    }

    /// Takes the devices over on the main loop's thread, and answers `ping` when that is done. Does not wait for it.
    pub(crate) fn take_over(
        self: &Arc<Self>,
        devices: Vec<(String, Apply)>,
        source: RunState,
        ping: Option<u32>,
        channel: Arc<Channel>,
    ) -> Result<()> {
        let this = Arc::clone(self);
        let run = move || {
            let apply = move || {
                devices.into_iter().try_for_each(|(what, apply)| apply().map_err(|error| error.and(what)))
            };
            let gone = || LoadError::new(Errno::Io, "the machine ends");
            let result = this.machine.mainloop().run_on_loop(apply).unwrap_or_else(|_| Err(gone()));
            let well = result.is_ok();
            let mut state = this.state();
            if state.given_up {
                return;
            }
            (state.devices, state.source) = (Some(result), Some(source));
            drop(state);
            this.changed.notify_all();
            let answers = lock(&this.answers).clone();
            match (well, ping, answers) {
                (true, Some(number), Some(answers)) => {
                    // A source that is gone is heard of elsewhere.
                    let _ = answers.pong(number);
                }
                (true, ..) => {}
                (false, ..) => channel.shut(),
            }
            this.go();
        };
        let thread = std::thread::Builder::new().name("mig/dst/devices".into()).spawn(run).map(drop);
        thread.map_err(|error| LoadError::new(Errno::Io, strerror(&error)))
    }

    /// The guest is to run.
    pub(crate) fn run(&self) {
        self.change(|state| state.run = true);
        self.go();
    }

    /// Has it run, if all it takes is here, once.
    fn go(&self) {
        let mut state = self.state();
        let (true, Some(Ok(())), Some(source)) = (state.run, &state.devices, state.source) else { return };
        if !std::mem::replace(&mut state.told, true) {
            let machine = Arc::clone(&self.machine);
            self.machine.mainloop().post(move || machine.arrived(source));
        }
    }

    /// Whether the devices were taken over: then the guest may run here, and nowhere else.
    ///
    /// # Errors
    /// They could not be.
    pub(crate) fn has_devices(&self) -> Result<bool> {
        match &self.state().devices {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(error)) => Err(error.clone()),
        }
    }

    /// Whether it outlives a broken stream: that is so once the devices were taken over, and if not, they never will be. The source, which
    /// waits for that word, goes on then.
    ///
    /// # Errors
    /// They could not be.
    pub(crate) fn outlives(&self) -> Result<bool> {
        let mut state = self.state();
        match &state.devices {
            Some(taken) => taken.clone().map(|()| true),
            None => {
                state.given_up = true;
                Ok(false)
            }
        }
    }

    /// The second channel has ended.
    pub(crate) fn urgent_ended(&self, result: Result<()>) {
        self.change(|state| state.urgent = Some(result));
    }

    /// Waits until the second channel has ended, as long as the main one is there.
    pub(crate) fn wait_urgent_end(&self, main: &Channel) -> Result<()> {
        let mut state = self.state();
        loop {
            match &state.urgent {
                Some(ended) => return ended.clone(),
                None if main.is_gone() => return Err(LoadError::new(Errno::Io, "the source is gone")),
                None => {}
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether everything has come, and the guest was told to run.
    ///
    /// # Errors
    /// Something is missing.
    pub(crate) fn check_end(&self) -> Result<()> {
        if !self.state().told {
            return Err(LoadError::invalid("the stream ends, and the guest was not let run"));
        }
        match self.blocks.iter().find(|block| block.missing.next_dirty(0).is_some()) {
            None => Ok(()),
            Some(block) => {
                Err(LoadError::invalid(format!("the stream ends, and pages of '{}' are missing", block.name)))
            }
        }
    }

    /// Nobody waits any more: everything is here, or will never be.
    pub(crate) fn end(&self) {
        // An event counter takes one.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        self.userfault.end();
        // The thread may be waiting for a source that does not listen.
        let wait = self.changed.wait_timeout_while(self.state(), ENOUGH, |state| state.serves);
        if wait.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            self.disconnect();
        }
        if let Some(thread) = lock(&self.faults).take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
        self.blocks.iter().for_each(|block| block.block.set_huge_pages(true));
        drop(lock(&self.suspension).take());
    }
}
