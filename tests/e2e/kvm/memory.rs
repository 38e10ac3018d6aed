//! Memory that the guest gives back is the host's again, whatever backs it; and `touch=` of the guest decides how much it takes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use tests::Vm;

use super::{M, can, complaints, device, q35, resize};
use crate::session::{guest_reached, guest_says};

/// What `/proc/PID/smaps` says of the mapping of a backend of this size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// Bytes in page tables.
    pub(crate) rss: u64,
    /// Bytes that files behind it hold.
    pub(crate) file: u64,
}

/// What a backend of `size` bytes holds of the host's memory.
pub(crate) fn held(vm: &Vm, size: u64) -> Held {
    let smaps = fs::read_to_string(proc(vm, "smaps")).unwrap();
    // A mapping is in pieces where parts of it are protected; and neighbours with the same properties may have become one.
    let (mut rss, mut last) = (0, 0);
    let (mut from, mut to, mut in_row) = (0, 0, 0);
    let mut lines = smaps.lines();
    loop {
        let line = lines.next();
        let first = line.and_then(|line| line.split_whitespace().next()).unwrap_or_default();
        let number = |text| u64::from_str_radix(text, 16).ok();
        let range = first.split_once('-').and_then(|(from, to)| Some((number(from)?, number(to)?)));
        if line.is_none() || range.is_some_and(|range| range.0 != to) {
            rss += if to - from >= size { in_row } else { 0 };
            (from, in_row) = (range.map_or(0, |range| range.0), 0);
        }
        match (line, range) {
            (None, _) => break,
            (_, Some(range)) => to = range.1,
            (Some(line), None) if first == "Rss:" => {
                last = line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024;
                in_row += last;
            }
            // The stack of a thread, or a heap, may lie beside it. A child process gets no copy of guest memory, but of all else.
            (Some(line), None) if first == "VmFlags:" && !line.contains(" dc") => in_row -= last,
            _ => {}
        }
    }
    let descriptors = fs::read_dir(proc(vm, "fd")).unwrap();
    // Through the link, so that a file without a name counts too. A descriptor may be closed meanwhile.
    let files = descriptors.filter_map(|fd| fs::metadata(fd.ok()?.path()).ok());
    let file = files.filter(|file| file.is_file() && file.len() == size).map(|file| file.blocks() * 512);
    Held { rss, file: file.max().unwrap_or(0) }
}

fn proc(vm: &Vm, name: &str) -> String {
    format!("/proc/{}/{name}", vm.pid().as_raw_nonzero())
}

/// Backends with what follows their names, and whether a file holds the guest's pages.
const BACKENDS: [(&str, &str, bool); 6] = [
    ("ram", "", false),
    ("ram", ",share=on", true),
    ("memfd", "", true),
    ("memfd", ",share=off", false),
    ("file", ",mem-path=$RUN,share=on", true),
    ("file", ",mem-path=$RUN,share=off", false),
];

/// Sizes that nothing else of the machine has.
const SIZE: u64 = 768 * M;

fn gives_back(accel: &str, plugged: u64) {
    for (kind, options, by_file) in BACKENDS {
        // Files are slow to fill, and one large backend shows what there is to see.
        let plugged = if options.is_empty() && kind == "ram" { plugged } else { plugged / 4 };
        let mut vm = q35(
            accel,
            &format!(
                "-object memory-backend-{kind},id=mem0,size=768M{options} \
                 -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size={plugged} \
                 -append touch=all"
            ),
        );
        guest_reached(&mut vm, &[plugged]);
        let full = held(&vm, SIZE);
        assert!(full.rss >= plugged, "{kind}{options}: {full:?}");
        assert!(!by_file || full.file >= plugged, "{kind}{options}: {full:?}");
        resize(&mut vm, 0);
        let empty = held(&vm, SIZE);
        assert!(empty.rss < 4 * M && empty.file == 0, "{kind}{options}: {full:?}, and then {empty:?}");
        assert_eq!(complaints(&vm), [""; 0], "{kind}{options}");
    }
}

#[test]
fn all_that_the_guest_unplugs_is_given_back_on_kvm() {
    if can("kvm") {
        gives_back("kvm", 256 * M);
    }
}

#[test]
fn all_that_the_guest_unplugs_is_given_back_on_sim() {
    if can("sim") {
        // A hosted guest is slow where it is not optimised.
        gives_back("sim", 16 * M);
    }
}

#[test]
fn the_guest_touches_as_much_as_its_command_line_says() {
    if !can("kvm") {
        return;
    }
    for (touch, blocks, least, most) in [
        ("none", "0 blocks", 0, M),
        ("page", "32 blocks", 32 * 4096, 64 * M),
        ("all", "32 blocks", 64 * M, 64 * M),
    ] {
        let mut vm = q35("kvm", &format!("{} -append touch={touch}", device(",requested-size=64M")));
        guest_reached(&mut vm, &[64 * M]);
        guest_says(&mut vm, "check", "words differ", &["check: ok: ", blocks]);
        // A little is the machine's own memory beside it.
        let rss = held(&vm, 1 << 30).rss;
        assert!((least..=most + 8 * M).contains(&rss), "touch={touch}: {rss}");
    }
}

#[test]
fn a_reset_gives_everything_back() {
    if !can("kvm") {
        return;
    }
    let mut vm = q35("kvm", &format!("{} -append touch=all", device(",requested-size=64M")));
    guest_reached(&mut vm, &[64 * M]);
    // The guest does not run any more, so that nothing is plugged again.
    for command in ["stop", "system_reset"] {
        vm.qmp().ok(command, serde_json::json!({}));
    }
    vm.qmp().wait_event("RESET", |_| true);
    assert_eq!(vm.qmp().qom_get("vm0", "size"), 0);
    let rss = held(&vm, 1 << 30).rss;
    assert!(rss < 8 * M, "{rss}");
}
