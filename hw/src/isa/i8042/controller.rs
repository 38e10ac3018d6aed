//! What the controller does with bytes, without ports, lines of interrupts and locks.
//!
//! One byte at a time waits to be read: its own answer before others, then the keyboard's, then the mouse's; but who was read last
//! lets the other one go first. Which of them it is stays decided until it was read, what the byte is does not.

use qapi::types::QKeyCode;
use vmstate::{LoadError, vmstate};

use crate::isa::ps2::{Keyboard, KeyboardState, Mouse, MouseState};

const STATUS_FULL: u8 = 1 << 0;
/// The self test was made.
const STATUS_SYSTEM: u8 = 1 << 2;
/// What was written last was a command; always set, as in QEMU.
const STATUS_COMMAND: u8 = 1 << 3;
/// The keyboard is not locked with a key.
const STATUS_UNLOCKED: u8 = 1 << 4;
/// The byte is the mouse's.
const STATUS_MOUSE: u8 = 1 << 5;

const READ_MODE: u8 = 0x20;
const WRITE_MODE: u8 = 0x60;
const DISABLE_MOUSE: u8 = 0xa7;
const ENABLE_MOUSE: u8 = 0xa8;
const TEST_MOUSE: u8 = 0xa9;
const SELF_TEST: u8 = 0xaa;
const TEST_KEYBOARD: u8 = 0xab;
const DISABLE_KEYBOARD: u8 = 0xad;
const ENABLE_KEYBOARD: u8 = 0xae;
const READ_INPUT: u8 = 0xc0;
const READ_OUTPUT: u8 = 0xd0;
const WRITE_OUTPUT: u8 = 0xd1;
const WRITE_KEYBOARD_BUFFER: u8 = 0xd2;
const WRITE_MOUSE_BUFFER: u8 = 0xd3;
const WRITE_MOUSE: u8 = 0xd4;
const A20_OFF: u8 = 0xdd;
const A20_ON: u8 = 0xdf;
/// This and what is beyond pulse the output bits that are zero.
const PULSE: u8 = 0xf0;
const SELF_TEST_PASSED: u8 = 0x55;
const LINE_TEST_PASSED: u8 = 0;
/// The input port: the keyboard is not locked.
const INPUT: u8 = 0x80;

/// The command byte.
const MODE_KEYBOARD_INTERRUPT: u8 = 1 << 0;
const MODE_MOUSE_INTERRUPT: u8 = 1 << 1;
const MODE_NO_KEYBOARD: u8 = 1 << 4;
const MODE_NO_MOUSE: u8 = 1 << 5;
const MODE_TRANSLATE: u8 = 1 << 6;
const MODE_AT_RESET: u8 = MODE_KEYBOARD_INTERRUPT | MODE_MOUSE_INTERRUPT;

/// The output port: the processor runs, A20 is on, and bits that nothing is connected to.
const OUTPUT_AT_RESET: u8 = 0xcf;
const OUTPUT_RUN: u8 = 1 << 0;
const OUTPUT_A20: u8 = 1 << 1;
/// Read only: a byte waits; it is the mouse's.
const OUTPUT_FULL: u8 = 1 << 4;
const OUTPUT_MOUSE_FULL: u8 = 1 << 5;

/// Whose byte it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Own,
    Keyboard,
    Mouse,
}

/// An answer of the controller's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    byte: u8,
    /// It looks like one of the mouse's.
    mouse: bool,
}

/// What a write has besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// The reset line of the processor was pulled.
    Reset,
}

/// The controller with what is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Controller {
    /// The command byte.
    mode: u8,
    tested: bool,
    output_port: u8,
    /// The command that waits for its data byte; 0 if none does.
    pending: u8,
    answer: Option<Answer>,
    /// Whose byte is the next one that is read.
    full: Option<Source>,
    /// What was read last, which an empty buffer reads as.
    last: u8,
    keyboard: Keyboard,
    mouse: Mouse,
}

