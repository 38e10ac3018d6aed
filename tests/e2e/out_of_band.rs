//! Out-of-band commands run while the main loop is held up: here by `pmemsave` into a pipe that nobody reads yet.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::{Value, json};
use tests::{Need, Qmp, Vm, have};

/// A machine with two QMP monitors; the client of the first has switched out-of-band execution on.
struct Held {
    vm: Vm,
    client: Qmp,
    fifo: PathBuf,
}

impl Held {
    fn start() -> Option<Self> {
        if !have(&[Need::Pliant]) {
            return None;
        }
        let line = "-machine q35 -m 64M -qmp unix:$RUN/oob,server=on,wait=off";
        let mut vm = Vm::new().line(line).qmp().start();
        let fifo = vm.scratch().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let client = negotiated(&mut vm);
        Some(Self { vm, client, fifo })
    }

    /// Holds the main loop up until [`Self::release`].
    fn hold(&mut self) {
        let arguments = json!({ "val": 0, "size": 4, "filename": self.fifo });
        self.send(&json!({ "execute": "pmemsave", "arguments": arguments, "id": "held" }));
    }

    fn release(&self) {
        let mut all = Vec::new();
        File::open(&self.fifo).unwrap().read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 4);
    }

    fn send(&mut self, request: &Value) {
        self.client.send_raw(format!("{request}\n").as_bytes()).unwrap();
    }

    fn id(&mut self) -> Value {
        self.client.recv().unwrap()["id"].clone()
    }
}

fn negotiated(vm: &mut Vm) -> Qmp {
    let path = vm.scratch().join("oob");
    let mut client = Qmp::new(vm.connect(&path));
    client.greeting().unwrap();
    client.ok("qmp_capabilities", json!({ "enable": ["oob"] }));
    client
}

fn in_band(id: usize) -> Value {
    json!({ "execute": "query-name", "id": id })
}

fn out_of_band(id: &str) -> Value {
    json!({ "exec-oob": "query-yank", "id": id })
}

#[test]
fn out_of_band_commands_overtake_one_that_holds_the_loop_up() {
    let Some(mut held) = Held::start() else { return };
    held.hold();
    (0..3).for_each(|id| held.send(&in_band(id)));
    held.send(&out_of_band("first"));
    assert_eq!(held.id(), "first");
    held.send(&json!({ "exec-oob": "query-name", "id": "refused" }));
    assert_eq!(held.id(), "refused");
    held.send(&out_of_band("second"));
    assert_eq!(held.id(), "second");
    held.release();
    assert_eq!([(); 4].map(|()| held.id()), [json!("held"), json!(0), json!(1), json!(2)]);
    // And so again, now that the loop was free in between.
    held.hold();
    held.send(&out_of_band("third"));
    assert_eq!(held.id(), "third");
    held.release();
    assert_eq!(held.id(), "held");
}

#[test]
fn eight_commands_wait_and_then_nothing_more_is_read() {
    let Some(mut held) = Held::start() else { return };
    held.hold();
    held.send(&out_of_band("running"));
    assert_eq!(held.id(), "running");
    (0..20).for_each(|id| held.send(&in_band(id)));
    held.send(&out_of_band("behind"));
    held.release();
    // What is behind a full queue comes once there is room: not before the one that held everything up.
    assert_eq!(held.id(), "held");
    let rest: Vec<Value> = (0..21).map(|_| held.id()).collect();
    let in_order: Vec<_> = rest.iter().filter(|id| *id != "behind").cloned().collect();
    assert_eq!(in_order, (0..20).map(Value::from).collect::<Vec<_>>());
    let behind = rest.iter().position(|id| id == "behind").unwrap();
    assert!(behind >= 12, "it was run with {behind} of 20 before it done");
}

#[test]
fn connections_are_given_up_while_the_loop_is_held_up() {
    let Some(mut held) = Held::start() else { return };
    held.hold();
    let instances = json!([{ "type": "chardev", "id": "harness-qmp0" }]);
    held.send(&json!({ "exec-oob": "yank", "arguments": { "instances": instances }, "id": "yank" }));
    assert_eq!(held.id(), "yank");
    assert_eq!(held.vm.qmp().wire().rest().unwrap(), b"");
    held.release();
    assert_eq!(held.id(), "held");
}

#[test]
fn descriptors_wait_with_the_command_they_came_with() {
    let Some(mut held) = Held::start() else { return };
    let [(far_a, a), (far_b, b)] = [(); 2].map(|()| UnixStream::pair().unwrap());
    held.hold();
    for (name, fd) in [("a", a), ("b", b)] {
        let request = json!({ "execute": "getfd", "arguments": { "fdname": name }, "id": name });
        held.client.wire().send_with_fds(format!("{request}\n").as_bytes(), &[fd.as_fd()]).unwrap();
        drop(OwnedFd::from(fd));
    }
    held.send(&out_of_band("read"));
    assert_eq!(held.id(), "read");
    held.release();
    assert_eq!([(); 3].map(|()| held.id()), ["held", "a", "b"]);
    let is_open = |mut far: &UnixStream| {
        far.set_nonblocking(true).unwrap();
        far.read(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    };
    assert!(is_open(&far_a) && is_open(&far_b));
    held.client.ok("closefd", json!({ "fdname": "a" }));
    assert!(!is_open(&far_a) && is_open(&far_b));
}

#[test]
fn what_was_sent_is_run_and_the_next_client_starts_over() {
    let Some(mut held) = Held::start() else { return };
    held.hold();
    held.send(&json!({ "execute": "stop" }));
    held.send(&out_of_band("read"));
    assert_eq!(held.id(), "read");
    // It leaves with a command unanswered.
    let Held { mut vm, client, fifo } = held;
    drop(client);
    let held = Held { client: Qmp::new(vm.connect(&vm.scratch().join("oob"))), vm, fifo };
    held.release();
    let Held { mut vm, mut client, fifo } = held;
    vm.qmp().wait_event("STOP", |_| true);
    client.greeting().unwrap();
    let early = client.request(&out_of_band("early")).unwrap();
    assert_eq!(early["error"]["desc"], "QMP input member 'exec-oob' is unexpected");
    client.ok("qmp_capabilities", json!({ "enable": ["oob"] }));
    let mut held = Held { vm, client, fifo };
    held.hold();
    held.send(&out_of_band("again"));
    assert_eq!(held.id(), "again");
    held.release();
    assert_eq!(held.id(), "held");
    assert_eq!(held.vm.quit().code, Some(0));
}

#[test]
fn the_greeting_of_every_monitor_offers_it() {
    if !have(&[Need::Qemu, Need::Pliant]) {
        return;
    }
    let line = "-machine none -chardev socket,id=m,path=$RUN/m,server=on,wait=off,mux=on -mon chardev=m,mode=control";
    let qemu = tests::program::qemu().unwrap();
    for builder in [Vm::new(), Vm::new().program(&qemu).accel("tcg")] {
        let mut vm = builder.line(line).qmp().start();
        let path = vm.scratch().join("m");
        let mut client = Qmp::new(vm.connect(&path));
        assert_eq!(client.greeting().unwrap()["QMP"]["capabilities"], json!(["oob"]));
        client.ok("qmp_capabilities", json!({ "enable": ["oob"] }));
        // Behind a mux it is run, if not past what waits.
        let reply = client.request(&out_of_band("mux")).unwrap();
        assert!(reply["return"].is_array(), "{reply}");
    }
}
