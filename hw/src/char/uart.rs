//! The registers of a 16550A (National Semiconductor PC16550D datasheet §8), without wires: bytes go in and out of queues,
//! the interrupt is a level to look at.
//!
//! Left out: baud rates (data moves at once), parity and framing errors, the receiver trigger level (one byte is enough).

use std::collections::VecDeque;

use vmstate::{LoadError, vmstate};

/// Bytes of each FIFO.
pub const FIFO_SIZE: usize = 16;

const IER_RECEIVED: u8 = 1 << 0;
const IER_TRANSMITTED: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IER_ALL: u8 = 0x0f;
const IIR_NONE: u8 = 0x01;
const IIR_TRANSMITTED: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE: u8 = 0x06;
const IIR_FIFO: u8 = 0xc0;
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;
const FCR_CLEAR_TRANSMITTER: u8 = 1 << 2;
/// These two do something and are not kept.
const FCR_CLEAR: u8 = FCR_CLEAR_RECEIVER | FCR_CLEAR_TRANSMITTER;
const LCR_DIVISOR: u8 = 1 << 7;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;
const MCR_ALL: u8 = 0x1f;
const LSR_DATA: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_BREAK: u8 = 1 << 4;
const LSR_EMPTY: u8 = 0x60;
/// Carrier detect, data set ready, clear to send: the far end is always ready.
const MSR_READY: u8 = 0xb0;

/// The registers.
#[derive(Debug, Clone)]
pub struct Uart {
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: [u8; 2],
    /// Overrun and break, until read.
    errors: u8,
    received: VecDeque<u8>,
    transmit: VecDeque<u8>,
    /// The transmitter ran empty and the guest was not told yet.
    transmitted: bool,
}

vmstate! {
    /// What a migration takes along of a serial port.
    pub struct UartState: "serial", version 1 {
        /// The divisor of the baud rate.
        divider: u16,
        /// Interrupt enable.
        ier: u8,
        /// FIFO control.
        fcr: u8,
        /// Line control.
        lcr: u8,
        /// Modem control.
        mcr: u8,
        /// Scratch.
        scr: u8,
        /// Overrun and break, until read.
        lsr_errors: u8,
        /// Whether the guest is yet to be told that the transmitter ran empty.
        thr_ipending: bool,
        /// Bytes that the guest has not read.
        recv_fifo: Vec<u8>,
        /// Bytes that the line has not taken.
        xmit_fifo: Vec<u8>,
    }
}

impl Default for Uart {
    fn default() -> Self {
        Self {
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: 0,
            modem_control: MCR_OUT2,
            scratch: 0,
            divisor: [12, 0],
            errors: 0,
            received: VecDeque::new(),
            transmit: VecDeque::new(),
            transmitted: false,
        }
    }
}

impl Uart {
    /// What there is now.
    pub fn saved_state(&self) -> UartState {
        let Self {
            interrupt_enable,
            fifo_control,
            line_control,
            modem_control,
            scratch,
            divisor,
            errors,
            received,
            transmit,
            transmitted,
        } = self;
        UartState {
            divider: u16::from_le_bytes(*divisor),
            ier: *interrupt_enable,
            fcr: *fifo_control,
            lcr: *line_control,
            mcr: *modem_control,
            scr: *scratch,
            lsr_errors: *errors,
            thr_ipending: *transmitted,
            recv_fifo: received.iter().copied().collect(),
            xmit_fifo: transmit.iter().copied().collect(),
        }
    }

