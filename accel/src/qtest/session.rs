//! The qtest protocol (QEMU's "QTest" developer documentation): one command a line, one reply a line.
//!
//! | command | reply |
//! | --- | --- |
//! | `readb`/`readw`/`readl`/`readq ADDR` | `OK 0x%016x` |
//! | `writeb`/`writew`/`writel`/`writeq ADDR VALUE` | `OK` |
//! | `inb`/`inw`/`inl PORT` | `OK 0x%04x` |
//! | `outb`/`outw`/`outl PORT VALUE` | `OK` |
//! | `read ADDR SIZE`, `b64read ADDR SIZE` | `OK 0xHEX`, `OK BASE64` |
//! | `write ADDR SIZE 0xHEX`, `b64write ADDR SIZE BASE64`, `memset ADDR SIZE BYTE` | `OK` |
//! | `clock_step [NS]`, `clock_set NS` | `OK NOW` |
//! | `irq_intercept_in`/`irq_intercept_out PATH` | `OK`, then `IRQ raise N`, `IRQ lower N` at any time |
//! | `endianness` | `OK little` |
//! | anything else | `FAIL Unknown command 'X'` |
//!
//! Where QEMU aborts on bad arguments, the reply is a `FAIL` line. Lines above [`MAX_LINE`] bytes and transfers above
//! [`MAX_TRANSFER`] fail.

use std::fmt::Write;

use qapi::base64;

/// Longest line, bytes.
pub const MAX_LINE: usize = 2 * MAX_TRANSFER + 128;
/// Most bytes of guest memory in one command.
pub const MAX_TRANSFER: usize = 16 << 20;
/// Most bytes that one `memset` fills.
const MAX_FILL: u64 = 64 << 30;
const FILL_CHUNK: usize = 64 << 10;

/// Which address space an access is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Guest-physical memory.
    Memory,
    /// I/O ports.
    Ports,
}

/// Which lines of a device are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Those that others drive.
    In,
    /// Those that the device drives.
    Out,
}

/// What a session acts on.
pub trait Machine {
    /// Reads bytes.
    fn read(&mut self, space: Space, addr: u64, bytes: &mut [u8]);
    /// Writes bytes.
    fn write(&mut self, space: Space, addr: u64, bytes: &[u8]);
    /// Moves guest time `ns` on, or to the next timer, runs what is due, and returns the new time.
    fn clock_step(&mut self, ns: Option<i64>) -> i64;
    /// Moves guest time to `ns`, runs what is due, and returns the new time.
    fn clock_set(&mut self, ns: i64) -> i64;
    /// Reports the lines of the device at `path` from now on.
    ///
    /// # Errors
    /// The text after `FAIL `.
    fn intercept(&mut self, path: &str, direction: Direction) -> Result<(), String>;
}

/// The reply line for a change of a line that is intercepted.
#[must_use]
pub fn irq_line(line: u32, level: bool) -> String {
    format!("IRQ {} {line}\n", if level { "raise" } else { "lower" })
}

