//! A domain moves from one libvirtd to another and back, in each way that libvirt has, while its guest writes.

use crate::session::{Session, ask};
use crate::{Domain, Host, Node, can};

/// Moves the domain; the session is then with `to`.
fn move_to<'n>(mut s: Session<'n>, to: &'n Node<'n>, options: &[&str]) -> Session<'n> {
    let uri = to.uri();
    s.virsh("migrate", &[&[uri.as_str(), "--persistent", "--undefinesource"], options].concat());
    s.node = to;
    assert_eq!(s.state(), "running (migrated)", "{options:?}");
    // The guest goes on, and has lost nothing.
    let told = ask(&mut s.console(), "check", "words differ");
    assert!(told.ends_with(" 0 words differ"), "{options:?}: {told}");
    s
}

fn moves(domain: Domain, ways: &[&[&str]]) {
    let host = Host::new();
    let (alpha, beta) = (Node::start(&host, "alpha"), Node::start(&host, "beta"));
    let mut s = Session::new(&alpha, domain);
    let mut console = s.start();
    ask(&mut console, "dirty 16M 50M", "dirty: ");
    drop(console);
    for (way, to) in ways.iter().zip([&beta, &alpha].into_iter().cycle()) {
        s = move_to(s, to, way);
    }
    assert!(s.hmp("info memory-devices").contains("memaddr: 0x100000000"));
    s.listen();
    s.resize("virtiomem0", "256MiB", 262_144);
    assert_eq!([alpha.errors(), beta.errors()], [vec![], Vec::<String>::new()]);
}

#[test]
fn over_sockets_of_all_kinds() {
    if !can() {
        return;
    }
    let tcp = ["--migrateuri", "tcp://127.0.0.1"];
    let socket = Host::new();
    let unix = format!("unix://{}", socket.path("move").display());
    let ways: [&[&str]; 7] = [
        &[&["--live"], &tcp[..]].concat(),
        &[&["--live", "--p2p"], &tcp[..]].concat(),
        &["--live", "--p2p", "--tunnelled"],
        &["--live", "--p2p", "--migrateuri", &unix],
        &[&["--live", "--p2p", "--parallel", "--parallel-connections", "2"], &tcp[..]].concat(),
        &[&["--live", "--p2p", "--parallel", "--compressed", "--comp-methods", "zlib"], &tcp[..]].concat(),
        &[&["--p2p"], &tcp[..]].concat(),
    ];
    moves(Domain::q35_vmem(), &ways);
}

#[test]
fn with_pages_that_follow() {
    if can() {
        let way =
            ["--live", "--p2p", "--postcopy", "--postcopy-after-precopy", "--migrateuri", "tcp://127.0.0.1"];
        moves(Domain::pc_vmem(), &[&way, &way]);
    }
}
