//! What guests of the testbed run while they are moved: `stress PORT THREADS PAGES` ([`tests::testbed::stress`]).

use std::env;
use std::path::Path;
use std::process::ExitCode;

use tests::testbed::stress;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |text: &str| text.parse().ok();
    let ended = match arguments.as_slice() {
        [port, threads, pages] => match (number(threads), number(pages)) {
            (Some(threads), Some(pages)) => stress::run(Path::new(port), threads, pages),
            _ => Err("THREADS and PAGES are numbers".into()),
        },
        _ => Err("usage: stress PORT THREADS PAGES".into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("stress: {e}");
            ExitCode::FAILURE
        }
    }
}
