//! What a domain had is gone when it is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::session::{Session, ask};
use crate::{Domain, Host, Node, can};

/// Processes, files (sockets among them) and descriptors of libvirtd.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    processes: Vec<String>,
    files: BTreeSet<PathBuf>,
    descriptors: usize,
}

impl Left {
    fn by(node: &Node<'_>) -> Self {
        let mut files = BTreeSet::new();
        for part in ["run", "lib"] {
            all_files(&node.folder().join(part), &mut files);
        }
        Self { processes: node.host().processes(), files, descriptors: node.daemon_descriptors() }
    }
}

fn all_files(folder: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all_files(&path, into);
        }
        into.insert(path);
    }
}

#[test]
fn after_fifty_starts() {
    if !can() {
        return;
    }
    let host = Host::new();
    let node = Node::start(&host, "alpha");
    let s = Session::new(&node, Domain::q35_vmem());
    let cycle = || {
        s.virsh("start", &[]);
        s.virsh("destroy", &[]);
    };
    // What libvirt keeps of a domain that ran once stays.
    cycle();
    let before = Left::by(&node);
    (0..50).for_each(|_| cycle());
    assert_eq!(Left::by(&node), before);
    assert_eq!(node.errors(), Vec::<String>::new());
}

#[test]
fn after_twenty_saves() {
    if !can() {
        return;
    }
    let host = Host::new();
    let node = Node::start(&host, "alpha");
    let mut s = Session::new(&node, Domain::pc_vmem());
    s.start();
    let file = node.path("saved");
    let cycle = |s: &Session<'_>| {
        s.virsh("save", &[&file]);
        node.virsh(&["restore", &file]);
        ask(&mut s.console(), "check", "0 words differ");
    };
    cycle(&s);
    let before = Left::by(&node);
    for _ in 0..20 {
        cycle(&s);
    }
    let mut after = Left::by(&node);
    // The command line differs by its numbers only, and the folder of a domain is named after its number.
    assert_eq!(after.processes.len(), before.processes.len(), "{:?}", after.processes);
    assert_eq!(after.files.len(), before.files.len(), "{:?} {:?}", after.files, before.files);
    after.processes.clear();
    assert_eq!(after.descriptors, before.descriptors);
    assert_eq!(node.errors(), Vec::<String>::new());
}
