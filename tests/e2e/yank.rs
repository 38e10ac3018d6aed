//! `yank` and `query-yank` beside QEMU: which instances there are, and that their connections really end.

use serde_json::{Value, json};
use tests::{Need, Qmp, Vm, have};

fn chardev(id: &str) -> Value {
    json!({ "type": "chardev", "id": id })
}

#[test]
fn sockets_are_given_up_as_with_qemu() {
    if !have(&[Need::Qemu, Need::Pliant]) {
        return;
    }
    let line = "-machine none -chardev socket,id=s,host=127.0.0.1,port=0,server=on,wait=off -chardev null,id=n \
                -chardev socket,id=m,path=$RUN/m,server=on,wait=off,mux=on -mon chardev=m,mode=control";
    let qemu = tests::program::qemu().unwrap();
    let mut ours = Vm::new().line(line).qmp().start();
    let mut theirs = Vm::new().program(&qemu).accel("tcg").line(line).qmp().start();
    for instances in [
        json!([chardev("zz")]),
        json!([{ "type": "chardev" }]),
        json!([{ "type": "foo" }]),
        json!([{ "type": "migration" }]),
        json!([{ "type": "block-node", "node-name": "b" }]),
        json!([{ "type": "block-node" }]),
        json!([]),
        json!(1),
        json!([1]),
        json!([chardev("s")]),
        json!([chardev("n")]),
        json!([chardev("m")]),
        json!([chardev("m-base"), chardev("zz")]),
        json!([{ "type": "chardev", "id": "s", "x": 1 }]),
    ] {
        let request = json!({ "execute": "yank", "arguments": { "instances": instances } });
        let [a, b] = [&mut ours, &mut theirs].map(|vm| vm.qmp().request(&request).unwrap());
        assert_eq!(a, b, "{request}");
    }
    for vm in [&mut ours, &mut theirs] {
        let all = vm.qmp().ok("query-yank", json!({}));
        let all: Vec<_> = all
            .as_array()
            .unwrap()
            .iter()
            .filter(|i| ["s", "m-base"].contains(&i["id"].as_str().unwrap()))
            .collect();
        assert_eq!(all, [&chardev("s"), &chardev("m-base")]);
        // The client of the other monitor sees the end, and the next one is served.
        let path = vm.scratch().join("m");
        let mut client = Qmp::new(vm.connect(&path));
        client.negotiate().unwrap();
        vm.qmp().ok("yank", json!({ "instances": [chardev("m-base")] }));
        assert_eq!(client.wire().rest().unwrap(), b"");
        let mut client = Qmp::new(vm.connect(&path));
        client.negotiate().unwrap();
        client.ok("query-status", json!({}));
    }
}
