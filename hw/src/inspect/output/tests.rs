//! Files hold what was written, whether they have holes or not.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;

use proptest::prelude::*;

use qapi::strerror;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<u8>),
    Sparse(Vec<u8>),
    Zeroes(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    // Pieces of zeroes between others, so that their edges are met.
    let pieces = prop::collection::vec((any::<bool>(), 1usize..9000), 0..6);
    let mixed = pieces.prop_map(|pieces| {
        pieces.into_iter().flat_map(|(zero, len)| vec![if zero { 0 } else { 7 }; len]).collect()
    });
    prop_oneof![
        bytes().prop_map(Step::Write),
        mixed.prop_map(Step::Sparse),
        (0u64..200_000).prop_map(Step::Zeroes)
    ]
}

fn run(file: File, steps: &[Step]) {
    let mut output = Output::new(file);
    for step in steps {
        match step {
            Step::Write(bytes) => output.write(bytes).unwrap(),
            Step::Sparse(bytes) => output.write_sparse(bytes).unwrap(),
            Step::Zeroes(len) => output.zeroes(*len).unwrap(),
        }
    }
    output.finish().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_file_and_a_pipe_get_the_same_bytes(steps in prop::collection::vec(step(), 0..8)) {
        let mut expected = Vec::new();
        for step in &steps {
            match step {
                Step::Write(bytes) | Step::Sparse(bytes) => expected.extend(bytes),
                Step::Zeroes(len) => expected.resize(expected.len() + *len as usize, 0),
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        run(file.reopen().unwrap(), &steps);
        prop_assert!(std::fs::read(file.path()).unwrap() == expected, "file");
        let (mut reader, writer) = io::pipe().unwrap();
        let all = std::thread::scope(|scope| {
            let all = scope.spawn(move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).unwrap();
                all
            });
            run(File::from(std::os::fd::OwnedFd::from(writer)), &steps);
            all.join().unwrap()
        });
        prop_assert!(all == expected, "pipe");
    }
}

#[test]
fn zeroes_take_no_room_in_a_new_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let gib = 1 << 30;
    run(file.reopen().unwrap(), &[Step::Write(vec![1]), Step::Zeroes(gib), Step::Sparse(vec![0; 1 << 20])]);
    let meta = file.as_file().metadata().unwrap();
    assert_eq!(meta.len(), 1 + gib + (1 << 20));
    assert!(meta.blocks() * 512 < 1 << 16, "{} blocks", meta.blocks());
}

#[test]
fn what_is_in_a_file_already_is_overwritten_with_zeroes() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [9; 100]).unwrap();
    run(file.reopen().unwrap(), &[Step::Zeroes(50), Step::Sparse(vec![0; 40])]);
    let mut expected = vec![0; 90];
    expected.resize(100, 9);
    assert_eq!(std::fs::read(file.path()).unwrap(), expected);
}

#[test]
fn a_full_disk_and_a_hole_beyond_all_files_are_errors() {
    let mut full = Output::new(File::options().write(true).open("/dev/full").unwrap());
    assert_eq!(strerror(&full.write(&[1]).unwrap_err()), "No space left on device");
    let mut huge = Output::new(tempfile::tempfile().unwrap());
    huge.zeroes(u64::MAX).unwrap();
    huge.zeroes(u64::MAX).unwrap();
    assert_eq!(strerror(&huge.write(&[1]).unwrap_err()), "File too large");
}

#[test]
fn a_pipe_that_is_full_is_waited_for() {
    let (mut reader, writer) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let len = 1 << 20;
    let count = std::thread::scope(|scope| {
        let count = scope.spawn(move || io::copy(&mut reader, &mut io::sink()).unwrap());
        run(File::from(std::os::fd::OwnedFd::from(writer)), &[Step::Zeroes(len)]);
        count.join().unwrap()
    });
    assert_eq!(count, len);
}
