//! What each way of protecting unplugged memory costs; `docs/protection.md` has the figures and what follows from them.
//!
//! `protection [PART...]`, parts as in [`PARTS`], all of them without any. Needs `/dev/kvm` and, for userfaultfd, to be root. Tables are Markdown;
//! times are a median and what nine of ten stay below.

mod blocks;
mod faults;
mod figures;
mod guest;
mod host;
mod machine;
mod space;

use std::io;
use std::process::ExitCode;

/// What a person calls it, and what measures it.
type Part = (&'static str, fn() -> io::Result<()>);

const PARTS: [Part; 7] = [
    ("blocks", || blocks::run(false)),
    ("guest-blocks", || blocks::run(true)),
    ("unplugging", guest::unplugging),
    ("splitting", guest::splitting),
    ("touching", guest::touching),
    ("memory", space::memory),
    ("fragments", space::fragments),
];

/// The kernel, and how much else it does.
fn host() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Linux {}, {cpus} CPUs, load {}", release.trim(), load.split(' ').next().unwrap_or_default())
}

fn main() -> ExitCode {
    println!("{}", host());
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for (name, part) in PARTS {
        if !wanted.is_empty() && !wanted.iter().any(|other| other == name) {
            continue;
        }
        if let Err(error) = part() {
            eprintln!("{name}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