vmstate! {
    /// What a migration takes along. Version 1 had neither keyboard nor mouse.
    pub struct ControllerState: "pckbd", version 2, oldest 1 {
        /// The controller's own answer that waits to be read.
        output: Option<u8>,
        /// The command that waits for its data byte; 0 if none does.
        write_cmd: u8,
        /// The command byte.
        mode: u8 [since 2 else MODE_AT_RESET],
        /// Whether the self test was made.
        tested: bool [since 2 else true],
        /// What was written to the output port.
        outport: u8 [since 2 else OUTPUT_AT_RESET],
        /// Whether the answer looks like one of the mouse's.
        output_aux: bool [since 2 else false],
        /// Whose byte is next: 0 nobody's, 1 the controller's, 2 the keyboard's, 3 the mouse's.
        obsrc: u8 [since 2 else 0],
        /// What was read last.
        obdata: u8 [since 2 else 0],
        /// The keyboard.
        kbd: KeyboardState [since 2 else Keyboard::default().saved()],
        /// The mouse.
        mouse: MouseState [since 2 else Mouse::default().saved()],
    }
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            mode: MODE_AT_RESET,
            tested: false,
            output_port: OUTPUT_AT_RESET,
            pending: 0,
            answer: None,
            full: None,
            last: 0,
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
        }
    }
}

impl Controller {
    /// Leaves it as firmware does: tested, translating, interrupting for the keyboard alone.
    pub(super) fn set_up(&mut self) {
        self.tested = true;
        self.set_mode(MODE_KEYBOARD_INTERRUPT | MODE_NO_MOUSE | MODE_TRANSLATE);
    }

    /// The status register.
    pub(super) fn status(&self) -> u8 {
        let mut status = STATUS_COMMAND | STATUS_UNLOCKED;
        if self.tested {
            status |= STATUS_SYSTEM;
        }
        if self.full.is_some() {
            status |= STATUS_FULL;
        }
        if self.is_mouse_full() {
            status |= STATUS_MOUSE;
        }
        status
    }

    /// Levels of the interrupts of keyboard and mouse.
    pub(super) fn interrupts(&self) -> (bool, bool) {
        if self.is_mouse_full() {
            return (false, self.mode & MODE_MOUSE_INTERRUPT != 0);
        }
        let wanted = self.mode & (MODE_KEYBOARD_INTERRUPT | MODE_NO_KEYBOARD) == MODE_KEYBOARD_INTERRUPT;
        (self.full.is_some() && wanted, false)
    }

    fn is_mouse_full(&self) -> bool {
        match self.full {
            Some(Source::Own) => self.answer.is_some_and(|answer| answer.mouse),
            source => source == Some(Source::Mouse),
        }
    }

    /// Reads the byte that waits.
    pub(super) fn read(&mut self) -> u8 {
        let source = self.full.take();
        let byte = match source {
            None => None,
            Some(Source::Own) => self.answer.take().map(|answer| answer.byte),
            Some(Source::Keyboard) => self.keyboard.read(),
            Some(Source::Mouse) => self.mouse.read(),
        };
        self.last = byte.unwrap_or(self.last);
        self.settle(source);
        self.last
    }

    /// Chooses whose byte is next, unless that is decided; `source` was read last.
    fn settle(&mut self, source: Option<Source>) {
        if self.full.is_some() {
            return;
        }
        let keyboard = self.mode & MODE_NO_KEYBOARD == 0 && self.keyboard.is_pending();
        let mouse = self.mode & MODE_NO_MOUSE == 0 && self.mouse.is_pending();
        self.full = if self.answer.is_some() {
            Some(Source::Own)
        } else if keyboard && !(mouse && source == Some(Source::Keyboard)) {
            Some(Source::Keyboard)
        } else if mouse {
            Some(Source::Mouse)
        } else {
            None
        };
    }

    fn answer(&mut self, byte: u8, mouse: bool) {
        self.answer = Some(Answer { byte, mouse });
    }

    fn set_mode(&mut self, mode: u8) {
        self.mode = mode;
        self.keyboard.set_translated(mode & MODE_TRANSLATE != 0);
    }

