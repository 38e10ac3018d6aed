//! What page tables map, as people read it: `info mem` and `info tlb`.

use std::fmt::Write as _;
use std::ops::ControlFlow;

use memory::AddressSpace;

use super::physical;
use crate::i386::paging::{Page, Paging};

/// Tables that are looked at, 256 MiB of them: a guest may have them point at themselves.
const TABLES: usize = 1 << 16;
/// Lines that are shown.
const LINES: usize = 1 << 18;
/// Said where a limit ends the list.
const TOO_LARGE: &str = "(the page tables are too large to be shown to their end)\n";

const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Physical address bits as QEMU cuts them out: of pages of 1 GiB, 2 MiB, 4 KiB.
const ADDRESS: u64 = 0x03ff_ffff_ffff_f000;

/// A line for each page with its physical address and what its entry says.
pub(super) fn pages(space: &AddressSpace, paging: &Paging) -> String {
    list(space, paging, |out, page| {
        let mask = match (page.legacy, page.shift) {
            // Of a large page QEMU shows one address bit too many.
            (true, 22) => !0x1f_ffff,
            (true, _) => !0xfff,
            (false, shift) => ADDRESS & !((1 << shift) - 1),
        };
        let small = page.shift == 12;
        let bits = [
            NO_EXECUTE,
            1 << 8,
            if small { 0 } else { LARGE },
            1 << 6,
            1 << 5,
            1 << 4,
            1 << 3,
            USER,
            WRITABLE,
        ];
        let letters: String =
            bits.iter().zip("XGPDACTUW".chars()).map(|(bit, c)| letter(page.entry, *bit, c)).collect();
        let _ = writeln!(out, "{:016x}: {:016x} {letters}", paging.canonical(page.linear), page.entry & mask);
    })
}

/// A line for each run of linear addresses with the same rights.
pub(super) fn runs(space: &AddressSpace, paging: &Paging) -> String {
    let mut run: Option<(u64, u64, u64)> = None;
    let line = |out: &mut String, (start, end, rights): (u64, u64, u64)| {
        let [first, last, len] = [start, end, end - start].map(|at| paging.canonical(at));
        let (user, write) = (letter(rights, USER, 'u'), letter(rights, WRITABLE, 'w'));
        let _ = writeln!(out, "{first:016x}-{last:016x} {len:016x} {user}r{write}");
    };
    let mut text = list(space, paging, |out, page| {
        let rights = page.common & (USER | WRITABLE);
        let (start, end) = (page.linear, page.linear + (1 << page.shift));
        match &mut run {
            Some((_, last, old)) if (*last, *old) == (start, rights) => *last = end,
            other => {
                if let Some(done) = other.replace((start, end, rights)) {
                    line(out, done);
                }
            }
        }
    });
    if let Some(done) = run {
        let at = text.strip_suffix(TOO_LARGE).unwrap_or(&text).len();
        let rest = text.split_off(at);
        line(&mut text, done);
        text += &rest;
    }
    text
}

fn letter(value: u64, bit: u64, letter: char) -> char {
    if value & bit == 0 { '-' } else { letter }
}

/// Has `show` write about each page, up to the limits.
fn list(space: &AddressSpace, paging: &Paging, mut show: impl FnMut(&mut String, Page)) -> String {
    if !paging.is_on() {
        return "PG disabled\n".to_owned();
    }
    let mut read = |addr: u64, buf: &mut [u8]| physical::read_ram(space, addr, buf);
    let (mut out, mut pages) = (String::new(), 0);
    let result = paging.visit(TABLES, &mut read, &mut |page| {
        pages += 1;
        if pages > LINES {
            return ControlFlow::Break(());
        }
        show(&mut out, page);
        ControlFlow::Continue(())
    });
    if result.is_err() {
        out += TOO_LARGE;
    }
    out
}

#[cfg(test)]
mod tests;