    /// The registers that had that.
    ///
    /// # Errors
    /// None can have.
    pub fn from_state(state: UartState) -> vmstate::Result<Self> {
        let UartState { divider, ier, fcr, lcr, mcr, scr, lsr_errors, thr_ipending, recv_fifo, xmit_fifo } =
            state;
        let fifos = recv_fifo.len() <= FIFO_SIZE && xmit_fifo.len() <= FIFO_SIZE;
        let registers = ier <= IER_ALL && mcr <= MCR_ALL && fcr & FCR_CLEAR == 0;
        if !fifos || !registers || lsr_errors & !(LSR_OVERRUN | LSR_BREAK) != 0 {
            return Err(LoadError::invalid("serial: registers have values that they cannot have"));
        }
        Ok(Self {
            interrupt_enable: ier,
            fifo_control: fcr,
            line_control: lcr,
            modem_control: mcr,
            scratch: scr,
            divisor: divider.to_le_bytes(),
            errors: lsr_errors,
            received: recv_fifo.into(),
            transmit: xmit_fifo.into(),
            transmitted: thr_ipending,
        })
    }

    fn depth(&self) -> usize {
        if self.fifo_control & FCR_ENABLE != 0 { FIFO_SIZE } else { 1 }
    }

    /// How many received bytes there is room for.
    pub fn room(&self) -> usize {
        if self.modem_control & MCR_LOOP != 0 { 0 } else { self.depth().saturating_sub(self.received.len()) }
    }

    /// A byte comes in from the line.
    pub fn receive(&mut self, byte: u8) {
        if self.received.len() < self.depth() {
            self.received.push_back(byte);
        } else {
            self.errors |= LSR_OVERRUN;
        }
    }

    /// A break comes in from the line.
    pub fn receive_break(&mut self) {
        self.receive(0);
        self.errors |= LSR_BREAK;
    }

    /// Bytes that wait to go out.
    pub fn transmit_queue(&mut self) -> &[u8] {
        self.transmit.make_contiguous()
    }

    /// The line took `count` of them.
    pub fn sent(&mut self, count: usize) {
        let count = count.min(self.transmit.len());
        self.transmit.drain(..count);
        if count > 0 && self.transmit.is_empty() {
            self.transmitted = true;
        }
    }

    /// What interrupts, the most urgent first.
    fn cause(&self) -> u8 {
        if self.interrupt_enable & IER_LINE != 0 && self.errors != 0 {
            IIR_LINE
        } else if self.interrupt_enable & IER_RECEIVED != 0 && !self.received.is_empty() {
            IIR_RECEIVED
        } else if self.interrupt_enable & IER_TRANSMITTED != 0 && self.transmitted {
            IIR_TRANSMITTED
        } else {
            IIR_NONE
        }
    }

    /// Level of the interrupt line; OUT2 gates it on a PC.
    pub fn interrupt(&self) -> bool {
        self.modem_control & MCR_OUT2 != 0 && self.cause() != IIR_NONE
    }

    /// The guest reads register `offset` (0 to 7).
    pub fn read(&mut self, offset: u8) -> u8 {
        let divisor = self.line_control & LCR_DIVISOR != 0;
        match offset & 7 {
            0 if divisor => self.divisor[0],
            1 if divisor => self.divisor[1],
            0 => self.received.pop_front().unwrap_or(0),
            1 => self.interrupt_enable,
            2 => {
                let cause = self.cause();
                if cause == IIR_TRANSMITTED {
                    self.transmitted = false;
                }
                cause | if self.fifo_control & FCR_ENABLE != 0 { IIR_FIFO } else { 0 }
            }
            3 => self.line_control,
            4 => self.modem_control,
            5 => {
                let data = if self.received.is_empty() { 0 } else { LSR_DATA };
                let empty = if self.transmit.is_empty() { LSR_EMPTY } else { 0 };
                data | empty | std::mem::take(&mut self.errors)
            }
            6 if self.modem_control & MCR_LOOP != 0 => {
                // CTS from RTS, DSR from DTR, RI from OUT1, DCD from OUT2.
                let out = self.modem_control;
                (out & 0x0c) << 4 | (out & 0x02) << 3 | (out & 0x01) << 5
            }
            6 => MSR_READY,
            _ => self.scratch,
        }
    }

