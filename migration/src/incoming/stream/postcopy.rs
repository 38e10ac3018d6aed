//! Commands of a stream whose guest goes on here before its memory has come.
//!
//! ```text
//! advise ──► discard … ──► listen ──► devices ──► run ──► pages … ──► end
//!                            └── lost: paused ──► bitmaps ──► resume ──► run ──► pages …
//! ```

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::sync::Arc;

use memory::host_page_size;
use qapi::types::{MigrationCapability as Capability, MigrationStatus as Status, RunState};
use rustix::fs::{MemfdFlags, memfd_create};
use vmstate::{Errno, LoadError, Result};

use super::{Load, run_state};
use crate::channel::Channel;
use crate::configuration::GlobalState;
use crate::incoming::landing::{Ground, Landing, supported};
use crate::return_path::command;
use crate::wire::{Input, PAGE};

/// How far it is.
#[derive(Default)]
pub(super) struct Postcopy {
    advised: bool,
    /// What is not here, before the guest runs.
    ground: Option<Ground>,
    /// The same, when it may.
    pub(super) landing: Option<Arc<Landing>>,
    /// Keeps what is plugged as it is.
    frozen: Option<Box<dyn std::any::Any + Send>>,
    /// A package is read, that came over this.
    packaged: Option<Arc<Channel>>,
    /// To be answered once the devices are taken over.
    ping: Option<u32>,
}

