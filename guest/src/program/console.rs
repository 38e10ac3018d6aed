//! The first serial port (16550, ports 3f8–3ff): lines out, command lines in.
//!
//! Output never waits: what the port does not take stays in a ring buffer, and what does not fit there is dropped and
//! counted. Input is a line of up to 128 bytes, longer ones are refused.

use crate::bus::Bus;
use core::fmt;

const BASE: u16 = 0x3f8;
const IER: u16 = BASE + 1;
const FCR: u16 = BASE + 2;
const LCR: u16 = BASE + 3;
const MCR: u16 = BASE + 4;
const LSR: u16 = BASE + 5;
const SCR: u16 = BASE + 7;

const IER_RX: u8 = 1;
const IER_TX: u8 = 2;
const LSR_DATA: u8 = 1;
const LSR_THRE: u8 = 0x20;
/// Bytes the transmitter takes once it is empty.
const FIFO: usize = 16;
/// Input bytes taken at a time, so that a flood of input does not keep the program from its devices.
const INPUT: usize = 64;
const OUTPUT: usize = 4096;
const LINE: usize = 128;

/// The serial port.
#[derive(Debug)]
pub(super) struct Console {
    present: bool,
    out: [u8; OUTPUT],
    out_start: usize,
    out_len: usize,
    dropped: u64,
    tx_interrupt: bool,
    line: [u8; LINE],
    line_len: usize,
    too_long: bool,
    /// Input may be left: the interrupt is edge triggered, so nobody would say so again.
    pub(super) more: bool,
}

/// A complete input line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    bytes: [u8; LINE],
    len: usize,
    pub(super) too_long: bool,
}

impl Line {
    /// The line, without what is not printable ASCII.
    pub(super) fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("")
    }
}

/// Prints one line, prefixed with the program's name.
macro_rules! say {
    ($console:expr, $bus:expr, $($arg:tt)*) => {
        $console.print($bus, format_args!($($arg)*))
    };
}
pub(super) use say;

impl Console {
    /// Sets the port up: 115200 8n1, FIFOs on, receive interrupt on. Without a port (or with `on` false) there is no output.
    pub(super) fn new(bus: &mut impl Bus, on: bool) -> Self {
        let mut present = on;
        if on {
            // The scratch register tells a port from an empty bus.
            bus.out8(SCR, 0x5a);
            present = bus.in8(SCR) == 0x5a;
        }
        if present {
            bus.out8(LCR, 0x80);
            bus.out8(BASE, 1);
            bus.out8(IER, 0);
            bus.out8(LCR, 0x03);
            bus.out8(FCR, 0x07);
            // OUT2 connects the interrupt on a PC.
            bus.out8(MCR, 0x0b);
            bus.out8(IER, IER_RX);
        }
        Self {
            present,
            out: [0; OUTPUT],
            out_start: 0,
            out_len: 0,
            dropped: 0,
            tx_interrupt: false,
            line: [0; LINE],
            line_len: 0,
            too_long: false,
            more: false,
        }
    }

    /// Prints one line.
    pub(super) fn print(&mut self, bus: &mut impl Bus, line: fmt::Arguments<'_>) {
        if !self.present {
            return;
        }
        if self.dropped > 0 && OUTPUT - self.out_len > 256 {
            let count = core::mem::take(&mut self.dropped);
            let _ = fmt::write(self, format_args!("pliant-guest: {count} bytes of output lost\r\n"));
        }
        let _ = fmt::write(self, format_args!("pliant-guest: {line}\r\n"));
        self.pump(bus);
    }

    /// Sends what the port takes now.
    pub(super) fn pump(&mut self, bus: &mut impl Bus) {
        while self.out_len > 0 {
            if bus.in8(LSR) & LSR_THRE == 0 {
                break;
            }
            for _ in 0..FIFO.min(self.out_len) {
                bus.out8(BASE, self.out[self.out_start]);
                self.out_start = (self.out_start + 1) % OUTPUT;
                self.out_len -= 1;
            }
        }
        // Woken by the transmitter only while there is something for it.
        let wanted = self.out_len > 0;
        if wanted != self.tx_interrupt {
            self.tx_interrupt = wanted;
            bus.out8(IER, if wanted { IER_RX | IER_TX } else { IER_RX });
        }
    }

    /// Sends everything, giving up on a port that takes nothing for a while.
    pub(super) fn flush(&mut self, bus: &mut impl Bus) {
        for _ in 0..20_000 {
            self.pump(bus);
            if self.out_len == 0 || bus.stopped() {
                break;
            }
            bus.relax();
        }
    }

    /// Reads input; the next complete line, if there is one.
    pub(super) fn read_line(&mut self, bus: &mut impl Bus) -> Option<Line> {
        if !self.present {
            return None;
        }
        self.more = true;
        for _ in 0..INPUT {
            if bus.in8(LSR) & LSR_DATA == 0 {
                self.more = false;
                return None;
            }
            match bus.in8(BASE) {
                b'\r' | b'\n' => {
                    let line = Line { bytes: self.line, len: self.line_len, too_long: self.too_long };
                    (self.line_len, self.too_long) = (0, false);
                    if line.len > 0 || line.too_long {
                        return Some(line);
                    }
                }
                0x08 | 0x7f => self.line_len = self.line_len.saturating_sub(1),
                byte @ (b' '..=b'~' | b'\t') if self.line_len < LINE => {
                    self.line[self.line_len] = byte;
                    self.line_len += 1;
                }
                b' '..=b'~' => self.too_long = true,
                _ => {}
            }
        }
        None
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.out_len == OUTPUT {
                self.dropped += 1;
                continue;
            }
            self.out[(self.out_start + self.out_len) % OUTPUT] = byte;
            self.out_len += 1;
        }
        Ok(())
    }
}