    /// The guest writes register `offset` (0 to 7).
    pub fn write(&mut self, offset: u8, value: u8) {
        let divisor = self.line_control & LCR_DIVISOR != 0;
        match offset & 7 {
            0 if divisor => self.divisor[0] = value,
            1 if divisor => self.divisor[1] = value,
            0 if self.modem_control & MCR_LOOP != 0 => {
                self.receive(value);
                self.transmitted = true;
            }
            0 => {
                self.transmitted = false;
                // A full transmitter loses what does not fit, as the chip does.
                if self.transmit.len() < self.depth() {
                    self.transmit.push_back(value);
                }
            }
            1 => {
                let newly = value & !self.interrupt_enable;
                self.interrupt_enable = value & IER_ALL;
                // Switching it on while the transmitter is empty interrupts at once.
                if newly & IER_TRANSMITTED != 0 && self.transmit.is_empty() {
                    self.transmitted = true;
                }
            }
            2 => self.set_fifo_control(value),
            3 => self.line_control = value,
            4 => self.modem_control = value & MCR_ALL,
            7 => self.scratch = value,
            _ => {}
        }
    }

    fn set_fifo_control(&mut self, value: u8) {
        let toggled = (value ^ self.fifo_control) & FCR_ENABLE != 0;
        if toggled || value & FCR_CLEAR_RECEIVER != 0 {
            self.received.clear();
        }
        if value & FCR_CLEAR_TRANSMITTER != 0 && !self.transmit.is_empty() {
            self.transmit.clear();
            self.transmitted = true;
        }
        self.fifo_control = value & !FCR_CLEAR;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_transmitter_interrupts_once_enabled_and_is_acknowledged_by_reading() {
        let mut uart = Uart::default();
        uart.write(1, IER_TRANSMITTED);
        assert!(uart.interrupt());
        assert_eq!((uart.read(2), uart.interrupt()), (IIR_TRANSMITTED, false));
        uart.write(0, b'x');
        assert_eq!((uart.transmit_queue().to_vec(), uart.read(5) & LSR_EMPTY), (vec![b'x'], 0));
        uart.sent(1);
        assert!(uart.interrupt() && uart.read(5) & LSR_EMPTY != 0);
    }

    #[test]
    fn received_bytes_come_before_the_transmitter() {
        let mut uart = Uart::default();
        uart.write(2, FCR_ENABLE);
        uart.write(1, IER_RECEIVED | IER_TRANSMITTED);
        uart.receive(b'a');
        uart.receive(b'b');
        assert_eq!(uart.read(2), IIR_RECEIVED | IIR_FIFO);
        assert_eq!([uart.read(0), uart.read(0), uart.read(0)], [b'a', b'b', 0]);
        assert_eq!(uart.read(2), IIR_TRANSMITTED | IIR_FIFO);
        assert_eq!(uart.read(2), IIR_NONE | IIR_FIFO);
    }

    #[test]
    fn nothing_is_taken_beyond_the_fifo() {
        let mut uart = Uart::default();
        assert_eq!(uart.room(), 1);
        uart.write(2, FCR_ENABLE);
        for byte in 0..=FIFO_SIZE as u8 {
            uart.receive(byte);
            uart.write(0, byte);
        }
        assert_eq!((uart.room(), uart.transmit_queue().len()), (0, FIFO_SIZE));
        assert_eq!(uart.read(5) & LSR_OVERRUN, LSR_OVERRUN);
        assert_eq!(uart.read(5) & LSR_OVERRUN, 0);
    }

    #[test]
    fn a_line_without_out2_is_silent() {
        let mut uart = Uart::default();
        uart.write(4, 0);
        uart.write(1, IER_RECEIVED);
        uart.receive(1);
        assert!(!uart.interrupt());
        uart.write(4, MCR_OUT2);
        assert!(uart.interrupt());
    }

    #[test]
    fn loopback_turns_around_data_and_modem_lines() {
        let mut uart = Uart::default();
        uart.write(4, MCR_LOOP | 0x0a);
        uart.write(0, 0x5a);
        assert_eq!((uart.read(0), uart.read(6), uart.transmit_queue().len()), (0x5a, 0x90, 0));
    }
}
