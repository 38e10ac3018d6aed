//! The program `pliant`: reads the command line, puts the virtual machine together, runs its main loop.

mod cli;
mod config;
mod daemon;
mod log;
mod report;

fn main() {
    let _ = cli::CommandLine::parse(std::env::args().skip(1));
}
