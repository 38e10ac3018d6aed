//! Boots stock Linux on the program under test (`PLIANT_BIN`, or `pliant` beside this program) and looks at what is claimed of it.
//!
//! ```text
//! testbed [WORD...]          claims whose KERNEL/BOOT/CLAIM holds a word, in the outer machine, or on this KVM where the processor has VMX or SVM
//! testbed --loud [WORD...]   the same with all that kernels print while they boot
//! testbed --list [WORD...]   their names
//! testbed --bench [RUNS]     how long user space takes, beside QEMU
//! testbed --inside           takes jobs from its standard input: what an outer machine runs
//! ```

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use tests::program;
use tests::testbed::lanes::Job;
use tests::testbed::outer::Supply;
use tests::testbed::report::{Gaps, ToHost, ToPerson};
use tests::testbed::{Images, images, lanes, linux};

const GAPS: &str = include_str!("../../data/testbed-gaps.txt");

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--list") => {
            for name in lanes::names(&arguments[1..]) {
                println!("{name}");
            }
            ExitCode::SUCCESS
        }
        Some("--inside") => {
            lanes::serve(&Images::in_folder(images::INSIDE), io::stdin().lock(), &ToHost::default());
            ExitCode::SUCCESS
        }
        _ => match host(&arguments) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(e) => {
                eprintln!("testbed: {e}");
                ExitCode::FAILURE
            }
        },
    }
}

/// The claims or the measurements that were asked for, and whether kernels are to be loud.
fn jobs(arguments: &[String]) -> (Vec<Job>, bool) {
    match arguments.first().map(String::as_str) {
        Some("--bench") => {
            let runs = arguments.get(1).and_then(|runs| runs.parse().ok()).unwrap_or(3);
            (vec![Job::Bench(runs)], false)
        }
        Some("--loud") => (lanes::jobs(&arguments[1..]), true),
        _ => (lanes::jobs(arguments), false),
    }
}

fn host(arguments: &[String]) -> io::Result<bool> {
    if let Some(reason) = images::why_not() {
        if env::var("CI").is_ok_and(|ci| ci == "true") {
            return Err(io::Error::other(format!("CI must have it: {reason}")));
        }
        println!("     SKIPPED testbed: {reason}");
        return Ok(true);
    }
    // Beside the programs: work trees that are tested at the same time do not share it.
    let own = env::current_exe()?;
    let target =
        own.ancestors().nth(2).ok_or_else(|| io::Error::other("this program is not in cargo's folder"))?;
    let (jobs, loud) = jobs(arguments);
    let images = Images::make(&target.join("testbed"))?;
    let images = if loud { images.loud() } else { images };
    let vmm = program::path();
    // What QEMU cannot do is no gap of ours.
    let gaps = if images::program_is_qemu(&vmm) { Gaps::default() } else { Gaps::parse(GAPS) };
    let person = ToPerson::new(gaps, &images);
    if linux::emulated() || has_extensions()? && Path::new("/dev/kvm").exists() {
        println!("testbed: on this machine itself");
        lanes::run_here(&images, jobs, &person);
    } else {
        lanes::run_in_outer_machines(&Supply::new(&images, &vmm)?, jobs, &person);
    }
    Ok(person.close())
}

/// Whether the processor has VMX or SVM, so that a stock kernel runs on its KVM.
fn has_extensions() -> io::Result<bool> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let flags = text.lines().filter(|line| line.starts_with("flags"));
    Ok(flags.flat_map(str::split_whitespace).any(|flag| flag == "vmx" || flag == "svm"))
}
