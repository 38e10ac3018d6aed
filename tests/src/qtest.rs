//! A client of QEMU's qtest protocol: lines of text that read and write guest memory and ports and move the virtual clock.
//!
//! An `IRQ` line may come at any time; they are queued. Numbers are hexadecimal in both directions.

use std::collections::VecDeque;

use crate::wire::{Wire, WireError};

/// One connection to a qtest server.
#[derive(Debug)]
pub struct Qtest {
    wire: Wire,
    irqs: VecDeque<(bool, u32)>,
}

impl Qtest {
    /// A client on a fresh connection; the server says nothing of itself.
    pub fn new(wire: Wire) -> Self {
        Self { wire, irqs: VecDeque::new() }
    }

    /// Sends a command and returns the words after `OK`.
    ///
    /// # Panics
    ///
    /// If the answer is not `OK` or does not come.
    pub fn command(&mut self, command: &str) -> String {
        let line = self.try_command(command).unwrap_or_else(|e| panic!("{command}: {e}"));
        result(command, &line).to_owned()
    }

    /// Sends a command and returns the whole answer (`OK ...`, `FAIL ...`, `ERR ...`).
    ///
    /// # Errors
    ///
    /// The program hung up or did not answer in time.
    pub fn try_command(&mut self, command: &str) -> Result<String, WireError> {
        self.wire.send(format!("{command}\n").as_bytes())?;
        self.answer()
    }

    /// The next line that is no interrupt's.
    fn answer(&mut self) -> Result<String, WireError> {
        loop {
            let line = self.wire.line()?;
            let Some(irq) = line.strip_prefix("IRQ ") else { return Ok(line) };
            let (what, number) = irq.split_once(' ').unwrap_or((irq, ""));
            self.irqs.push_back((what == "raise", number.trim().parse().unwrap_or(u32::MAX)));
        }
    }

    /// Reads `len` bytes of an item of `fw_cfg` through its ports.
    pub fn fw_cfg_item(&mut self, key: u16, len: usize) -> Vec<u8> {
        const READ: &str = "inb 0x511";
        self.out(0x510, 2, key.into());
        // Many at a time, as waiting for each answer takes longer than what is waited for; both directions hold so many.
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let count = (len - bytes.len()).min(512);
            self.wire.send(format!("{READ}\n").repeat(count).as_bytes()).expect("the program listens");
            for _ in 0..count {
                let line = self.answer().unwrap_or_else(|e| panic!("{READ}: {e}"));
                bytes.push(number(result(READ, &line)) as u8);
            }
        }
        bytes
    }

    /// A file of `fw_cfg`: its key and its bytes; `None` if it is not there.
    ///
    /// # Panics
    ///
    /// If the list of files makes no sense.
    pub fn fw_cfg_file(&mut self, name: &str) -> Option<(u16, Vec<u8>)> {
        const FILE_DIR: u16 = 0x19;
        let count = self.fw_cfg_item(FILE_DIR, 4).try_into().expect("four bytes");
        let list = self.fw_cfg_item(FILE_DIR, 4 + 64 * u32::from_be_bytes(count) as usize);
        let named = |entry: &&[u8]| entry[8..].split(|byte| *byte == 0).next() == Some(name.as_bytes());
        let entry = list[4..].chunks(64).find(named)?;
        let (size, key) = (entry[..4].try_into().expect("four bytes"), [entry[4], entry[5]]);
        let key = u16::from_be_bytes(key);
        Some((key, self.fw_cfg_item(key, u32::from_be_bytes(size) as usize)))
    }

    /// Has `fw_cfg` copy bytes of guest memory into an item, by DMA; the request lies at address 1000h, the bytes at 2000h.
    /// Returns what is left in the request: 0, or the error bit.
    pub fn fw_cfg_write(&mut self, key: u16, bytes: &[u8]) -> u32 {
        let control = u32::from(key) << 16 | 0x18;
        let request =
            [&control.to_be_bytes()[..], &(bytes.len() as u32).to_be_bytes(), &0x2000u64.to_be_bytes()];
        self.write_bytes(0x2000, bytes);
        self.write_bytes(0x1000, &request.concat());
        self.out(0x514, 4, 0);
        self.out(0x518, 4, 0x1000u32.swap_bytes());
        (self.read(0x1000, 4) as u32).swap_bytes()
    }

    /// Reads 1, 2, 4 or 8 bytes of guest memory in one access.
    ///
    /// # Panics
    ///
    /// For another size.
    pub fn read(&mut self, addr: u64, size: usize) -> u64 {
        number(&self.command(&format!("read{} {addr:#x}", suffix(size))))
    }

    /// Writes 1, 2, 4 or 8 bytes of guest memory in one access.
    ///
    /// # Panics
    ///
    /// For another size.
    pub fn write(&mut self, addr: u64, size: usize, value: u64) {
        self.command(&format!("write{} {addr:#x} {value:#x}", suffix(size)));
    }

    /// Reads bytes of guest memory.
    ///
    /// # Panics
    ///
    /// If the answer is not as many bytes.
    pub fn bytes(&mut self, addr: u64, len: usize) -> Vec<u8> {
        let hex = self.command(&format!("read {addr:#x} {len:#x}"));
        let hex = hex.strip_prefix("0x").unwrap_or(&hex);
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hexadecimal digits"))
            .collect();
        assert_eq!(bytes.len(), len, "as many bytes as were asked for");
        bytes
    }

    /// Writes bytes to guest memory.
    pub fn write_bytes(&mut self, addr: u64, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        self.command(&format!("write {addr:#x} {:#x} 0x{hex}", bytes.len()));
    }

    /// Fills guest memory.
    pub fn memset(&mut self, addr: u64, len: u64, value: u8) {
        self.command(&format!("memset {addr:#x} {len:#x} {value:#04x}"));
    }

    /// Reads a port of 1, 2 or 4 bytes.
    pub fn inp(&mut self, port: u16, size: usize) -> u32 {
        number(&self.command(&format!("in{} {port:#x}", suffix(size)))) as u32
    }

    /// Writes a port of 1, 2 or 4 bytes.
    pub fn out(&mut self, port: u16, size: usize, value: u32) {
        self.command(&format!("out{} {port:#x} {value:#x}", suffix(size)));
    }

    /// Moves the virtual clock on by some nanoseconds (to the next timer without a number); the time now.
    pub fn clock_step(&mut self, ns: Option<i64>) -> i64 {
        let command = ns.map_or("clock_step".to_owned(), |ns| format!("clock_step {ns}"));
        self.command(&command).parse().expect("a time in nanoseconds")
    }

    /// Has the interrupt lines into a device reported.
    pub fn irq_intercept_in(&mut self, path: &str) {
        self.command(&format!("irq_intercept_in {path}"));
    }

    /// Has the interrupt lines out of a device reported.
    pub fn irq_intercept_out(&mut self, path: &str) {
        self.command(&format!("irq_intercept_out {path}"));
    }

    /// The changes of interrupt lines so far: raised or not, and the number.
    pub fn irqs(&mut self) -> Vec<(bool, u32)> {
        self.irqs.drain(..).collect()
    }

    /// The stream itself.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

fn suffix(size: usize) -> char {
    match size {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        8 => 'q',
        _ => panic!("no access of {size} bytes"),
    }
}

/// What follows `OK` in an answer.
fn result<'a>(command: &str, line: &'a str) -> &'a str {
    line.strip_prefix("OK").unwrap_or_else(|| panic!("{command}: {line}")).trim_start()
}

fn number(text: &str) -> u64 {
    let hex = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(hex, 16).unwrap_or_else(|e| panic!("{text:?}: {e}"))
}