    /// Takes a command.
    pub(super) fn command(&mut self, byte: u8) -> Effect {
        self.pending = 0;
        match byte {
            READ_MODE => self.answer(self.mode, false),
            WRITE_MODE | WRITE_OUTPUT | WRITE_KEYBOARD_BUFFER | WRITE_MOUSE_BUFFER | WRITE_MOUSE => {
                self.pending = byte;
            }
            DISABLE_MOUSE => self.mode |= MODE_NO_MOUSE,
            ENABLE_MOUSE => self.mode &= !MODE_NO_MOUSE,
            DISABLE_KEYBOARD => self.mode |= MODE_NO_KEYBOARD,
            ENABLE_KEYBOARD => self.mode &= !MODE_NO_KEYBOARD,
            TEST_MOUSE | TEST_KEYBOARD => self.answer(LINE_TEST_PASSED, false),
            SELF_TEST => {
                self.tested = true;
                self.answer(SELF_TEST_PASSED, false);
            }
            READ_INPUT => self.answer(INPUT, false),
            READ_OUTPUT => self.answer(self.output_port(), false),
            A20_OFF => self.output_port &= !OUTPUT_A20,
            A20_ON => self.output_port |= OUTPUT_A20,
            PULSE.. if byte & OUTPUT_RUN == 0 => return Effect::Reset,
            PULSE.. => {}
            _ => trace::unimp!("i8042: command {byte:#04x}"),
        }
        self.settle(None);
        Effect::None
    }

    fn output_port(&self) -> u8 {
        let full = if self.full.is_some() { OUTPUT_FULL } else { 0 };
        let mouse = if self.is_mouse_full() { OUTPUT_MOUSE_FULL } else { 0 };
        self.output_port | full | mouse
    }

    /// Takes a byte that belongs to the last command, or to the keyboard.
    pub(super) fn data(&mut self, byte: u8) -> Effect {
        let mut effect = Effect::None;
        match std::mem::take(&mut self.pending) {
            WRITE_MODE => self.set_mode(byte),
            WRITE_OUTPUT => {
                self.output_port = byte;
                if byte & OUTPUT_RUN == 0 {
                    effect = Effect::Reset;
                }
            }
            WRITE_KEYBOARD_BUFFER => self.answer(byte, false),
            WRITE_MOUSE_BUFFER => self.answer(byte, true),
            // Who is spoken to may answer.
            WRITE_MOUSE => {
                self.mode &= !MODE_NO_MOUSE;
                self.mouse.write(byte);
            }
            _ => {
                self.mode &= !MODE_NO_KEYBOARD;
                self.keyboard.write(byte);
            }
        }
        self.settle(None);
        effect
    }

    /// A key went down or up.
    pub(super) fn key(&mut self, key: QKeyCode, down: bool) {
        self.keyboard.key(key, down);
        self.settle(None);
    }

    /// What a migration takes along.
    pub(super) fn saved(&self) -> ControllerState {
        let Self { mode, tested, output_port, pending, answer, full, last, keyboard, mouse } = self;
        ControllerState {
            output: answer.map(|answer| answer.byte),
            write_cmd: *pending,
            mode: *mode,
            tested: *tested,
            outport: *output_port,
            output_aux: answer.is_some_and(|answer| answer.mouse),
            obsrc: match full {
                None => 0,
                Some(Source::Own) => 1,
                Some(Source::Keyboard) => 2,
                Some(Source::Mouse) => 3,
            },
            obdata: *last,
            kbd: keyboard.saved(),
            mouse: mouse.saved(),
        }
    }

    /// The controller that had that.
    ///
    /// # Errors
    /// None can have.
    pub(super) fn from_state(state: ControllerState) -> vmstate::Result<Self> {
        let ControllerState {
            output,
            write_cmd: pending,
            mode,
            tested,
            outport: output_port,
            output_aux,
            obsrc,
            obdata: last,
            kbd,
            mouse,
        } = state;
        let answer = output.map(|byte| Answer { byte, mouse: output_aux });
        let (keyboard, mouse) = (Keyboard::from_state(kbd)?, Mouse::from_state(mouse)?);
        let full = match obsrc {
            0 => None,
            1 if answer.is_some() => Some(Source::Own),
            2 if keyboard.is_pending() => Some(Source::Keyboard),
            3 if mouse.is_pending() => Some(Source::Mouse),
            _ => return Err(LoadError::invalid("pckbd: nobody has the byte that waits")),
        };
        let mut loaded = Self { mode, tested, output_port, pending, answer, full, last, keyboard, mouse };
        // Version 1 had an answer, and did not say that it was next.
        loaded.settle(None);
        Ok(loaded)
    }
}
