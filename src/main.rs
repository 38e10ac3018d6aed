//! The program `pliant`: reads the command line, puts the virtual machine together, runs its main loop.

mod chars;
mod cli;
mod config;
mod daemon;
mod describe;
mod expected;
mod fdsets;
mod fw_cfg;
mod help;
mod log;
mod progress_line;
mod report;
mod sandbox;
mod start;
mod states;
mod vm;

use std::process::ExitCode;

use cli::CommandLine;
use expected::Expected;
use report::Reporter;

fn main() -> ExitCode {
    let mut args = std::env::args_os().map(|w| w.to_string_lossy().into_owned());
    let mut report = Reporter::new(&args.next().unwrap_or_default());
    let words: Vec<String> = args.collect();
    let done = CommandLine::parse(words.iter().cloned()).and_then(|line| start::run(&line, &mut report));
    match done {
        Ok(code) => ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)),
        Err(error) => {
            report.error(&error);
            Expected::in_words(&words).wait(None);
            ExitCode::FAILURE
        }
    }
}
