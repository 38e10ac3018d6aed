//! What is only in a stream whose guest goes on before its memory is there.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};

use super::Stream;
use crate::channel::Channel;
use crate::outgoing::{Outgoing, Stop, Work};
use crate::ram::save::Sender;
use crate::return_path::{ReturnPath, command};
use crate::wire::{Output, PAGE};

/// Parts that one command names at most.
#[doc(alias = "MAX_DISCARDS_PER_COMMAND")]
const PARTS: usize = 12;
/// The first byte of such a command.
const VERSION: u8 = 0;

impl<'a> Stream<'a> {
    /// A stream that goes on over another connection, with a way back.
    pub(in crate::outgoing) fn again(job: &'a Outgoing, channel: Arc<Channel>) -> Work<Self> {
        let sent = Arc::clone(&job.progress.counters.sent);
        let mut stream = Self::new(job, Output::new(channel, sent));
        stream.open_back()?;
        Ok(stream)
    }

    /// The way back.
    pub(in crate::outgoing) fn way_back(&self) -> Work<Arc<ReturnPath>> {
        self.back.clone().ok_or_else(|| Stop::Failed("Unable to open return-path for postcopy".to_owned()))
    }

    /// Says that memory may follow the guest, and how large its pages are.
    pub(in crate::outgoing) fn advise(&mut self, sender: &Sender) -> Work<()> {
        let mut data = sender.page_sizes().to_be_bytes().to_vec();
        data.extend_from_slice(&PAGE.to_be_bytes());
        self.command(command::ADVISE, &data)
    }

    /// Names all that is not sent yet, or was written since.
    pub(in crate::outgoing) fn discards(&mut self, sender: &Sender) -> Work<()> {
        for (name, missing) in sender.missing() {
            for parts in missing.chunks(PARTS) {
                let mut data = vec![VERSION, name.len() as u8];
                data.extend_from_slice(name.as_bytes());
                data.push(0);
                for part in parts {
                    data.extend_from_slice(&part.start.to_be_bytes());
                    data.extend_from_slice(&(part.end - part.start).to_be_bytes());
                }
                self.command(command::DISCARD, &data)?;
            }
        }
        Ok(())
    }

    /// Writes what belongs together: the other side has all of it before it acts on any.
    pub(in crate::outgoing) fn packaged(&mut self, write: impl FnOnce(&mut Self) -> Work<()>) -> Work<()> {
        let (mut file, own) = aside().map_err(|error| self.failed(&error))?;
        let stream = std::mem::replace(&mut self.out, own);
        let written = write(self).and_then(|()| self.flush());
        self.out = stream;
        written?;
        let mut bytes = Vec::new();
        let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
        read.map_err(|error| self.failed(&error))?;
        let len = u32::try_from(bytes.len());
        let len = len.map_err(|_| Stop::Failed("the devices' state is too long".to_owned()))?;
        self.command(command::PACKAGED, &len.to_be_bytes())?;
        self.put(|out| out.bytes(&bytes))
    }
}

/// Somewhere to write to, and the same to read from.
fn aside() -> io::Result<(File, Output)> {
    let file = File::from(memfd_create("package", MemfdFlags::CLOEXEC)?);
    let channel = Arc::new(Channel::new(file.try_clone()?.into())?);
    Ok((file, Output::new(channel, Arc::default())))
}
