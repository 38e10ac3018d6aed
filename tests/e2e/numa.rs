//! `-numa`: what is refused is refused in the words of the real QEMU, and what is accepted is told as by it.

use serde_json::json;
use tests::program::qemu;
use tests::{Need, Vm, have};

const BACKENDS: &str =
    "-object memory-backend-ram,id=r0,size=512M -object memory-backend-ram,id=r1,size=512M";
/// Two nodes whose CPUs nobody has named.
const PLAIN: &str = "-numa node,nodeid=0,memdev=r0 -numa node,nodeid=1,memdev=r1";
/// All CPUs on node 0.
const NEAR: &str =
    "-numa node,nodeid=0,memdev=r0,cpus=0-3,initiator=0 -numa node,nodeid=1,memdev=r1,initiator=0";
const LATENCY: &str =
    "-numa hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-latency,latency=5";
const BANDWIDTH: &str =
    "-numa hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=read-bandwidth,bandwidth=1M";

#[test]
fn what_does_not_fit_is_refused_in_qemus_words() {
    if !have(&[Need::Qemu, Need::Pliant]) {
        return;
    }
    let both = format!("{NEAR} {LATENCY} {BANDWIDTH}");
    let lb = "hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-latency";
    let cache = "hmat-cache,node-id=0,associativity=direct,policy=write-back,line=8";
    let cases = [
        ("", PLAIN, "cpu,node-id=2,socket-id=0".to_owned()),
        ("", PLAIN, "cpu,socket-id=0".into()),
        ("", PLAIN, "cpu,node-id=0,die-id=0".into()),
        ("", PLAIN, "cpu,node-id=0,cluster-id=0".into()),
        ("", PLAIN, "cpu,node-id=0,core-id=x".into()),
        ("", PLAIN, "cpu,node-id=0,foo=1".into()),
        ("", PLAIN, "cpu,node-id=0,core-id=9".into()),
        ("", NEAR, "cpu,node-id=0,core-id=1".into()),
        ("", PLAIN, LATENCY["-numa ".len()..].into()),
        (",hmat=on", NEAR, "cpu,node-id=1,core-id=1".into()),
        (",hmat=on", "-numa node,nodeid=0,memdev=r0,cpus=0", "node,nodeid=1,memdev=r1,initiator=1".into()),
        (
            ",hmat=on",
            NEAR,
            "hmat-lb,initiator=1,target=0,hierarchy=memory,data-type=read-latency,latency=1".into(),
        ),
        (",hmat=on", NEAR, "hmat-lb,initiator=0,target=0,hierarchy=foo".into()),
        (",hmat=on", &both, format!("{lb},latency=x")),
        (",hmat=on", &both, format!("{lb},latency=65535")),
        (",hmat=on", &both, format!("{lb},bandwidth=1M")),
        (",hmat=on", &both, lb.replace("target=1", "target=0") + ",latency=6"),
        (",hmat=on", NEAR, format!("{cache},size=1K,level=1")),
        (",hmat=on", &both, format!("{cache},size=1K,level=2")),
        (",hmat=on", &both, format!("{cache},size=1K,level=300")),
        ("", PLAIN, "dist,src=0,dst=0,val=10".into()),
    ];
    for (machine, before, option) in cases {
        let line = format!("-machine q35{machine} -m 1G -smp 4 {BACKENDS} {before} -numa {option}");
        let ours = Vm::new().accel("sim").line(&line).run();
        let theirs = Vm::new().program(&qemu().unwrap()).accel("tcg").line(&line).run();
        assert_eq!(ours.stderr, theirs.stderr, "{line}");
        assert_eq!(ours.code, Some(1), "{line}");
    }
}

#[test]
fn cpus_are_on_the_nodes_where_qemu_has_them() {
    if !have(&[Need::Qemu, Need::Pliant]) {
        return;
    }
    for (machine, smp, numa) in [
        ("q35", "4", ""),
        ("pc-q35-6.2", "4,sockets=2", ""),
        ("pc-q35-6.1", "4", ""),
        ("pc-q35-6.1", "8,threads=2", ""),
        ("q35", "8,sockets=2,dies=2", "-numa cpu,node-id=1,die-id=0 -numa cpu,node-id=0,die-id=1"),
        ("pc", "4,modules=2,maxcpus=8", "-numa cpu,node-id=1,module-id=0 -numa cpu,node-id=0,module-id=1"),
    ] {
        let line = format!("-machine {machine} -S -m 1G -smp {smp} {BACKENDS} {PLAIN} {numa}");
        let mut ours = Vm::new().accel("sim").line(&line).qmp().start();
        let mut theirs = Vm::new().program(&qemu().unwrap()).accel("tcg").line(&line).qmp().start();
        for command in ["query-hotpluggable-cpus", "query-cpus-fast", "x-query-numa"] {
            let answer = |vm: &mut Vm| {
                let mut answer = vm.qmp().ok(command, json!({}));
                // Paths and threads are each program's own.
                for cpu in answer.as_array_mut().into_iter().flatten() {
                    let cpu = cpu.as_object_mut().unwrap();
                    ["qom-path", "thread-id"].iter().for_each(|key| drop(cpu.remove(*key)));
                }
                answer
            };
            assert_eq!(answer(&mut ours), answer(&mut theirs), "{line}: {command}");
        }
    }
}
