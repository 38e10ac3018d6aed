//! Secrets: what libvirt makes with every machine, and what QEMU 10.0.2 says of mistakes.

use serde_json::{Value, json};
use tests::{Peer, Vm, VmBuilder, program};

fn none() -> VmBuilder {
    let vm = Vm::new().line("-machine none");
    if program::peer() == Peer::Qemu { vm.accel("tcg") } else { vm }
}

#[test]
fn a_key_in_a_file_is_taken_at_start_and_at_run_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master-key.aes");
    std::fs::write(&path, [0x80; 32]).unwrap();
    let path = path.to_str().unwrap();
    let key = |id: &str| json!({ "qom-type": "secret", "id": id, "format": "raw", "file": path });
    let mut vm = none().args(["-object", &key("masterKey0").to_string()]).qmp().start();
    let get = |vm: &mut Vm, property: &str| {
        vm.qmp().ok("qom-get", json!({ "path": "/objects/masterKey0", "property": property }))
    };
    let found: Vec<Value> =
        ["format", "file", "data", "keyid", "iv"].iter().map(|p| get(&mut vm, p)).collect();
    assert_eq!(found, [json!("raw"), json!(path), json!(""), json!(""), json!("")]);
    vm.qmp().ok("object-add", key("k1"));
    for id in ["k1", "masterKey0"] {
        vm.qmp().ok("object-del", json!({ "id": id }));
    }
}

#[test]
fn mistakes_are_named() {
    let mut vm = none().qmp().start();
    let mut error = |more: Value| {
        let mut arguments = json!({ "qom-type": "secret", "id": "s" });
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (class, desc) = vm.qmp().err("object-add", arguments);
        assert_eq!(class, "GenericError");
        desc
    };
    assert_eq!(error(json!({})), "Either 'file' or 'data' must be provided");
    assert_eq!(
        error(json!({ "data": "x", "file": "/dev/null" })),
        "'file' and 'data' are mutually exclusive"
    );
    assert_eq!(
        error(json!({ "file": "/nonexistent" })),
        "Unable to read /nonexistent: Failed to open file “/nonexistent”: No such file or directory"
    );
    assert_eq!(
        error(json!({ "data": "!!!", "format": "base64" })),
        "Base64 data contains invalid characters"
    );
    assert_eq!(
        error(json!({ "data": "x", "format": "hex" })),
        "Parameter 'format' does not accept value 'hex'"
    );
    assert_eq!(error(json!({ "data": "x", "loaded": true })), "Parameter 'loaded' is unexpected");
    assert_eq!(error(json!({ "data": 5 })), "Invalid parameter type for 'data', expected: string");
}
