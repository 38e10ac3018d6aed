//! `info registers`: what a CPU's registers hold, in the columns that QEMU's users know.

use std::fmt::Write as _;

use qapi::{Dict, Result, Value};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::{Execute, flag, items, member, number, with_cpu};

/// The `info` sub-commands of this room.
pub(super) const INFOS: &[Command] = &[command(
    "registers",
    &[("cpustate_all", Kind::Flag('a')), ("vcpu", Kind::OptionalNumber)],
    "[-a|vcpu]",
    "show the cpu registers (-a: show register info for all cpus; vcpu: specific vCPU to query; show the current CPU's registers if no argument is specified)",
    &[],
    registers,
)];

fn registers(x: &dyn Execute, args: &Args) -> Result<String> {
    let cpus = x.query("query-cpus-fast")?;
    let known: Vec<i64> =
        items(&cpus).iter().filter_map(|cpu| i64::try_from(number(cpu, "cpu-index")).ok()).collect();
    if args.flag("cpustate_all") {
        return known.into_iter().map(|index| one(x, index)).collect();
    }
    // Beyond what QEMU's signed number has, it is as if there were none.
    let wanted = args.number("vcpu").filter(|vcpu| *vcpu <= i64::from(i32::MAX));
    let Some(index) = wanted.or(args.cpu()).or(known.first().copied()) else {
        return Ok("No CPU available\n".to_owned());
    };
    if known.contains(&index) { one(x, index) } else { Ok(format!("CPU#{index} not available\n")) }
}

fn one(x: &dyn Execute, index: i64) -> Result<String> {
    let registers = x.execute("x-pliant-query-registers", with_cpu(Dict::new(), Some(index)))?;
    Ok(format!("\nCPU#{index}\n{}", Cpu(&registers)))
}

const CR0_PE: u64 = 1;
const EFER_LMA: u64 = 1 << 10;
/// Attributes of a segment.
const ACCESSED: u64 = 1 << 8;
/// Writable, or code that may be read.
const READ_WRITE: u64 = 1 << 9;
/// Grows down, or code that conforms.
const EXPANDS: u64 = 1 << 10;
const CODE: u64 = 1 << 11;
const NO_SYSTEM: u64 = 1 << 12;
const PRESENT: u64 = 1 << 15;
const LONG: u64 = 1 << 21;
const BIG: u64 = 1 << 22;

/// Types of system segments, without and in long mode.
const SYSTEM: [[&str; 16]; 2] = [
    [
        "Reserved",
        "TSS16-avl",
        "LDT",
        "TSS16-busy",
        "CallGate16",
        "TaskGate",
        "IntGate16",
        "TrapGate16",
        "Reserved",
        "TSS32-avl",
        "Reserved",
        "TSS32-busy",
        "CallGate32",
        "Reserved",
        "IntGate32",
        "TrapGate32",
    ],
    [
        "<hiword>",
        "Reserved",
        "LDT",
        "Reserved",
        "Reserved",
        "Reserved",
        "Reserved",
        "Reserved",
        "Reserved",
        "TSS64-avl",
        "Reserved",
        "TSS64-busy",
        "CallGate64",
        "Reserved",
        "IntGate64",
        "TrapGate64",
    ],
];

/// A reply of `x-pliant-query-registers`, to be printed.
struct Cpu<'v>(&'v Value);