impl Load<'_> {
    /// Carries out a command.
    pub(super) fn postcopy(&mut self, kind: u16, len: u16, input: &mut Input) -> Result<()> {
        let expected = match kind {
            command::ADVISE if len == 0 => 0,
            command::ADVISE => 16,
            command::LISTEN | command::RUN | command::RESUME => 0,
            command::PACKAGED => 4,
            command::DISCARD | command::RECV_BITMAP => len,
            _ => return Err(LoadError::invalid(format!("MIG_CMD {kind:#x} unknown (len {len:#x})"))),
        };
        if len != expected {
            return Err(super::bad_length(kind, len, expected));
        }
        let mut data = vec![0; len.into()];
        input.read_exact(&mut data)?;
        match kind {
            command::ADVISE => self.advise(&data),
            command::DISCARD => self.discard(&data),
            command::LISTEN => self.listen(input.channel()),
            command::PACKAGED => self.package(input, word(&data)),
            command::RUN => match &self.postcopy.landing {
                Some(landing) => {
                    landing.run();
                    Ok(())
                }
                None => Err(wrong("RUN")),
            },
            command::RECV_BITMAP => match (&self.postcopy.landing, data.split_first()) {
                (Some(landing), Some((len, name))) if usize::from(*len) == name.len() => {
                    landing.tell(&String::from_utf8_lossy(name))
                }
                _ => Err(wrong("RECV_BITMAP")),
            },
            _ => self.resume(),
        }
    }

    fn advise(&mut self, data: &[u8]) -> Result<()> {
        let on = self.incoming.capabilities().has(Capability::PostcopyRam);
        match (on, data.is_empty()) {
            (true, true) => return Err(LoadError::invalid("RAM postcopy is enabled but have 0 byte advise")),
            (false, false) => {
                return Err(LoadError::invalid("RAM postcopy is disabled but have 16 byte advise"));
            }
            (false, true) => return Ok(()),
            (true, false) => {}
        }
        if std::mem::replace(&mut self.postcopy.advised, true) {
            return Err(wrong("ADVISE"));
        }
        let memory = self.incoming.machine.memory();
        let (theirs, ours) = (long(&data[..8]), Ground::new(memory).page_sizes());
        if theirs != ours {
            let text = format!("Postcopy needs matching RAM page sizes (s={theirs:x} d={ours:x})");
            return Err(LoadError::invalid(text));
        }
        if long(&data[8..]) != PAGE || PAGE != host_page_size() {
            let theirs = long(&data[8..]);
            let text = format!("Postcopy needs matching target page sizes (s={theirs} d={PAGE})");
            return Err(LoadError::invalid(text));
        }
        supported(memory).map_err(LoadError::invalid)
    }

    fn ground(&mut self, what: &str) -> Result<&Ground> {
        if !self.postcopy.advised || self.postcopy.landing.is_some() {
            return Err(wrong(what));
        }
        // What is plugged is known by now.
        let memory = self.incoming.machine.memory();
        Ok(self.postcopy.ground.get_or_insert_with(|| Ground::new(memory)))
    }

    fn discard(&mut self, data: &[u8]) -> Result<()> {
        let ground = self.ground("RAM_DISCARD")?;
        let bad = || LoadError::invalid("CMD_POSTCOPY_RAM_DISCARD: bad parts");
        let (version, rest) = data.split_first().ok_or_else(bad)?;
        let (len, rest) = rest.split_first().ok_or_else(bad)?;
        let (name, rest) = rest.split_at_checked((*len).into()).ok_or_else(bad)?;
        let (end, parts) = rest.split_first().ok_or_else(bad)?;
        if (*version, *end) != (0, 0) || parts.is_empty() || !parts.len().is_multiple_of(16) {
            return Err(bad());
        }
        let name = String::from_utf8_lossy(name);
        parts.chunks_exact(16).try_for_each(|part| ground.discard(&name, long(&part[..8]), long(&part[8..])))
    }

    /// Whoever touches what is not here waits from now on.
    fn listen(&mut self, channel: &Arc<Channel>) -> Result<()> {
        self.ground("LISTEN")?;
        let answers = self.incoming.lock().answers.clone();
        let answers = answers.ok_or_else(|| LoadError::invalid("CMD_POSTCOPY_LISTEN without a way back"))?;
        let ground = self.postcopy.ground.take().ok_or_else(|| wrong("LISTEN"))?;
        if self.incoming.preempt {
            // From here on the main loop, which takes connections, may be one that waits.
            self.incoming.wait_urgent(self.postcopy.packaged.as_ref().unwrap_or(channel))?;
        }
        let frozen = self.incoming.on_loop(|machine| machine.freeze())?;
        let landing = Landing::begin(&self.incoming.machine, ground, answers)?;
        self.postcopy.frozen = Some(frozen);
        self.postcopy.landing = Some(Arc::clone(&landing));
        self.memory.land(&landing);
        self.incoming.landing(&landing, self.memory.second())?;
        self.incoming.enter(Status::PostcopyActive);
        Ok(())
    }

    /// Reads what belongs together, and then what is in it.
    fn package(&mut self, input: &mut Input, len: u32) -> Result<()> {
        let main = Arc::clone(input.channel());
        if self.postcopy.packaged.replace(Arc::clone(&main)).is_some() {
            return Err(wrong("PACKAGED"));
        }
        let failed = |error: std::io::Error| LoadError::new(Errno::Io, qapi::strerror(&error));
        let file = memfd_create("package", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        let mut file = File::from(file);
        // No more than comes.
        if std::io::copy(&mut input.by_ref().take(len.into()), &mut file).map_err(failed)? != u64::from(len) {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        file.rewind().map_err(failed)?;
        let mut package = Input::new(Arc::new(Channel::new(file.into()).map_err(failed)?));
        let mut next = [0];
        while package.read(&mut next)? != 0 {
            package.push_back(next.to_vec());
            if !self.section(&mut package)? {
                return Err(LoadError::invalid("the stream ends in a package"));
            }
        }
        self.postcopy.packaged = None;
        let Some(landing) = &self.postcopy.landing else { return Ok(()) };
        let state = match self.state.take() {
            Some(GlobalState { runstate }) => run_state(&runstate.0)?,
            None => RunState::Running,
        };
        if landing.has_devices()? {
            return Err(LoadError::invalid("the devices come twice"));
        }
        landing.take_over(std::mem::take(&mut self.later), state, self.postcopy.ping.take(), main)
    }

    /// Whether a ping is answered later, when the devices are there.
    pub(super) fn puts_off(&mut self, number: u32) -> bool {
        let puts_off = self.postcopy.packaged.is_some() && self.postcopy.landing.is_some();
        if puts_off {
            self.postcopy.ping = Some(number);
        }
        puts_off
    }

    fn resume(&mut self) -> Result<()> {
        let landing = self.postcopy.landing.as_ref().ok_or_else(|| wrong("RESUME"))?;
        if !self.incoming.progress.step(Status::PostcopyRecover, Status::PostcopyActive) {
            return Err(wrong("RESUME"));
        }
        self.incoming.tell(Status::PostcopyActive);
        // Nobody else waits for the source while this does.
        let answers = self.incoming.lock().answers.clone();
        if let Some(answers) = answers {
            answers.resumed()?;
        }
        landing.ask_again();
        Ok(())
    }

    /// What is to be read next after something went wrong: another connection, if the guest may run here, and only here.
    ///
    /// # Errors
    /// It went wrong for good.
    pub(super) fn broken(&mut self, error: LoadError) -> Result<Input> {
        let Some(landing) = &self.postcopy.landing else { return Err(error) };
        if !landing.outlives()? {
            return Err(error);
        }
        for line in &error.lines {
            tracing::error!("{line}");
        }
        self.postcopy.packaged = None;
        self.incoming.interrupted(landing).map(Input::new).ok_or(error)
    }

    /// The end of a stream whose memory followed the guest.
    pub(super) fn landed(&self, input: &Input) -> Result<()> {
        let Some(landing) = &self.postcopy.landing else { return Ok(()) };
        if self.incoming.preempt {
            landing.wait_urgent_end(input.channel())?;
        }
        landing.check_end()?;
        landing.end();
        // It runs before that is told.
        self.incoming.on_loop(|_| ())
    }
}

impl Drop for Postcopy {
    fn drop(&mut self) {
        if let Some(landing) = self.landing.take() {
            landing.end();
        }
    }
}

fn wrong(what: &str) -> LoadError {
    LoadError::invalid(format!("CMD_POSTCOPY_{what} in wrong postcopy state"))
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |word, byte| (word << 8) | u32::from(*byte))
}

fn long(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |long, byte| (long << 8) | u64::from(*byte))
}
