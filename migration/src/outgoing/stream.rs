//! The stream while it is written.

mod postcopy;

use std::io;
use std::sync::Arc;

use qapi::strerror;
use qapi::types::MigrationCapability as Capability;
use vmstate::Described;

use super::saved::Saved;
use super::{Outgoing, PART, Stop, Work};
use crate::channel::Kind;
use crate::ram::save::Sender;
use crate::return_path::{ReturnPath, command};
use crate::wire::{self, Output};

/// The stream while it is written.
pub(super) struct Stream<'a> {
    job: &'a Outgoing,
    pub(super) out: Output,
    descriptions: Vec<Described>,
    /// What the other side answers, if it was asked to.
    back: Option<Arc<ReturnPath>>,
    /// How often it was asked whether it has all.
    pings: u32,
}

/// Numbers of such questions come behind this one.
const PINGS: u32 = 0x100;

impl<'a> Stream<'a> {
    /// Nothing was written yet.
    pub(super) fn new(job: &'a Outgoing, out: Output) -> Self {
        Self { job, out, descriptions: Vec::new(), back: None, pings: 0 }
    }

    pub(super) fn failed(&self, error: &io::Error) -> Stop {
        if self.job.progress.is_cancelled() {
            return Stop::Cancelled;
        }
        if error.kind() == io::ErrorKind::InvalidData {
            // What the other side asked for cannot be sent.
            return Stop::Failed(error.to_string());
        }
        let noun = self.out.channel().kind().noun();
        Stop::Failed(format!("Unable to write to {noun}: {}", strerror(error)))
    }

    pub(super) fn put<T>(&mut self, write: impl FnOnce(&mut Output) -> io::Result<T>) -> Work<T> {
        write(&mut self.out).map_err(|error| self.failed(&error))
    }

    /// Writes what is gathered.
    pub(super) fn flush(&mut self) -> Work<()> {
        self.put(Output::flush)
    }

    pub(super) fn begin(&mut self) -> Work<()> {
        let configuration = self.job.configuration();
        self.put(|out| {
            out.u32(wire::MAGIC)?;
            out.u32(wire::VERSION)?;
            out.u8(wire::CONFIGURATION)?;
            out.bytes(&configuration.to_bytes())
        })?;
        // Only a socket has a way back.
        let socket = self.out.channel().kind() == Kind::Socket;
        let postcopy = self.job.has(Capability::PostcopyRam);
        if postcopy && !socket {
            return Err(Stop::Failed("Unable to open return-path for postcopy".to_owned()));
        }
        if socket && (postcopy || self.job.has(Capability::ReturnPath)) {
            self.open_back()?;
            self.command(command::OPEN, &[])?;
            self.command(command::PING, &1u32.to_be_bytes())?;
        }
        Ok(())
    }

    fn open_back(&mut self) -> Work<()> {
        let back = ReturnPath::open(self.out.channel(), &self.job.progress.counters);
        self.back = Some(back.map_err(|error| self.failed(&error))?);
        Ok(())
    }

    pub(super) fn command(&mut self, command: u16, data: &[u8]) -> Work<()> {
        self.put(|out| {
            out.u8(wire::COMMAND)?;
            out.bytes(&command.to_be_bytes())?;
            out.bytes(&(data.len() as u16).to_be_bytes())?;
            out.bytes(data)
        })
    }

    /// Whether the other side agrees that the guest is stopped.
    pub(super) fn may_switch_over(&self) -> Work<bool> {
        match self.back.as_ref().filter(|back| self.job.has(Capability::SwitchoverAck) && !back.is_acked()) {
            // It will not come any more.
            Some(back) if back.is_shut() => {
                Err(Stop::Failed("return path: the destination ended without its word".to_owned()))
            }
            waits => Ok(waits.is_none()),
        }
    }

    /// Waits until the other side has taken in all that was sent, as far as it can be known: what is still on its way when a guest stops
    /// lengthens its pause, and buffers hold the records of gigabytes of zeroes.
    pub(super) fn await_taken(&mut self) -> Work<()> {
        if let Some(back) = self.back.clone() {
            self.pings += 1;
            let number = PINGS + self.pings;
            self.command(command::PING, &number.to_be_bytes())?;
            self.flush()?;
            back.wait_pong(number, false);
            return self.check_back();
        }
        self.await_read()
    }