impl Cpu<'_> {
    fn get(&self, name: &str) -> u64 {
        number(self.0, name)
    }

    fn is_long_mode(&self) -> bool {
        self.get("efer") & EFER_LMA != 0
    }

    fn part(&self, segment: &str, part: &str) -> u64 {
        member(self.0, segment).map_or(0, |segment| number(segment, part))
    }

    /// Whether it executes 64-bit code.
    fn is_64_bit(&self) -> bool {
        self.is_long_mode() && self.part("cs", "flags") & LONG != 0
    }

    /// Digits of addresses and control registers.
    fn digits(&self) -> usize {
        if self.is_long_mode() { 16 } else { 8 }
    }

    /// Lines of four general registers each.
    fn general(&self, out: &mut String) {
        let wide = self.is_64_bit();
        let (prefix, digits) = if wide { ('R', 16) } else { ('E', 8) };
        let named = ["ax", "bx", "cx", "dx", "si", "di", "bp", "sp"]
            .map(|name| (format!("{prefix}{}", name.to_uppercase()), format!("r{name}")));
        let numbered = (8..16).map(|n| (format!("R{n:<2}"), format!("r{n}"))).take(if wide { 8 } else { 0 });
        for (index, (shown, name)) in named.into_iter().chain(numbered).enumerate() {
            let end = if index % 4 == 3 { '\n' } else { ' ' };
            let _ = write!(out, "{shown}={:0digits$x}{end}", self.get(&name) & mask(digits));
        }
        let flags = self.get("rflags");
        let letters: String = [(10, 'D'), (11, 'O'), (7, 'S'), (6, 'Z'), (4, 'A'), (2, 'P'), (0, 'C')]
            .map(|(bit, letter)| if flags >> bit & 1 == 0 { '-' } else { letter })
            .iter()
            .collect();
        let _ = writeln!(
            out,
            "{prefix}IP={:0digits$x} {prefix}FL={:08x} [{letters}] CPL={} II={} A20=1 SMM={} HLT={}",
            self.get("rip") & mask(digits),
            flags & mask(8),
            self.part("ss", "flags") >> 13 & 3,
            u8::from(flag(self.0, "interrupt-shadow")),
            u8::from(flag(self.0, "smm")),
            u8::from(flag(self.0, "halted")),
        );
    }

    fn segment(&self, out: &mut String, name: &str) {
        let (shown, wide) = (name.to_uppercase(), self.is_64_bit());
        let [selector, base, limit, flags] =
            ["selector", "base", "limit", "flags"].map(|part| self.part(name, part));
        let digits = if wide { 16 } else { 8 };
        let _ = write!(
            out,
            "{shown:<3}={selector:04x} {:0digits$x} {limit:08x} {flags:08x}",
            base & mask(digits)
        );
        if self.get("cr0") & CR0_PE != 0 && flags & PRESENT != 0 {
            let letter = |bit: u64, letter: char| if flags & bit == 0 { '-' } else { letter };
            let accessed = letter(ACCESSED, 'A');
            let kind = if flags & NO_SYSTEM == 0 {
                SYSTEM[usize::from(self.is_long_mode())][(flags >> 8 & 15) as usize].to_owned()
            } else if flags & CODE != 0 {
                let size = if flags & LONG != 0 {
                    "CS64"
                } else if flags & BIG != 0 {
                    "CS32"
                } else {
                    "CS16"
                };
                format!("{size} [{}{}{accessed}]", letter(EXPANDS, 'C'), letter(READ_WRITE, 'R'))
            } else {
                let size = if flags & BIG != 0 || self.is_long_mode() { "DS  " } else { "DS16" };
                format!("{size} [{}{}{accessed}]", letter(EXPANDS, 'E'), letter(READ_WRITE, 'W'))
            };
            let _ = write!(out, " DPL={} {kind}", flags >> 13 & 3);
        }
        out.push('\n');
    }

    fn system(&self, out: &mut String) {
        let digits = self.digits();
        for (shown, name) in [("GDT", "gdt"), ("IDT", "idt")] {
            let (base, limit) = (self.part(name, "base"), self.part(name, "limit"));
            let _ = writeln!(out, "{shown}=     {:0digits$x} {limit:08x}", base & mask(digits));
        }
        let [cr0, cr2, cr3, cr4] = ["cr0", "cr2", "cr3", "cr4"].map(|name| self.get(name));
        let (cr2, cr3) = (cr2 & mask(digits), cr3 & mask(digits));
        let (cr0, cr4) = (cr0 & mask(8), cr4 & mask(8));
        let _ = writeln!(out, "CR0={cr0:08x} CR2={cr2:0digits$x} CR3={cr3:0digits$x} CR4={cr4:08x}");
        for name in ["dr0", "dr1", "dr2", "dr3"] {
            let _ = write!(out, "{}={:016x} ", name.to_uppercase(), self.get(name));
        }
        let _ = writeln!(out, "\nDR6={:016x} DR7={:016x}", self.get("dr6"), self.get("dr7"));
        let _ = writeln!(out, "EFER={:016x}", self.get("efer"));
    }

    fn floats(&self, out: &mut String) {
        let status = self.get("fsw");
        let _ = writeln!(
            out,
            "FCW={:04x} FSW={status:04x} [ST={}] FTW={:02x} MXCSR={:08x}",
            self.get("fcw"),
            status >> 11 & 7,
            self.get("ftw"),
            self.get("mxcsr")
        );
        let floats = member(self.0, "st").map(items).unwrap_or_default();
        columns(out, floats, 2, |index, float| {
            format!("FPR{index}={:016x} {:04x}", number(float, "significand"), number(float, "exponent"))
        });
    }

    fn vectors(&self, out: &mut String) {
        let masks = member(self.0, "opmask").map(items).unwrap_or_default();
        columns(out, masks, 4, |index, mask| format!("Opmask{index:02}={:016x}", mask.as_u64().unwrap_or(0)));
        let vectors = member(self.0, "vectors").map(items).unwrap_or_default();
        let digits = vectors.first().and_then(Value::as_str).map_or(0, str::len);
        let (name, in_line) = match digits {
            128 => ("ZMM", 1),
            64 => ("YMM", 1),
            _ => ("XMM", 2),
        };
        // Other code than 64-bit has eight of them.
        let count = if self.is_64_bit() { vectors.len() } else { vectors.len().min(8) };
        columns(out, &vectors[..count], in_line, |index, vector| {
            let digits = vector.as_str().unwrap_or_default().as_bytes();
            let longs: Vec<_> = digits.chunks(16).map(String::from_utf8_lossy).collect();
            format!("{name}{index:02}={}", longs.join(" "))
        });
    }
}

/// So many hexadecimal digits of a number.
fn mask(digits: usize) -> u64 {
    if digits < 16 { (1 << (4 * digits)) - 1 } else { u64::MAX }
}

/// Prints values side by side.
fn columns(out: &mut String, values: &[Value], in_line: usize, show: impl Fn(usize, &Value) -> String) {
    for (index, value) in values.iter().enumerate() {
        out.push_str(&show(index, value));
        out.push(if (index + 1).is_multiple_of(in_line) { '\n' } else { ' ' });
    }
}

impl std::fmt::Display for Cpu<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = String::new();
        self.general(&mut out);
        for name in ["es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr"] {
            self.segment(&mut out, name);
        }
        self.system(&mut out);
        self.floats(&mut out);
        self.vectors(&mut out);
        f.write_str(&out)
    }
}

#[cfg(test)]
mod tests;
