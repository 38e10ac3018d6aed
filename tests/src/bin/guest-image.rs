//! Writes the built-in guest's bare-metal program to the standard output, for machines that boot it by `-kernel`.

use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    io::stdout().lock().write_all(guest::IMAGE)
}
