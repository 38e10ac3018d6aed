//! Back ends that leave, come back, stall and talk nonsense: it costs the machine their device and nothing else.

use tests::vhost_user::{Fault, Message, Rule};

use super::*;

/// A disk whose back end may come back, and the device whose memory it uses.
const DEVICES: &str = "-chardev socket,id=vhost,path=$RUN/vhost,reconnect-ms=10 -device vhost-user-blk-pci,id=disk,chardev=vhost,num-queues=1 \
    -device virtio-mem-pci,id=vm0,memdev=mem0,dynamic-memslots=on,requested-size=64M";

/// The same with a back end that is gone for good when it is gone.
fn mortal() -> String {
    DEVICES.replace(",reconnect-ms=10", "")
}

/// A machine whose guest is at work on its disk.
fn at_work(accel: &str, options: Options, devices: &str) -> Rig {
    let mut rig = Rig::own(with_guest(Vm::new().accel(accel)), options, devices);
    guest_reached(&mut rig.vm, &[64 * M]);
    guest_says(&mut rig.vm, "disk run 0 2048 1", "started", &[]);
    rig.moves();
    rig
}

impl Rig {
    /// The back end dies.
    fn dies(&self) {
        self.backend().die(|| self.relay.hang_up());
    }

    /// That everything but the disk works: monitors, and memory in both directions.
    fn lives(&mut self) {
        assert_eq!(self.vm.qmp().ok("query-status", json!({}))["running"], true);
        self.resize(2 * G);
        self.resize(2 * M);
        self.resize(64 * M);
    }

    /// Waits for the connection after the n-th, and that the disk works over it.
    fn recovers(&mut self, n: usize) {
        self.relay.wait_for_connection(n + 1);
        self.moves();
        self.agree();
    }
}

fn goes_on_after_reconnects(mut rig: Rig, mut away: impl FnMut(&mut Rig)) {
    for size in [G, 2 * M, 3 * G] {
        let n = rig.relay.connections();
        away(&mut rig);
        rig.recovers(n);
        rig.resize(size);
        rig.agree();
    }
    job(&mut rig.vm, "disk stop");
    job(&mut rig.vm, "disk load 4 at plugged");
}

#[test]
fn requests_go_on_after_reconnects_on_kvm() {
    let Some(accel) = accel("kvm") else { return };
    goes_on_after_reconnects(at_work(accel, Options::default(), DEVICES), |rig| rig.dies());
}

#[test]
fn requests_go_on_after_reconnects_on_sim() {
    let Some(accel) = accel("sim") else { return };
    goes_on_after_reconnects(at_work(accel, Options::default(), DEVICES), |rig| rig.dies());
}

#[test]
fn requests_go_on_with_another_storage_daemon_when_the_first_was_killed() {
    let Some(accel) = accel("kvm").filter(|_| have(&[Need::StorageDaemon])) else { return };
    let mut rig = Rig::daemon(with_guest(Vm::new().accel(accel)), DEVICES);
    guest_reached(&mut rig.vm, &[64 * M]);
    guest_says(&mut rig.vm, "disk run 0 2048 1 at plugged", "started", &[]);
    rig.moves();
    goes_on_after_reconnects(rig, |rig| {
        // Nobody is listening in between.
        let scratch = rig.vm.scratch().to_owned();
        let Server::Daemon(daemon) = &mut rig.server else { unreachable!("started above") };
        daemon.start_over(&scratch);
    });
}

#[test]
fn memory_that_changes_while_the_back_end_is_away_is_known_to_the_next_one() {
    let Some(accel) = accel("kvm") else { return };
    let mut rig = at_work(accel, Options::default(), DEVICES);
    // Who connects is hung up on at once.
    rig.relay.rule(Rule::HangUp(Request::GET_FEATURES));
    rig.dies();
    rig.lives();
    rig.resize(3 * G);
    rig.relay.obey();
    rig.moves();
    rig.agree();
    job(&mut rig.vm, "disk stop");
}

