//! A mouse with three buttons, which becomes one with a wheel, then with five buttons, when it is asked in the way drivers do.
//!
//! IBM PS/2 Technical Reference, "Mouse"; Microsoft, "Intellimouse" and "Explorer" sequences of sample rates. Nobody moves it, so that
//! all it ever says by itself is nothing. A command it does not know gets no answer, as in QEMU.

use vmstate::{LoadError, vmstate};

use super::{ACK, Bytes, PASSED};

const SCALING_1: u8 = 0xe6;
const SCALING_2: u8 = 0xe7;
const RESOLUTION: u8 = 0xe8;
const STATUS: u8 = 0xe9;
const STREAM: u8 = 0xea;
const POLL: u8 = 0xeb;
const LEAVE_WRAP: u8 = 0xec;
const WRAP: u8 = 0xee;
const REMOTE: u8 = 0xf0;
const IDENTIFY: u8 = 0xf2;
const RATE: u8 = 0xf3;
const ENABLE: u8 = 0xf4;
const DISABLE: u8 = 0xf5;
const DEFAULTS: u8 = 0xf6;
const RESET: u8 = 0xff;

/// In the answer to [`STATUS`].
const REMOTE_MODE: u8 = 1 << 6;
const ENABLED: u8 = 1 << 5;
const SCALED: u8 = 1 << 4;
/// Always set in the first byte of a packet.
const PACKET: u8 = 1 << 3;

/// Kinds, as [`IDENTIFY`] is answered.
const PLAIN: u8 = 0;
const WHEEL: u8 = 3;
const EXPLORER: u8 = 4;
/// Sample rates that are set one after the other to make it one of the others.
const KNOCKS: [(&[u8], u8); 2] = [(&[200, 100, 80], WHEEL), (&[200, 200, 80], EXPLORER)];

/// The mouse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mouse {
    /// [`REMOTE_MODE`], [`ENABLED`], [`SCALED`].
    status: u8,
    resolution: u8,
    rate: u8,
    kind: u8,
    /// The last sample rates, the newest last; 0 for what was not set.
    rates: [u8; 3],
    /// Whether it says what it is told.
    wrap: bool,
    /// The command that waits for its parameter; 0 if none does.
    pending: u8,
    queue: Bytes,
}

vmstate! {
    /// What a migration takes along of a mouse.
    pub struct MouseState: "ps2mouse", version 1 {
        /// Mode, scaling, and whether it tells of movements.
        mouse_status: u8,
        /// Counts a millimetre, as a power of two.
        mouse_resolution: u8,
        /// Packets a second.
        mouse_sample_rate: u8,
        /// Whether it says what it is told.
        mouse_wrap: bool,
        /// What it says that it is.
        mouse_type: u8,
        /// The last three sample rates.
        mouse_rates: [u8; 3],
        /// The command that waits for its parameter, or 0.
        write_cmd: u8,
        /// Bytes on their way.
        queue: Vec<u8>,
    }
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            status: 0,
            resolution: 2,
            rate: 100,
            kind: PLAIN,
            rates: [0; 3],
            wrap: false,
            pending: 0,
            queue: Bytes::default(),
        }
    }
}

impl Mouse {
    /// Takes a byte from the controller.
    pub fn write(&mut self, byte: u8) {
        match std::mem::take(&mut self.pending) {
            RATE => {
                self.rate = byte;
                self.knock(byte);
                self.queue.push_whole(&[ACK]);
            }
            RESOLUTION => {
                self.resolution = byte;
                self.queue.push_whole(&[ACK]);
            }
            _ if self.wrap && byte != LEAVE_WRAP && byte != RESET => self.queue.push_whole(&[byte]),
            _ => self.command(byte),
        }
    }

    fn command(&mut self, byte: u8) {
        match byte {
            SCALING_1 => self.status &= !SCALED,
            SCALING_2 => self.status |= SCALED,
            STREAM => self.status &= !REMOTE_MODE,
            REMOTE => self.status |= REMOTE_MODE,
            ENABLE => self.status |= ENABLED,
            DISABLE => self.status &= !ENABLED,
            WRAP => self.wrap = true,
            LEAVE_WRAP => self.wrap = false,
            RESOLUTION | RATE => self.pending = byte,
            DEFAULTS => self.defaults(),
            RESET => {
                *self = Self::default();
                return self.queue.push_whole(&[ACK, PASSED, PLAIN]);
            }
            IDENTIFY => return self.queue.push_whole(&[ACK, self.kind]),
            STATUS => return self.queue.push_whole(&[ACK, self.status, self.resolution, self.rate]),
            POLL => {
                self.queue.push_whole(&[ACK]);
                let packet = [PACKET, 0, 0, 0];
                return self.queue.push_whole(if self.kind == PLAIN { &packet[..3] } else { &packet });
            }
            _ => return,
        }
        self.queue.push_whole(&[ACK]);
    }

    fn defaults(&mut self) {
        let Self { status, resolution, rate, .. } = Self::default();
        (self.status, self.resolution, self.rate) = (status, resolution, rate);
    }

    fn knock(&mut self, rate: u8) {
        self.rates.rotate_left(1);
        self.rates[2] = rate;
        if let Some((_, kind)) = KNOCKS.iter().find(|(rates, _)| *rates == self.rates) {
            self.kind = *kind;
        }
    }

    /// Whether it has something to say.
    pub fn is_pending(&self) -> bool {
        !self.queue.0.is_empty()
    }

    /// The next byte for the controller.
    pub fn read(&mut self) -> Option<u8> {
        self.queue.0.pop_front()
    }

    /// What a migration takes along.
    pub fn saved(&self) -> MouseState {
        let Self { status, resolution, rate, kind, rates, wrap, pending, queue } = self;
        MouseState {
            mouse_status: *status,
            mouse_resolution: *resolution,
            mouse_sample_rate: *rate,
            mouse_wrap: *wrap,
            mouse_type: *kind,
            mouse_rates: *rates,
            write_cmd: *pending,
            queue: queue.saved(),
        }
    }

    /// The mouse that had that.
    ///
    /// # Errors
    /// None can have.
    pub fn from_state(state: MouseState) -> vmstate::Result<Self> {
        let MouseState {
            mouse_status: status,
            mouse_resolution: resolution,
            mouse_sample_rate: rate,
            mouse_wrap: wrap,
            mouse_type: kind,
            mouse_rates: rates,
            write_cmd: pending,
            queue,
        } = state;
        if status & !(REMOTE_MODE | ENABLED | SCALED) != 0
            || ![PLAIN, WHEEL, EXPLORER].contains(&kind)
            || ![0, RESOLUTION, RATE].contains(&pending)
        {
            return Err(LoadError::invalid("ps2mouse: registers have values that they cannot have"));
        }
        Ok(Self { status, resolution, rate, kind, rates, wrap, pending, queue: Bytes::loaded(queue)? })
    }
}
