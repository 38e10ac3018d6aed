//! Entropy comes, waits, and is limited.

use std::io::Write as _;

use qom::Input;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::backend::{Fill, Pool, from_object};
use crate::testing::Rig;
use crate::virtio::testing::driver::{Driver, Piece};

fn rig_with(object: &str, options: &[(&str, &str)]) -> Rig {
    let rig = Rig::build(crate::testing::config("q35")).unwrap();
    let options = options.iter().map(|(k, v)| (*k, Input::Keyval(v)));
    rig.machine.tree().create_user_object(object, "r0", options).unwrap();
    rig
}

#[test]
fn a_buffer_is_filled_and_two_are_not_alike() {
    let mut driver = Driver::new(&["virtio-rng-pci"]);
    assert_eq!(driver.rig.config_read(1, 0, 0), 0x1044_1af4);
    assert_eq!(driver.rig.config_read(1, 0, 8) >> 16, 0x00ff);
    driver.start(0, 1);
    let first = driver.send(0, &[Piece::In(64)]);
    let second = driver.send(0, &[Piece::In(64)]);
    assert!(first.len() == 64 && second.len() == 64 && first != second);
    assert_eq!(driver.isr(), 1);
    assert_eq!(driver.send(0, &[Piece::Out(b"what")]).len(), 0, "no room, no bytes");
    assert_eq!(driver.read(0x2000, 4), 0xffff_ffff, "no configuration space");
}

#[test]
fn nothing_waits_for_a_pipe_that_is_empty_and_what_comes_goes_to_the_buffer_that_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let rig = rig_with("rng-random", &[("filename", path.to_str().unwrap())]);
    let mut writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    rig.add("virtio-rng-pci,rng=r0").unwrap();
    let mut driver = Driver::with(rig);
    driver.start(0, 1);
    driver.put(0, &[Piece::In(64)]);
    driver.put(0, &[Piece::In(64)]);
    assert_eq!(driver.take(0), None);
    writer.write_all(b"abc").unwrap();
    assert_eq!(driver.until(|d| d.take(0)), b"abc");
    assert_eq!(driver.take(0), None, "the second one waits on");
    driver.start(0, 1);
    writer.write_all(b"def").unwrap();
    driver.turn();
    assert_eq!(driver.send(0, &[Piece::In(2)]), b"de", "a reset forgets buffers, and no byte");
    assert_eq!(driver.send(0, &[Piece::In(2)]), b"f");
}

#[test]
fn a_period_has_so_many_bytes_and_the_next_one_as_many_again() {
    let mut driver = Driver::new(&["virtio-rng-pci,max-bytes=10,period=1000"]);
    let clock = driver.rig.main.handle().virtual_clock();
    clock.set_manual();
    driver.start(0, 1);
    assert_eq!(driver.send(0, &[Piece::In(8)]).len(), 8);
    assert_eq!(driver.send(0, &[Piece::In(8)]).len(), 2);
    driver.put(0, &[Piece::In(8)]);
    clock.advance_to(clock.now_ns() + 999_000_000);
    driver.turn();
    assert_eq!(driver.take(0), None);
    clock.advance_to(clock.now_ns() + 2_000_000);
    driver.turn();
    assert_eq!(driver.take(0).map(|bytes| bytes.len()), Some(8));
}

#[test]
fn errors_are_qemus() {
    let rig = rig_with("rng-builtin", &[]);
    for (text, error) in [
        ("rng=nope", "Device 'nope' not found"),
        ("period=0", "'period' parameter expects a positive integer"),
        ("max-bytes=9223372036854775808", "'max-bytes' parameter must be positive, and less than 2^63"),
        ("rng=/machine", "Invalid parameter type for 'rng', expected: rng-backend"),
        (
            "disable-modern=on",
            "'disable-modern' property set to 'on' is not supported: devices are modern only",
        ),
    ] {
        assert_eq!(Driver::error(rig.add(&format!("virtio-rng-pci,{text}"))), error);
    }
    rig.add("virtio-rng-pci,id=a,rng=r0").unwrap();
    rig.add("virtio-rng-pci,id=b,rng=r0").unwrap();
    let tree = rig.machine.tree();
    let missing = [("filename", Input::Keyval("/nonexist"))];
    let error = tree.create_user_object("rng-random", "r1", missing).err().unwrap();
    assert_eq!(error.desc(), "Could not open '/nonexist': No such file or directory");
    assert_eq!(tree.absolute("/machine/peripheral/a").unwrap().get("rng").unwrap(), "/objects/r0".into());
}

#[test]
fn what_is_read_ahead_is_given_once_and_not_kept() {
    let mut pool = Pool::EMPTY;
    let mut bytes = [0; 600];
    assert_eq!(pool.take(&mut bytes), 0);
    pool.bytes = std::array::from_fn(|at| at as u8 | 1);
    // A short read.
    pool.left = 0..1000;
    assert_eq!(pool.take(&mut bytes), 600);
    assert!((0..600).all(|at| bytes[at] == at as u8 | 1));
    assert!(pool.bytes[..600].iter().all(|byte| *byte == 0), "they are nowhere else");
    assert_eq!(pool.take(&mut bytes), 400);
    assert!((0..400).all(|at| bytes[at] == (600 + at) as u8 | 1));
    assert_eq!(pool.take(&mut bytes), 0);
}

#[test]
fn the_builtin_source_gives_any_number_of_bytes_and_no_two_answers_alike() {
    let rig = rig_with("rng-builtin", &[]);
    let source = from_object(&rig.machine.tree().absolute("/objects/r0").unwrap()).unwrap();
    let mut seen = std::collections::HashSet::new();
    for size in [16, 1000, 1024, 24, 5000, 1023, 64, 64, 64] {
        let mut bytes = vec![0; size];
        assert_eq!(source.fill(&mut bytes), Fill::Bytes(size));
        assert!(bytes.chunks_exact(8).all(|chunk| seen.insert(chunk.to_vec())), "{size} bytes");
    }
}
