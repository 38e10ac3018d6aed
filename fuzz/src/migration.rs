//! An incoming migration: whatever the bytes are, the machine is here in the end or is still awaited, and the program goes on.

use migration::fuzzing::{Form, load};

/// What a source sent, or what is in a file.
pub fn run(data: &[u8]) {
    for form in [Form::Stream, Form::Places] {
        load(form, data);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Of a file with places as much as is read before its pages, which are megabytes.
    const LONGEST: usize = 16 << 10;

    /// With `PLIANT_UPDATE_CORPUS` the corpus has streams of today; those of before are inputs all the same.
    #[test]
    fn what_a_machine_is_saved_as_is_taken_in() {
        for (form, name) in [(Form::Stream, "stream"), (Form::Places, "places")] {
            let bytes = migration::fuzzing::save(form);
            assert!(load(form, &bytes), "{form:?}");
            assert!(!load(form, &bytes[..bytes.len() / 2]), "{form:?}");
            if std::env::var_os("PLIANT_UPDATE_CORPUS").is_some() {
                let path = format!("{}/corpus/migration/{name}", env!("CARGO_MANIFEST_DIR"));
                fs::write(path, &bytes[..bytes.len().min(LONGEST)]).expect("it can be written");
            }
        }
    }
}
