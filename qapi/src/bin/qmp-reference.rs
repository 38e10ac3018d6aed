//! Writes `docs/qmp-reference.md` to its output.

use std::io::{self, Write};
use std::process::ExitCode;

use qapi::reference;
use qapi::schema::Schema;

fn main() -> ExitCode {
    let page = match Schema::load() {
        Ok(schema) => reference::markdown(&schema),
        Err(error) => {
            eprintln!("qmp-reference: {error}");
            return ExitCode::FAILURE;
        }
    };
    match io::stdout().write_all(page.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qmp-reference: {error}");
            ExitCode::FAILURE
        }
    }
}
