//! Where addresses lead to, and what is behind ports.

use qapi::{Dict, Result};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::machine::human;
use super::{Execute, has_no_cpu, member, number, plain, text, with_cpu};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "gpa2hpa",
        &[("addr", Kind::Long)],
        "addr",
        "print the host physical address corresponding to a guest physical address",
        &[],
        |x, args| host_address(x, args, true),
    ),
    command(
        "gpa2hva",
        &[("addr", Kind::Long)],
        "addr",
        "print the host virtual address corresponding to a guest physical address",
        &[],
        |x, args| host_address(x, args, false),
    ),
    command(
        "gva2gpa",
        &[("addr", Kind::Long)],
        "addr",
        "print the guest physical address corresponding to a guest virtual address",
        &[],
        gva2gpa,
    ),
    command(
        "i",
        &[("fmt", Kind::Format), ("addr", Kind::Number), ("index", Kind::DottedNumber)],
        "/fmt addr",
        "I/O port read",
        &[],
        port_read,
    ),
    command(
        "o",
        &[("fmt", Kind::Format), ("addr", Kind::Number), ("val", Kind::Number)],
        "/fmt addr value",
        "I/O port write",
        &[],
        port_write,
    ),
    command(
        "sum",
        &[("start", Kind::Number), ("size", Kind::Number)],
        "addr size",
        "compute the checksum of a memory region",
        &[],
        sum,
    ),
];

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] = &[
    command("mem", &[], "", "show the active virtual memory mappings", &[], |x, args| tables(x, args, true)),
    command("roms", &[], "", "show roms", &[], |x, _| human(x, "x-query-roms")),
    command("tlb", &[], "", "show virtual to physical memory mappings", &[], |x, args| {
        tables(x, args, false)
    }),
];

/// The argument that all of these have.
fn addr(args: &Args) -> u64 {
    args.number("addr").unwrap_or(0).cast_unsigned()
}

/// A number in hexadecimal, as C's `#` flag has it.
fn hex(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("{value:#x}") }
}

fn gva2gpa(x: &dyn Execute, args: &Args) -> Result<String> {
    if has_no_cpu(x)? {
        return Ok("No cpu\n".to_owned());
    }
    let arguments = with_cpu(Dict::new().with("address", addr(args)), args.cpu());
    let reply = x.execute("x-pliant-translate-address", arguments)?;
    Ok(match member(&reply, "physical") {
        Some(_) => format!("gpa: {}\n", hex(number(&reply, "physical"))),
        None => "Unmapped\n".to_owned(),
    })
}

fn host_address(x: &dyn Execute, args: &Args, physical: bool) -> Result<String> {
    let arguments = Dict::new().with("address", addr(args)).with("physical", physical);
    let kind = if physical { "physical" } else { "virtual" };
    plain(x.execute("x-pliant-query-host-address", arguments).map(|reply| {
        let (region, address) = (text(&reply, "region"), text(&reply, "address"));
        format!("Host {kind} address for {:#x} ({region}) is {address}\n", addr(args))
    }))
}

fn sum(x: &dyn Execute, args: &Args) -> Result<String> {
    let argument = |name| args.number(name).unwrap_or(0);
    let arguments = Dict::new().with("address", argument("start")).with("size", argument("size"));
    Ok(format!("{:05}\n", number(&x.execute("x-pliant-sum-memory", arguments)?, "sum")))
}

/// Port, size of an access in bytes, its letter, and the size that was asked for: a port has no 8 bytes, and of none is one read.
fn port(args: &Args) -> (u64, u64, char, usize) {
    let size = args.format().map_or(4, |format| format.size);
    let (width, letter) = match size {
        2 => (2, 'w'),
        4 => (4, 'l'),
        _ => (1, 'b'),
    };
    (addr(args) & 0xffff, width, letter, size)
}

fn port_read(x: &dyn Execute, args: &Args) -> Result<String> {
    let (mut port, width, letter, size) = port(args);
    // What comes behind a dot selects a register, which is at the next port then.
    if let Some(index) = args.number("index") {
        write(x, port, 1, index & 0xff)?;
        port = (port + 1) & 0xffff;
    }
    let reply = x.execute("x-pliant-read-port", Dict::new().with("port", port).with("size", width))?;
    let (value, digits) = (number(&reply, "value"), 2 * size);
    // As C pads to a width of less than nothing.
    let value = if size == 0 { format!("{value:<2x}") } else { format!("{value:0digits$x}") };
    Ok(format!("port{letter}[0x{port:04x}] = 0x{value}\n"))
}

fn port_write(x: &dyn Execute, args: &Args) -> Result<String> {
    let (port, width, ..) = port(args);
    write(x, port, width, args.number("val").unwrap_or(0))
}

fn write(x: &dyn Execute, port: u64, size: u64, value: i64) -> Result<String> {
    let arguments = Dict::new().with("port", port).with("size", size).with("value", value);
    x.execute("x-pliant-write-port", arguments).map(|_| String::new())
}

fn tables(x: &dyn Execute, args: &Args, merged: bool) -> Result<String> {
    if has_no_cpu(x)? {
        return Ok("No CPU available\n".to_owned());
    }
    let arguments = with_cpu(Dict::new().with("merged", merged), args.cpu());
    let reply = x.execute("x-pliant-query-page-tables", arguments)?;
    Ok(text(&reply, "human-readable-text").to_owned())
}