    /// The same of local sockets, of which the kernel knows.
    pub(super) fn await_read(&mut self) -> Work<()> {
        self.flush()?;
        let channels = self.job.channels().clone();
        channels.iter().try_for_each(|channel| channel.await_read()).map_err(|error| self.failed(&error))
    }

    /// Whether the other side still takes the machine in, as far as it would say so.
    pub(super) fn check_back(&self) -> Work<()> {
        match self.back.as_ref().and_then(|back| back.failure()) {
            Some(why) => Err(Stop::Failed(format!("return path: {why}"))),
            None => Ok(()),
        }
    }

    /// Waits until the other side agrees that the guest is stopped, or is gone, but not for long.
    pub(super) fn wait_ack(&self) {
        if let Some(back) = &self.back {
            back.wait_ack(PART);
        }
    }

    pub(super) fn memory_begins(&mut self, sender: &mut Sender) -> Work<()> {
        self.put(|out| {
            out.u8(wire::SECTION_START)?;
            out.u32(wire::RAM_SECTION)?;
            out.text(wire::RAM)?;
            out.u32(0)?;
            out.u32(wire::RAM_VERSION)?;
            sender.put_blocks(out)?;
            footer(out, wire::RAM_SECTION)
        })
    }

    pub(super) fn ram_section<T>(
        &mut self,
        kind: u8,
        pages: impl FnOnce(&mut Output) -> io::Result<T>,
    ) -> Work<T> {
        self.put(|out| {
            out.u8(kind)?;
            out.u32(wire::RAM_SECTION)?;
            let result = pages(out)?;
            footer(out, wire::RAM_SECTION)?;
            Ok(result)
        })
    }

    pub(super) fn devices(&mut self, states: Vec<Saved>) -> Work<()> {
        for state in states {
            let Saved { head: (id, instance, version), bytes, description } = state;
            // The first number is that of memory.
            let number = wire::RAM_SECTION + 1 + self.descriptions.len() as u32;
            self.put(|out| {
                out.u8(wire::SECTION_FULL)?;
                out.u32(number)?;
                out.text(&id)?;
                out.u32(instance)?;
                out.u32(version)?;
                out.bytes(&bytes)?;
                footer(out, number)
            })?;
            self.descriptions.push(description);
        }
        Ok(())
    }

    /// Ends the stream. With its last byte the machine is elsewhere: from there on nothing that fails brings it back, unless the other side
    /// answers and has not yet.
    pub(super) fn end(mut self) -> Work<()> {
        self.flush()?;
        // A peer that takes nothing can still be given up.
        self.out.channel().await_room().map_err(|error| self.failed(&error))?;
        let kind = self.out.channel().kind();
        if self.back.is_none() && kind == Kind::Socket && !self.job.progress.commit() {
            return Err(Stop::Cancelled);
        }
        self.put(|out| {
            out.u8(wire::EOF)?;
            out.flush()
        })?;
        // The other side goes on now, if need be on this processor: a local socket wakes it where its writer is. What follows is for those
        // who look into the stream.
        std::thread::yield_now();
        let described = self.describe();
        if let Some(back) = &self.back {
            back.wait_shut().map_err(|why| match self.job.progress.is_cancelled() {
                true => Stop::Cancelled,
                false => Stop::Failed(format!("return path: {why}")),
            })?;
        }
        let Self { job, out, .. } = self;
        job.channels().clear();
        let finish =
            described.and_then(|()| out.into_channel()).and_then(|channel| match Arc::into_inner(channel) {
                Some(channel) => channel.finish(),
                // Somebody shuts it at this very moment.
                None => Ok(()),
            });
        match finish {
            Ok(()) => Ok(()),
            // A peer that has all of the machine needs no more of the stream.
            Err(_) if kind == Kind::Socket => Ok(()),
            Err(_) if job.progress.is_cancelled() => Err(Stop::Cancelled),
            Err(error) => {
                Err(Stop::Failed(format!("Unable to write to {}: {}", kind.noun(), strerror(&error))))
            }
        }
    }

    /// Writes the description of what was written.
    fn describe(&mut self) -> io::Result<()> {
        let text = self.job.configuration().describe(&self.descriptions);
        let out = &mut self.out;
        out.u8(wire::DESCRIPTION)?;
        out.u32(u32::try_from(text.len()).map_err(io::Error::other)?)?;
        out.bytes(text.as_bytes())?;
        out.flush()
    }
}

fn footer(out: &mut Output, number: u32) -> io::Result<()> {
    out.u8(wire::FOOTER)?;
    out.u32(number)
}