fn dies(accel: &str) {
    let mut rig = at_work(accel, Options::default(), &mortal());
    rig.dies();
    rig.lives();
    // What was in flight stays there until the guest gives it up.
    let said = guest_line(&mut rig.vm, "disk", "disk 0: run: ");
    assert!(said.contains(" in flight") && !said.contains(" 0 in flight"), "{said}");
    guest_line(&mut rig.vm, "disk reset", "disk 0: reset: ");
    rig.lives();
    rig.vm.qmp().ok("system_reset", json!({}));
    guest_reached(&mut rig.vm, &[64 * M]);
    rig.lives();
}

#[test]
fn a_back_end_that_dies_costs_its_device_only_on_kvm() {
    if let Some(accel) = accel("kvm") {
        dies(accel);
    }
}

#[test]
fn a_back_end_that_dies_costs_its_device_only_on_sim() {
    if let Some(accel) = accel("sim") {
        dies(accel);
    }
}

/// What has the program make a request, from which requested size on.
type Cause = (Request, u64, fn(&mut Rig));

#[test]
fn a_back_end_that_stalls_is_left_alone_and_everything_else_goes_on() {
    // QEMU waits for ever, with its monitors.
    let Some(accel) = accel("sim") else { return };
    let impatient = DEVICES.replace("id=disk", "id=disk,x-pliant-timeout-ms=1000");
    let mut rig = at_work(accel, Options::default(), &impatient);
    let steps: [Cause; 4] = [
        (Request::ADD_MEM_REG, 64 * M, |rig| rig.resize(2 * G)),
        (Request::REM_MEM_REG, 2 * G, |rig| rig.resize(64 * M)),
        (Request::GET_VRING_BASE, 64 * M, |rig| {
            guest_says(&mut rig.vm, "disk reset", "disk 0: reset: ok", &[]);
        }),
        (Request::GET_VRING_BASE, 64 * M, |rig| {
            rig.vm.qmp().ok("stop", json!({}));
            rig.vm.qmp().ok("cont", json!({}));
        }),
    ];
    for (request, size, cause) in steps {
        rig.resize(size);
        let n = rig.relay.connections();
        rig.relay.rule(Rule::Stall(request));
        cause(&mut rig);
        rig.relay.wait_for_stall();
        rig.lives();
        rig.relay.resume();
        rig.recovers(n);
    }
}

/// Answers to a request that wants a word, none of them right.
fn nonsense(request: Request) -> Vec<Vec<u8>> {
    let right = Message::answer(request, 0);
    let with = |change: fn(&mut Message)| {
        let mut message = Message::answer(right.request, 0);
        change(&mut message);
        message.bytes()
    };
    let size = |size: u32| {
        let mut bytes = right.bytes();
        bytes[8..12].copy_from_slice(&size.to_ne_bytes());
        bytes
    };
    vec![
        // A refusal, another request's answer, an answer that is a request, one of another version.
        Message::answer(request, 1).bytes(),
        Message::answer(Request::GET_FEATURES, 0).bytes(),
        with(|message| message.flags = 1),
        with(|message| message.flags = 7),
        // Less, more, and much more than a word.
        with(|message| message.body.truncate(4)),
        with(|message| message.body.resize(64, 0)),
        size(u32::MAX),
        size(1 << 20),
        // Bytes that are nothing.
        vec![0xff; 20],
        vec![0; 20],
    ]
}

#[test]
fn a_back_end_that_answers_nonsense_is_left_alone() {
    let Some(accel) = accel("sim") else { return };
    let mut rig = at_work(accel, Options::default(), DEVICES);
    for (request, from, to) in [(Request::ADD_MEM_REG, 64 * M, 2 * G), (Request::REM_MEM_REG, 2 * G, 64 * M)]
    {
        // A region that is refused is not plugged, which is another matter.
        let refusal = usize::from(request == Request::ADD_MEM_REG);
        for bytes in nonsense(request).into_iter().skip(refusal) {
            rig.resize(from);
            rig.agree();
            let n = rig.relay.connections();
            rig.relay.rule(Rule::Garble(request, bytes));
            rig.resize(to);
            rig.relay.obey();
            rig.recovers(n);
        }
    }
    job(&mut rig.vm, "disk stop");
    rig.lives();
}

