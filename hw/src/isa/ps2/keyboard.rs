//! A keyboard with 101 keys and more.
//!
//! IBM PS/2 Technical Reference, "Keyboard (101- and 102-key)". It repeats nothing by itself, and shows its lights to nobody. Left out:
//! the key by key modes of set 3 (commands F7 to F9, FB, FD), which it refuses; a key is always told of when it goes down and up.

use std::collections::VecDeque;

use qapi::types::QKeyCode;
use vmstate::{LoadError, vmstate};

use super::codes::{self, Held, Set};
use super::{ACK, Bytes, PASSED};

const LIGHTS: u8 = 0xed;
const ECHO: u8 = 0xee;
const SCAN_CODES: u8 = 0xf0;
const IDENTIFY: u8 = 0xf2;
const TYPEMATIC: u8 = 0xf3;
const ENABLE: u8 = 0xf4;
const DISABLE: u8 = 0xf5;
const DEFAULTS: u8 = 0xf6;
/// All keys are told of when they go down and up, and are repeated.
const ALL_KEYS: u8 = 0xfa;
/// One key is told of when it goes down and up.
const ONE_KEY: u8 = 0xfc;
const RESEND: u8 = 0xfe;
const RESET: u8 = 0xff;
/// What it is; a controller that translates makes the second one 41.
const IDENTITY: [u8; 2] = [0xab, 0x83];
/// Longest answer.
const ANSWER: usize = 3;

/// The keyboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyboard {
    /// Whether keys are told of.
    scanning: bool,
    set: Set,
    /// Whether the controller wants to have what set 1 has where set 2 is spoken. Done here, so that the queue counts what the guest reads.
    translated: bool,
    lights: u8,
    /// The command that waits for its parameter; 0 if none does.
    pending: u8,
    held: Held,
    /// The answer to the last command, which comes before keys.
    answer: VecDeque<u8>,
    keys: Bytes,
    /// What it said last.
    last: u8,
}

vmstate! {
    /// What a migration takes along of a keyboard.
    pub struct KeyboardState: "ps2kbd", version 1 {
        /// Whether keys are told of.
        scan_enabled: bool,
        /// The set of scan codes, 1 to 3.
        scancode_set: u8,
        /// Whether the controller translates.
        translate: bool,
        /// Lights that are on.
        ledstate: u8,
        /// The command that waits for its parameter, or 0.
        write_cmd: u8,
        /// Keys that are held and change what others say.
        modifiers: u8,
        /// What is left of an answer.
        replies: Vec<u8>,
        /// Bytes of keys.
        queue: Vec<u8>,
        /// What it said last.
        last: u8,
    }
}

impl Default for Keyboard {
    fn default() -> Self {
        Self {
            scanning: true,
            set: Set::Two,
            translated: false,
            lights: 0,
            pending: 0,
            held: Held::default(),
            answer: VecDeque::new(),
            keys: Bytes::default(),
            last: 0,
        }
    }
}

impl Keyboard {
    /// Takes a byte from the controller. There is always an answer, and nothing is left of the one before.
    pub fn write(&mut self, byte: u8) {
        let answer = match std::mem::take(&mut self.pending) {
            SCAN_CODES => self.choose_set(byte),
            LIGHTS => {
                self.lights = byte;
                vec![ACK]
            }
            // Nothing is repeated here.
            TYPEMATIC | ONE_KEY => vec![ACK],
            _ => self.command(byte),
        };
        self.answer = answer.into();
    }

    fn choose_set(&mut self, byte: u8) -> Vec<u8> {
        if byte == 0 {
            return vec![ACK, self.told(self.set as u8)];
        }
        match Set::of_number(byte) {
            Some(set) => {
                self.set = set;
                vec![ACK]
            }
            None => vec![RESEND],
        }
    }

    fn command(&mut self, byte: u8) -> Vec<u8> {
        match byte {
            ECHO => return vec![ECHO],
            IDENTIFY => return vec![ACK, IDENTITY[0], self.told(IDENTITY[1])],
            RESEND => return vec![self.last],
            LIGHTS | SCAN_CODES | TYPEMATIC | ONE_KEY => self.pending = byte,
            ENABLE => self.scanning = true,
            DISABLE | DEFAULTS => self.defaults(byte == DEFAULTS),
            RESET => {
                self.defaults(true);
                self.lights = 0;
                return vec![ACK, PASSED];
            }
            // QEMU takes 0 too.
            ALL_KEYS | 0 => {}
            // "Say that again", which is all that there is for what is not understood.
            _ => return vec![RESEND],
        }
        vec![ACK]
    }

    fn defaults(&mut self, scanning: bool) {
        (self.scanning, self.set) = (scanning, Set::Two);
        self.keys = Bytes::default();
    }

    /// A byte of an answer, as it arrives.
    fn told(&self, byte: u8) -> u8 {
        if self.translated { codes::translate(byte) } else { byte }
    }

    /// Sets whether the controller translates.
    pub fn set_translated(&mut self, translated: bool) {
        self.translated = translated;
    }

    /// A key went down or up.
    pub fn key(&mut self, key: QKeyCode, down: bool) {
        if !self.scanning {
            return;
        }
        self.keys.push_each(&codes::bytes(key, down, self.held, self.set, self.translated));
        self.held.note(key, down);
    }

    /// Whether it has something to say.
    pub fn is_pending(&self) -> bool {
        !self.answer.is_empty() || !self.keys.0.is_empty()
    }

    /// The next byte for the controller.
    pub fn read(&mut self) -> Option<u8> {
        let byte = self.answer.pop_front().or_else(|| self.keys.0.pop_front())?;
        if byte != RESEND {
            self.last = byte;
        }
        Some(byte)
    }

    /// What a migration takes along.
    pub fn saved(&self) -> KeyboardState {
        let Self { scanning, set, translated, lights, pending, held, answer, keys, last } = self;
        KeyboardState {
            scan_enabled: *scanning,
            scancode_set: *set as u8,
            translate: *translated,
            ledstate: *lights,
            write_cmd: *pending,
            modifiers: held.bits(),
            replies: answer.iter().copied().collect(),
            queue: keys.saved(),
            last: *last,
        }
    }

    /// The keyboard that had that.
    ///
    /// # Errors
    /// None can have.
    pub fn from_state(state: KeyboardState) -> vmstate::Result<Self> {
        let KeyboardState {
            scan_enabled: scanning,
            scancode_set,
            translate: translated,
            ledstate: lights,
            write_cmd: pending,
            modifiers,
            replies,
            queue,
            last,
        } = state;
        let commands = [0, LIGHTS, SCAN_CODES, TYPEMATIC, ONE_KEY];
        let (Some(set), Some(held)) = (Set::of_number(scancode_set), Held::of_bits(modifiers)) else {
            return Err(LoadError::invalid("ps2kbd: registers have values that they cannot have"));
        };
        if !commands.contains(&pending) || replies.len() > ANSWER {
            return Err(LoadError::invalid("ps2kbd: there are no such commands and answers"));
        }
        let (answer, keys) = (replies.into(), Bytes::loaded(queue)?);
        Ok(Self { scanning, set, translated, lights, pending, held, answer, keys, last })
    }
}
