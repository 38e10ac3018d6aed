//! The guest goes on there before all of its memory is.
//!
//! ```text
//! active ──► [pre-switchover] ──► device ──► postcopy-active ──► completed
//!                                    │         │         ▲
//!                                 failed    postcopy-paused ──► postcopy-recover-setup ──► postcopy-recover
//! ```
//!
//! The guest is stopped, the other side is told what it has not got, and the devices follow. Pages go from here on, those that are waited
//! for first. When the other side has taken the devices over it answers; only then the guest is let run there, and from that moment
//! never here again. Whatever breaks before, it goes on here; what breaks afterwards is a pause.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use chardev::SocketAddress;
use qapi::strerror;
use qapi::types::{MigrationCapability as Capability, MigrationStatus as Status};

use super::stream::Stream;
use super::urgent::Urgent;
use super::{Outgoing, PART, Stop, Work};
use crate::connect::{self, Outlet};
use crate::lock;
use crate::pace::Share;
use crate::progress::set;
use crate::ram::save::Sender;
use crate::return_path::{ReturnPath, command};
use crate::wire::{self, ram};

/// The ping behind the devices.
const DEVICES: u32 = 3;

/// What follows the guest.
struct Rest<'a> {
    stream: Stream<'a>,
    back: Arc<ReturnPath>,
    sender: Sender,
    urgent: Option<Urgent>,
    /// The guest was let run there.
    moved: bool,
}

