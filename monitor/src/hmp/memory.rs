//! Commands that look at the guest's memory and registers.

use qapi::{Dict, Result, Value};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::complete::Source;
use super::format::{self, Letter};
use super::{Execute, has_no_cpu, member, number, text, with_cpu};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "memsave",
        &[("val", Kind::Long), ("size", Kind::Number), ("filename", Kind::Word)],
        "addr size file",
        "save to disk virtual memory dump starting at 'addr' of size 'size'",
        &[Source::Nothing, Source::Nothing, Source::Files],
        memsave,
    ),
    command(
        "pmemsave",
        &[("val", Kind::Long), ("size", Kind::Number), ("filename", Kind::Word)],
        "addr size file",
        "save to disk physical memory dump starting at 'addr' of size 'size'",
        &[Source::Nothing, Source::Nothing, Source::Files],
        pmemsave,
    ),
    command(
        "print|p",
        &[("fmt", Kind::Format), ("expr", Kind::Long)],
        "/fmt expr",
        "print expression value (use $reg for CPU register access)",
        &[],
        print,
    ),
    command(
        "x",
        &[("fmt", Kind::Format), ("addr", Kind::Long)],
        "/fmt addr",
        "virtual memory dump starting at 'addr'",
        &[],
        x,
    ),
    command(
        "xp",
        &[("fmt", Kind::Format), ("addr", Kind::Long)],
        "/fmt addr",
        "physical memory dump starting at 'addr'",
        &[],
        xp,
    ),
];

/// `$name` in an expression: a register of the CPU that the console looks at. Names are QEMU's: 32-bit names for what may be
/// 64 bits wide.
pub(super) fn register(x: &dyn Execute, cpu: Option<i64>, name: &str) -> Option<i64> {
    let registers = x.execute("x-pliant-query-registers", with_cpu(Dict::new(), cpu)).ok()?;
    let value = |name: &str| number(&registers, name);
    let segment = |name: &str, part: &str| member(&registers, name).map(|segment| number(segment, part));
    let value = match name {
        "eax" => value("rax"),
        "ebx" => value("rbx"),
        "ecx" => value("rcx"),
        "edx" => value("rdx"),
        "esi" => value("rsi"),
        "edi" => value("rdi"),
        "esp" | "sp" => value("rsp"),
        "ebp" | "fp" => value("rbp"),
        "r8" | "r9" | "r10" | "r11" | "r12" | "r13" | "r14" | "r15" => value(name),
        "eip" => value("rip"),
        "eflags" => value("rflags"),
        "pc" => segment("cs", "base")?.wrapping_add(value("rip")),
        _ => {
            let (name, part) = match name.split_once('.') {
                None => (name, "selector"),
                Some((name, part @ ("base" | "limit"))) => (name, part),
                Some(_) => return None,
            };
            let known = ["cs", "ds", "es", "fs", "gs", "ss"].contains(&name);
            segment(name, part).filter(|_| known)?
        }
    };
    Some(value.cast_signed())
}

pub(super) fn print(_x: &dyn Execute, args: &Args) -> Result<String> {
    let letter = args.format().map_or(Letter::Hex, |format| format.letter);
    Ok(format::expression(letter, args.number("expr").unwrap_or(0)) + "\n")
}

pub(super) fn x(x: &dyn Execute, args: &Args) -> Result<String> {
    if has_no_cpu(x)? {
        return Ok("Can not dump without CPU\n".to_owned());
    }
    show(x, args, false)
}

pub(super) fn xp(x: &dyn Execute, args: &Args) -> Result<String> {
    show(x, args, true)
}

fn show(x: &dyn Execute, args: &Args, physical: bool) -> Result<String> {
    let Some(format) = args.format() else { return Ok(String::new()) };
    if format.letter == Letter::Instruction {
        return Ok("Instructions cannot be shown: there is no disassembler\n".to_owned());
    }
    let addr = args.number("addr").unwrap_or(0).cast_unsigned();
    let size = format.count.saturating_mul(format.size as u64);
    if size == 0 {
        return Ok(String::new());
    }
    let arguments = Dict::new().with("address", addr).with("size", size).with("physical", physical);
    let reply = x.execute("x-pliant-read-memory", with_cpu(arguments, args.cpu()))?;
    let bytes = hex(text(&reply, "data"));
    // The command has said no to more than fits into memory.
    Ok(format::memory(format, addr, usize::try_from(size).unwrap_or(usize::MAX), &bytes))
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).unwrap_or(0) as u8;
    text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

pub(super) fn memsave(x: &dyn Execute, args: &Args) -> Result<String> {
    if has_no_cpu(x)? {
        return Ok("No CPU available\n".to_owned());
    }
    x.execute("memsave", with_cpu(part(args), args.cpu())).map(|_| String::new())
}

pub(super) fn pmemsave(x: &dyn Execute, args: &Args) -> Result<String> {
    x.execute("pmemsave", part(args)).map(|_| String::new())
}

fn part(args: &Args) -> Dict {
    let number = |name| Value::from(args.number(name).unwrap_or(0));
    Dict::new()
        .with("val", number("val"))
        .with("size", number("size"))
        .with("filename", args.word("filename"))
}
