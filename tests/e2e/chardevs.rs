//! Character devices under monitors and serial ports: what each kind is called, connects to and does when its peer goes.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};
use tests::{Hmp, Peer, Qmp, Vm, VmBuilder, Wire, program};

/// A machine without vCPUs, which QEMU need not stop.
fn none() -> VmBuilder {
    let builder = Vm::new().line("-machine none");
    if program::peer() == Peer::Qemu { builder.accel("tcg") } else { builder }
}

/// The file name that `query-chardev` tells of a label.
fn filename(vm: &mut Vm, label: &str) -> String {
    let list = vm.qmp().ok("query-chardev", json!({}));
    let of_label = |chardev: &&Value| chardev["label"] == label;
    let chardev =
        list.as_array().unwrap().iter().find(of_label).unwrap_or_else(|| panic!("no {label} in {list}"));
    chardev["filename"].as_str().unwrap().to_owned()
}

#[test]
fn each_kind_is_listed_with_its_file_name() {
    let line = "-chardev null,id=n -chardev file,id=f,path=$RUN/out -chardev ringbuf,id=r,size=64 \
                -chardev socket,id=s,path=$RUN/s,server=on,wait=off -chardev pty,id=p";
    let mut vm = none().line(line).qmp().start();
    let run = vm.scratch().to_str().unwrap().to_owned();
    assert_eq!(filename(&mut vm, "n"), "null");
    assert_eq!(filename(&mut vm, "f"), "file");
    assert_eq!(filename(&mut vm, "r"), "ringbuf");
    assert_eq!(filename(&mut vm, "s"), format!("disconnected:unix:{run}/s,server=on"));
    assert!(filename(&mut vm, "p").starts_with("pty:/dev/pts/"), "{}", filename(&mut vm, "p"));
}

#[test]
fn a_monitor_on_a_pty_can_be_opened_by_its_name() {
    let mut vm = none().line("-chardev pty,id=p -mon chardev=p").qmp().start();
    let pty = filename(&mut vm, "p").strip_prefix("pty:").unwrap().to_owned();
    assert_eq!(vm.stdout(), format!("char device redirected to {pty} (label p)\n"));
    let fd = rustix::fs::open(Path::new(&pty), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    // Whoever opens a terminal says whether it echoes; this client does not want to read its own typing.
    let mut raw = rustix::termios::tcgetattr(&fd).unwrap();
    raw.make_raw();
    rustix::termios::tcsetattr(&fd, rustix::termios::OptionalActions::Now, &raw).unwrap();
    let mut wire = Wire::new(fd);
    wire.send(b"info status\n").unwrap();
    wire.until("VM status: running").unwrap();
}

#[test]
fn a_file_gets_what_the_monitor_says() {
    let mut vm = none().line("-chardev file,id=f,path=$RUN/out -mon chardev=f").qmp().start();
    vm.qmp().ok("query-status", json!({}));
    let text = fs::read_to_string(vm.scratch().join("out")).unwrap();
    assert_eq!(text, "QEMU 10.0.2 monitor - type 'help' for more information\r\n(qemu) ");
}

#[test]
fn a_pipe_is_read_from_one_end_and_written_to_the_other() {
    let builder = none().line("-chardev pipe,id=p,path=$RUN/pipe -mon chardev=p");
    let [into, out] = ["pipe.in", "pipe.out"].map(|name| builder.scratch().join(name));
    for path in [&into, &out] {
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap();
    }
    let _vm = builder.spawn_only();
    // Opening a FIFO waits for its other end.
    let mut output = File::open(out).unwrap();
    let mut input = fs::OpenOptions::new().write(true).open(into).unwrap();
    std::io::Write::write_all(&mut input, b"quit\n").unwrap();
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("QEMU 10.0.2 monitor"), "{said}");
    assert!(said.ends_with("\r\n"), "{said}");
}

#[test]
fn a_tcp_server_takes_a_free_port_and_tells_it() {
    let mut vm = none()
        .line("-chardev socket,id=s,host=127.0.0.1,port=0,server=on,wait=off -mon chardev=s")
        .qmp()
        .start();
    let name = filename(&mut vm, "s");
    let port: u16 =
        name.strip_prefix("disconnected:tcp:127.0.0.1:").unwrap().split(',').next().unwrap().parse().unwrap();
    let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut hmp = Hmp::new(Wire::new(stream.into()));
    hmp.banner().unwrap();
    assert_eq!(hmp.run("info status"), "VM status: running\n");
    assert!(filename(&mut vm, "s").starts_with("tcp:127.0.0.1:"), "{}", filename(&mut vm, "s"));
}

#[test]
fn a_server_that_waits_holds_the_start_until_its_client_comes() {
    let mut vm = none()
        .line("-qmp unix:$RUN/first,server=on,wait=on -qmp unix:$RUN/second,server=on,wait=off")
        .spawn_only();
    let [first, second] = ["first", "second"].map(|name| vm.scratch().join(name));
    let mut waited_for = Qmp::new(vm.connect(&first));
    // A client can be at the door before it is said that one is waited for; who was taken in was waited for.
    waited_for.negotiate().unwrap();
    let said = vm.stderr();
    assert!(said.contains("info: QEMU waiting for connection on: disconnected:unix:"), "{said}");
    Qmp::new(vm.connect(&second)).negotiate().unwrap();
}

#[test]
fn a_server_takes_the_next_client_when_one_has_gone() {
    let mut vm = none().line("-qmp unix:$RUN/qmp,server=on,wait=off").spawn_only();
    let path = vm.scratch().join("qmp");
    for _ in 0..20 {
        let mut qmp = Qmp::new(vm.connect(&path));
        qmp.negotiate().unwrap();
        qmp.ok("query-status", json!({}));
    }
    // One that goes without a word, one in the middle of a word, one that does not read.
    drop(vm.connect(&path));
    vm.connect(&path).send(b"{\"execute\":").unwrap();
    let mut deaf = vm.connect(&path);
    deaf.send(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-qmp-schema\"}").unwrap();
    drop(deaf);
    Qmp::new(vm.connect(&path)).negotiate().unwrap();
}

#[test]
fn a_client_connects_again_after_its_server_was_away() {
    let builder = none().qmp();
    let path = builder.scratch().join("server");
    let listener = UnixListener::bind(&path).unwrap();
    let mut vm = builder.line("-chardev socket,id=c,path=$RUN/server,reconnect-ms=20 -mon chardev=c").start();
    let path = vm.scratch().join("server");
    let first = vm.accept(&listener).unwrap();
    greets(first);
    drop(listener);
    fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let second = vm.accept(&listener).unwrap();
    greets(second);
}

fn greets(stream: UnixStream) {
    let mut hmp = Hmp::new(Wire::new(stream.into()));
    assert!(hmp.banner().unwrap().starts_with("QEMU 10.0.2 monitor"));
}

#[test]
fn a_request_may_come_byte_by_byte() {
    // Bytes and their end in many pieces.
    let mut vm = none().qmp().start();
    for byte in b"{\"execute\": \"query-name\", \"id\": \"slowly\"}\n" {
        vm.qmp().send_raw(&[*byte]).unwrap();
    }
    assert_eq!(vm.qmp().recv().unwrap(), json!({ "return": {}, "id": "slowly" }));
}