impl Outgoing {
    /// Hands the guest over, and sends the rest of its memory after it.
    pub(super) fn postcopy<'a>(
        &'a self,
        mut stream: Stream<'a>,
        mut sender: Sender,
        address: Option<&SocketAddress>,
        stopped: &mut bool,
    ) -> Work<()> {
        let urgent = self.urgent(&stream, &sender, address)?;
        let states = self.stop(stopped)?.all()?;
        sender.sync();
        self.pass();
        sender.begin_pass();
        stream.discards(&sender)?;
        stream.packaged(|stream| {
            stream.command(command::LISTEN, &[])?;
            stream.devices(states)?;
            stream.command(command::PING, &DEVICES.to_be_bytes())
        })?;
        stream.flush()?;
        let counters = &self.progress.counters;
        set(&counters.before_postcopy, counters.bytes());
        let back = stream.way_back()?;
        let mut rest = Rest { stream, back, sender, urgent, moved: false };
        let mut share = Share::new();
        loop {
            let ended = self.follow(&mut rest, &mut share);
            if rest.moved {
                // Whatever happens, it is not let run here any more.
                *stopped = false;
            }
            let why = match ended {
                Err(Stop::Failed(why)) if rest.moved => why,
                ended => return ended,
            };
            rest = self.interrupted(rest, why)?;
        }
    }

    /// A channel of its own for pages that are waited for, if that is wanted.
    fn urgent(
        &self,
        stream: &Stream<'_>,
        sender: &Sender,
        address: Option<&SocketAddress>,
    ) -> Work<Option<Urgent>> {
        if !self.has(Capability::PostcopyPreempt) {
            return Ok(None);
        }
        let address = address.ok_or_else(|| Stop::Failed("no address for a second channel".to_owned()))?;
        let channel = self.opened(connect::connect(address, &self.chardevs)?)?;
        let (main, back) = (Arc::clone(stream.out.channel()), stream.way_back()?);
        let counters = Arc::clone(&self.progress.counters);
        let urgent = Urgent::start(channel, main, back, sender.pages(), counters);
        urgent.map(Some).map_err(|error| Stop::Failed(strerror(&error)))
    }

    /// Sends all that is left, and waits until the other side has it.
    fn follow(&self, rest: &mut Rest<'_>, share: &mut Share) -> Work<()> {
        let counters = &self.progress.counters;
        loop {
            rest.stream.check_back()?;
            if rest.back.is_shut() {
                // Before the end that can only mean one thing.
                let why = "return path: the destination could not take the machine in";
                return Err(Stop::Failed(why.to_owned()));
            }
            if !rest.moved && rest.back.has_pong(DEVICES) {
                self.hand_over(rest)?;
            }
            let inline = rest.urgent.is_none();
            if inline {
                let requests = rest.back.take_requests();
                if !requests.is_empty() {
                    let sender = &mut rest.sender;
                    rest.stream.ram_section(wire::SECTION_PART, |out| {
                        sender.send_asked(out, counters, &requests)?;
                        out.u64(ram::END)
                    })?;
                    rest.stream.flush()?;
                }
            }
            let limit = lock(&self.settings).parameters.max_postcopy_bandwidth.unwrap_or(0);
            if let Some(time) = share.rest(limit) {
                if self.progress.is_cancelled() {
                    return Err(Stop::Cancelled);
                }
                rest.back.rest(time, inline);
                continue;
            }
            let (sender, back, waits) = (&mut rest.sender, &rest.back, !rest.moved);
            let (begun, before) = (Instant::now(), counters.bytes());
            let done = rest.stream.ram_section(wire::SECTION_PART, |out| {
                sender.send(out, counters, |_| {
                    if self.progress.is_cancelled() {
                        return Err(io::Error::from_raw_os_error(libc::EIO));
                    }
                    // The guest stands still until the other side has the devices.
                    let called = (inline && back.calls()) || (waits && back.has_pong(DEVICES));
                    Ok(called || limit != 0 || begun.elapsed() >= PART)
                })
            })?;
            rest.stream.flush()?;
            share.took(counters.bytes() - before);
            set(&counters.remaining, rest.sender.recount());
            match (done, rest.moved) {
                (false, _) => {}
                (true, true) => break,
                (true, false) => rest.back.wait_pong(DEVICES, inline),
            }
        }
        if let Some(urgent) = rest.urgent.take() {
            urgent.finish().map_err(|error| Stop::Failed(strerror(&error)))?;
        }
        rest.stream.ram_section(wire::SECTION_END, |out| out.u64(ram::END))?;
        rest.stream.put(|out| out.u8(wire::EOF))?;
        rest.stream.flush()?;
        rest.back.wait_shut().map_err(|why| Stop::Failed(format!("return path: {why}")))
    }

    /// The other side has the devices: the guest is let run there. Nobody can take that back.
    fn hand_over(&self, rest: &mut Rest<'_>) -> Work<()> {
        if !self.progress.hand_over() {
            return Err(Stop::Cancelled);
        }
        rest.moved = true;
        self.tell_status(Status::PostcopyActive);
        rest.stream.command(command::RUN, &[])?;
        rest.stream.flush()
    }

    /// The connection is lost: waits for others until one can be used.
    fn interrupted<'a>(&'a self, rest: Rest<'_>, mut why: String) -> Work<Rest<'a>> {
        let Rest { stream, mut sender, urgent, .. } = rest;
        drop((stream, urgent));
        loop {
            self.channels().drain(..).for_each(|channel| channel.shut());
            tracing::error!("{why}");
            tracing::error!("Detected IO failure for postcopy. Migration paused.");
            if !self.progress.pause(Some(why)) {
                return Err(Stop::Cancelled);
            }
            self.tell_status(Status::PostcopyPaused);
            if !self.progress.wait_while(Status::PostcopyPaused) {
                return Err(Stop::Cancelled);
            }
            let Some(outlet) = lock(&self.resumed).take() else { return Err(Stop::Cancelled) };
            match self.resume(outlet, &mut sender) {
                Ok((stream, back, urgent)) => return Ok(Rest { stream, back, sender, urgent, moved: true }),
                Err(Stop::Cancelled) if self.progress.is_cancelled() => return Err(Stop::Cancelled),
                Err(Stop::Cancelled) => why = "the connection was given up".to_owned(),
                Err(Stop::Failed(error)) => why = error,
            }
        }
    }

    /// Finds out with the other side what is missing, over another connection.
    fn resume<'a>(
        &'a self,
        outlet: Outlet,
        sender: &mut Sender,
    ) -> Work<(Stream<'a>, Arc<ReturnPath>, Option<Urgent>)> {
        let (channel, address) = match outlet {
            Outlet::Open(channel) => (channel, None),
            Outlet::Connect(address) => (connect::connect(&address, &self.chardevs)?, Some(address)),
        };
        let channel = self.opened(channel)?;
        if !self.progress.step(Status::PostcopyRecoverSetup, Status::PostcopyRecover) {
            return Err(Stop::Cancelled);
        }
        self.tell_status(Status::PostcopyRecover);
        let mut stream = Stream::again(self, channel)?;
        let back = stream.way_back()?;
        let names = sender.names();
        back.expect_bitmaps();
        for name in &names {
            let mut data = vec![name.len() as u8];
            data.extend_from_slice(name.as_bytes());
            stream.command(command::RECV_BITMAP, &data)?;
        }
        stream.flush()?;
        let there = back.wait_bitmaps(&names).map_err(Stop::Failed)?;
        sender.reload(&there).map_err(Stop::Failed)?;
        stream.command(command::RESUME, &[])?;
        stream.flush()?;
        back.wait_resumed().map_err(Stop::Failed)?;
        let urgent = self.urgent(&stream, sender, address.as_ref())?;
        // It may have been lost with the connection.
        stream.command(command::RUN, &[])?;
        stream.flush()?;
        if !self.progress.step(Status::PostcopyRecover, Status::PostcopyActive) {
            return Err(Stop::Cancelled);
        }
        self.tell_status(Status::PostcopyActive);
        Ok((stream, back, urgent))
    }
}
