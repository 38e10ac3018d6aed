//! The bodies of the fuzz targets: what a client, a script or a person may write, fed to the pure core that reads it.
//!
//! Each target is a function over bytes that panics when a claim is broken. `fuzz_targets/` hands it to libFuzzer;
//! `cargo test` here (part of `tests/run`) feeds it the committed corpus with stable Rust, so that no target rots.
//! Inputs are plain text as the client would send it, without a header: how it is cut into pieces follows from a hash of it.

pub mod hmp;
pub mod json;
pub mod migration;
pub mod options;
pub mod qmp;
pub mod qtest;

/// The program's command line. It is no library's: the files are compiled here once more.
#[allow(dead_code, missing_docs, unused_imports, reason = "the program uses more of it")]
#[path = "../../src/cli/mod.rs"]
mod cli;

/// Cuts `bytes` into pieces of 1 to 64 bytes, another way for every text and `turn`.
fn pieces(bytes: &[u8], turn: u64) -> Vec<&[u8]> {
    let mut state = bytes.iter().fold(0xCBF2_9CE4_8422_2325 ^ turn, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)
    });
    let mut rest = bytes;
    let mut list = Vec::new();
    while !rest.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Small pieces are as frequent as all the others together.
        let len = if state >> 63 == 0 { 1 } else { 1 + (state >> 40) as usize % 64 };
        let (piece, tail) = rest.split_at(len.min(rest.len()));
        list.push(piece);
        rest = tail;
    }
    list
}

#[cfg(test)]
mod corpus {
    //! Every committed input goes through its target.

    use std::path::Path;

    fn replay(name: &str, target: fn(&[u8])) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut count = 0;
        for entry in dir.read_dir().expect("the target has a corpus") {
            let path = entry.expect("readable").path();
            let bytes = std::fs::read(&path).expect("readable");
            // Which input it was stands above the panic's message.
            println!("{}", path.display());
            target(&bytes);
            count += 1;
        }
        assert!(count >= 12, "{name}: a corpus of {count} inputs is none");
    }

    #[test]
    fn json() {
        replay("json", crate::json::run);
    }

    #[test]
    fn migration() {
        replay("migration", crate::migration::run);
    }

    #[test]
    fn qmp() {
        replay("qmp", crate::qmp::run);
    }

    #[test]
    fn options() {
        replay("options", crate::options::run);
    }

    #[test]
    fn hmp() {
        replay("hmp", crate::hmp::run);
    }

    #[test]
    fn qtest() {
        replay("qtest", crate::qtest::run);
    }
}