#[test]
fn a_back_end_that_talks_nonsense_at_the_start_is_refused() {
    let Some(accel) = accel("sim") else { return };
    for request in [
        Request::GET_FEATURES,
        Request::GET_PROTOCOL_FEATURES,
        Request::GET_QUEUE_NUM,
        Request::GET_MAX_MEM_SLOTS,
        Request::GET_CONFIG,
    ] {
        for bytes in nonsense(request) {
            let word = Message::answer(request, 1).bytes() == bytes;
            if word && matches!(request, Request::GET_QUEUE_NUM | Request::GET_MAX_MEM_SLOTS) {
                // That one is an answer.
                continue;
            }
            let builder = Vm::new().accel(accel);
            let backend = Backend::start(&builder.scratch().join("backend"), Options::default());
            let relay = Relay::start(&builder.scratch().join("vhost"), backend.path());
            relay.rule(Rule::Garble(request, bytes.clone()));
            let exited = with_memory(builder).line(&mortal()).qmp().try_start().unwrap_err();
            assert_eq!(
                (exited.code, exited.signal),
                (Some(1), None),
                "{request:?} {bytes:x?}: {}",
                exited.stderr
            );
            assert!(exited.stderr.contains("-device vhost-user-blk-pci"), "{}", exited.stderr);
        }
    }
}

#[test]
fn broken_rings_are_the_guests_to_notice_and_cost_nothing_else() {
    let Some(accel) = accel("kvm") else { return };
    let mut rig = at_work(accel, Options::default(), DEVICES);
    for fault in [Fault::WrongId(5), Fault::WrongId(127), Fault::WrongId(70_000), Fault::Jump(0x1003)] {
        rig.backend().fault(Some(fault));
        // It starts over as long as there is hope.
        guest_line(&mut rig.vm, "", "giving up");
        rig.lives();
        rig.backend().fault(None);
        guest_says(&mut rig.vm, "disk reset", "disk 0: reset: ok", &[]);
        job(&mut rig.vm, "disk load 1");
        guest_says(&mut rig.vm, "disk run 0 2048 1", "started", &[]);
    }
    let spoiled = rig.backend().spoiled();
    rig.backend().fault(Some(Fault::Status(0x4d)));
    rig.backend().wait_for_spoiled(spoiled + 1);
    rig.backend().fault(None);
    let said = guest_line(&mut rig.vm, "disk stop", "first failure in the request at sector ");
    assert!(said.ends_with(": status 0x4d"), "{said}");
    job(&mut rig.vm, "disk load 1");
}

#[test]
fn memory_under_a_request_that_does_not_come_back_is_free_once_the_device_is_reset() {
    let Some(accel) = accel("kvm") else { return };
    let mut rig = Rig::own(with_guest(Vm::new().accel(accel)), Options::default(), DEVICES);
    guest_reached(&mut rig.vm, &[64 * M]);
    rig.backend().stall();
    rig.vm.serial().send(b"disk write 0 8192 1 at plugged\r").unwrap();
    while !guest_line(&mut rig.vm, "disk", "disk 0: write: ").ends_with(" 8 in flight") {}
    // The guest keeps what the device has: the resize waits, and nobody else.
    rig.vm.qmp().qom_set("vm0", "requested-size", json!(0));
    guest_line(&mut rig.vm, "mem", "mem: ");
    assert_ne!(rig.vm.qmp().qom_get("vm0", "size"), 0);
    let lost = guest_line(&mut rig.vm, "disk reset", "disk 0: reset: ok: ");
    assert_eq!(lost, "8 lost");
    guest_reached(&mut rig.vm, &[0]);
    rig.backend().fault(None);
    // What was lost is written once more.
    let said = guest_line(&mut rig.vm, "", "disk 0: write: ");
    assert!(
        said.starts_with("FAILED: 4194304 bytes written, 0 verified, 0 errors, 0 words differ, 8 lost"),
        "{said}"
    );
    job(&mut rig.vm, "disk verify 0 8192 1");
    rig.lives();
    assert_eq!(rig.backend().unmapped(), 0);
}

#[test]
fn a_back_end_without_requests_of_its_own_may_close_the_socket_for_them() {
    let Some(accel) = accel("kvm") else { return };
    let mut rig = at_work(accel, Options { keep_channel: false, ..Options::default() }, &mortal());
    rig.lives();
    rig.agree();
    job(&mut rig.vm, "disk stop");
}
