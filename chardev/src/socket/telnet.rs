//! The part of telnet (RFC 854) that a server needs to be talked to by a telnet client: its offers, and taking the client's
//! commands out of the input. Output is not escaped, as in QEMU.

use std::sync::Arc;

use crate::sink::Sink;
use crate::stream::Filter;

const IAC: u8 = 255;
const DO: u8 = 253;
const WILL: u8 = 251;
const SUBNEGOTIATION: u8 = 250;
const BREAK: u8 = 243;
const SUBNEGOTIATION_END: u8 = 240;
const BINARY: u8 = 0;
const ECHO: u8 = 1;
const SUPPRESS_GO_AHEAD: u8 = 3;

/// Sent to every client: this side echoes, sends no go-ahead, and is binary both ways.
pub(crate) const GREETING: &[u8] =
    &[IAC, WILL, ECHO, IAC, WILL, SUPPRESS_GO_AHEAD, IAC, WILL, BINARY, IAC, DO, BINARY];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    Command,
    Option,
    Subnegotiation,
    SubnegotiationCommand,
}

/// Takes the commands out of the input of one connection; a BRK becomes a break of `sink`.
pub(crate) fn filter(sink: &Arc<Sink>) -> Filter {
    let sink = Arc::downgrade(sink);
    let mut state = State::Data;
    Box::new(move |data| {
        let mut breaks = 0;
        data.retain(|byte| step(&mut state, *byte, &mut breaks));
        for _ in 0..breaks {
            if let Some(sink) = sink.upgrade() {
                sink.send_break();
            }
        }
    })
}

/// Whether `byte` is data.
fn step(state: &mut State, byte: u8, breaks: &mut u32) -> bool {
    let (next, keep) = match (*state, byte) {
        (State::Data, IAC) => (State::Command, false),
        (State::Data, _) => (State::Data, true),
        (State::Command, IAC) => (State::Data, true),
        (State::Command, BREAK) => {
            *breaks += 1;
            (State::Data, false)
        }
        (State::Command, SUBNEGOTIATION) => (State::Subnegotiation, false),
        // WILL, WONT, DO, DONT and their option.
        (State::Command, 251..=254) => (State::Option, false),
        (State::Command | State::Option, _) => (State::Data, false),
        (State::Subnegotiation, IAC) => (State::SubnegotiationCommand, false),
        (State::Subnegotiation, _) => (State::Subnegotiation, false),
        (State::SubnegotiationCommand, SUBNEGOTIATION_END) => (State::Data, false),
        (State::SubnegotiationCommand, _) => (State::Subnegotiation, false),
    };
    *state = next;
    keep
}

#[cfg(test)]
mod tests;