/// What passes between client and machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange<'a> {
    /// A command, without its line end.
    Command(&'a str),
    /// A reply, with its line end.
    Reply(&'a str),
}

/// One client's connection: the start of a line that has not ended.
#[derive(Debug, Default)]
pub struct Session {
    line: Vec<u8>,
    /// The line was too long; the rest of it is dropped.
    skipping: bool,
}

impl Session {
    /// A fresh connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the client, in pieces of any size. `exchange` hears of each command before it runs and of its
    /// reply after; replies are to be sent in that order.
    pub fn feed(&mut self, machine: &mut dyn Machine, bytes: &[u8], mut exchange: impl FnMut(Exchange<'_>)) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.push(&rest[..end]);
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            if std::mem::take(&mut self.skipping) {
                exchange(Exchange::Reply("FAIL Line too long\n"));
                continue;
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.strip_suffix('\r').unwrap_or(&line);
            // An empty line is no command.
            if !line.is_empty() {
                exchange(Exchange::Command(line));
                let mut reply = run(machine, line).unwrap_or_else(|error| format!("FAIL {error}"));
                reply.push('\n');
                exchange(Exchange::Reply(&reply));
            }
        }
        self.push(rest);
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.line.len() + bytes.len() > MAX_LINE {
            self.skipping = true;
            self.line = Vec::new();
        }
        if !self.skipping {
            self.line.extend_from_slice(bytes);
        }
    }
}

fn ok() -> String {
    "OK".to_owned()
}

/// Runs one command; the error is the text after `FAIL `.
fn run(machine: &mut dyn Machine, line: &str) -> Result<String, String> {
    let mut words = Words { words: line.split(' ').filter(|word| !word.is_empty()) };
    let command = words.next("command")?;
    if let Some((space, size)) = access(command, "read", "in") {
        let addr = words.address(space)?;
        let mut bytes = [0; 8];
        machine.read(space, addr, &mut bytes[..size]);
        let value = u64::from_le_bytes(bytes);
        return Ok(match space {
            Space::Memory => format!("OK 0x{value:016x}"),
            Space::Ports => format!("OK 0x{value:04x}"),
        });
    }
    if let Some((space, size)) = access(command, "write", "out") {
        let addr = words.address(space)?;
        let value = words.number("value")?;
        machine.write(space, addr, &value.to_le_bytes()[..size]);
        return Ok(ok());
    }
    match command {
        "read" => {
            let bytes = words.read(machine)?;
            let mut reply = String::with_capacity(5 + 2 * bytes.len());
            reply.push_str("OK 0x");
            for byte in bytes {
                write!(reply, "{byte:02x}").map_err(|_| "out of memory")?;
            }
            Ok(reply)
        }
        "b64read" => Ok(format!("OK {}", base64::encode(&words.read(machine)?))),
        "write" => {
            let (addr, size) = words.range()?;
            let data = from_hex(words.next("data")?, size)?;
            machine.write(Space::Memory, addr, &data);
            Ok(ok())
        }
        "b64write" => {
            let (addr, size) = words.range()?;
            let mut data = base64::decode(words.next("data")?).ok_or("Invalid base64")?;
            data.truncate(size);
            machine.write(Space::Memory, addr, &data);
            Ok(ok())
        }
        "memset" => {
            let (addr, size, value) =
                (words.number("address")?, words.number("size")?, words.number("value")?);
            fill(machine, addr, size, value as u8)?;
            Ok(ok())
        }
        "clock_step" => {
            let step = words.next("time").ok().map(signed).transpose()?;
            Ok(format!("OK {}", machine.clock_step(step)))
        }
        "clock_set" => {
            let time = signed(words.next("time")?)?;
            Ok(format!("OK {}", machine.clock_set(time)))
        }
        "irq_intercept_in" => machine.intercept(words.next("path")?, Direction::In).map(|()| ok()),
        "irq_intercept_out" => machine.intercept(words.next("path")?, Direction::Out).map(|()| ok()),
        "endianness" => Ok("OK little".to_owned()),
        _ => Err(format!("Unknown command '{command}'")),
    }
}

/// `readl`, `inw` and the like: address space and size.
fn access(command: &str, memory: &str, ports: &str) -> Option<(Space, usize)> {
    let size = |suffix| match suffix {
        "b" => Some(1),
        "w" => Some(2),
        "l" => Some(4),
        "q" => Some(8),
        _ => None,
    };
    if let Some(size) = command.strip_prefix(memory).and_then(size) {
        return Some((Space::Memory, size));
    }
    let size = command.strip_prefix(ports).and_then(size).filter(|size| *size < 8)?;
    Some((Space::Ports, size))
}

struct Words<I> {
    words: I,
}

impl<'a, I: Iterator<Item = &'a str>> Words<I> {
    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.words.next().ok_or_else(|| format!("Missing {what}"))
    }

    fn number(&mut self, what: &str) -> Result<u64, String> {
        unsigned(self.next(what)?)
    }

    fn address(&mut self, space: Space) -> Result<u64, String> {
        let addr = self.number("address")?;
        match space {
            Space::Ports if addr > 0xffff => Err(format!("Port 0x{addr:x} does not exist")),
            _ => Ok(addr),
        }
    }

    fn range(&mut self) -> Result<(u64, usize), String> {
        let (addr, size) = (self.number("address")?, self.number("size")?);
        match usize::try_from(size) {
            Ok(size) if (1..=MAX_TRANSFER).contains(&size) => Ok((addr, size)),
            _ => Err(format!("Invalid size {size}")),
        }
    }

    fn read(&mut self, machine: &mut dyn Machine) -> Result<Vec<u8>, String> {
        let (addr, size) = self.range()?;
        let mut bytes = vec![0; size];
        machine.read(Space::Memory, addr, &mut bytes);
        Ok(bytes)
    }
}

/// A number as `strtoull` with base 0 takes it, the sign included.
fn unsigned(text: &str) -> Result<u64, String> {
    let error = || format!("Invalid number '{text}'");
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let value = match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
        (Some(hex), _) => u64::from_str_radix(hex, 16),
        (None, Some(octal)) if !octal.is_empty() => u64::from_str_radix(octal, 8),
        _ => lower.parse(),
    }
    .map_err(|_| error())?;
    // `from_str_radix` takes a sign of its own.
    if lower[lower.len().min(2)..].contains(['+', '-']) || lower.starts_with(['+', '-']) {
        return Err(error());
    }
    Ok(if negative { value.wrapping_neg() } else { value })
}

fn signed(text: &str) -> Result<i64, String> {
    let value = unsigned(text)?.cast_signed();
    if value < 0 { Err(format!("Invalid time '{text}'")) } else { Ok(value) }
}

/// `0x` and hexadecimal digits; what is missing of `size` bytes is zero, what is too much is ignored.
fn from_hex(text: &str, size: usize) -> Result<Vec<u8>, String> {
    let error = || "Invalid hexadecimal data".to_owned();
    let digits = text.strip_prefix("0x").ok_or_else(error)?.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8).ok_or_else(error);
    let mut bytes = vec![0; size];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

fn fill(machine: &mut dyn Machine, addr: u64, size: u64, value: u8) -> Result<(), String> {
    if size > MAX_FILL {
        return Err(format!("Invalid size {size}"));
    }
    let chunk = [value; FILL_CHUNK];
    let mut done = 0;
    while done < size {
        let count = (size - done).min(FILL_CHUNK as u64);
        machine.write(Space::Memory, addr.wrapping_add(done), &chunk[..count as usize]);
        done += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
