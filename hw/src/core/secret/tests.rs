//! What is handed over comes out, and mistakes are answered as by QEMU 10.0.2.

use qom::{Input, Tree};

use super::*;

fn tree() -> Tree {
    let mut registry = Registry::new();
    Tree::register(&mut registry);
    register(&mut registry);
    Tree::new(registry)
}

fn made(options: &[(&str, &str)]) -> std::result::Result<Vec<u8>, String> {
    let options = options.iter().map(|(name, value)| (*name, Input::Keyval(value)));
    let object = tree().create_user_object("secret", "s", options).map_err(|e| e.desc().to_owned())?;
    Ok(Secret::from_object(&object).expect("a secret").bytes().expect("complete").to_vec())
}

fn refused(options: &[(&str, &str)]) -> String {
    made(options).expect_err("refused")
}

#[test]
fn text_is_taken_as_it_is_and_base64_as_loosely_as_by_qemu() {
    assert_eq!(made(&[("data", "aGVsbG8=")]).unwrap(), b"aGVsbG8=");
    for (coded, plain) in [
        ("aGVsbG8=", "hello"),
        ("aGVsbG8", "hello"),
        ("aGVs\nbG8=\n", "hello"),
        ("aGVsbG8=====", "hello"),
        ("", ""),
        ("====", ""),
        ("a", ""),
    ] {
        assert_eq!(made(&[("format", "base64"), ("data", coded)]).unwrap(), plain.as_bytes(), "{coded:?}");
    }
    for coded in ["!!!", "aGVs bG8=", "aGVs\r\nbG8=", "aG-_", "aGVsé"] {
        let text = refused(&[("format", "base64"), ("data", coded)]);
        assert_eq!(text, "Base64 data contains invalid characters", "{coded:?}");
    }
}

#[test]
fn a_file_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master-key.aes");
    let name = path.to_str().unwrap();
    std::fs::write(&path, [0xff, 0, 0xfe]).unwrap();
    assert_eq!(made(&[("format", "raw"), ("file", name)]).unwrap(), [0xff, 0, 0xfe]);
    let nul = refused(&[("format", "base64"), ("file", name)]);
    assert_eq!(nul, "Base64 data contains embedded NUL characters");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        refused(&[("file", name)]),
        format!("Unable to read {name}: Failed to open file “{name}”: No such file or directory")
    );
    let dir = dir.path().to_str().unwrap();
    assert_eq!(
        refused(&[("file", dir)]),
        format!("Unable to read {dir}: Error reading file “{dir}”: Is a directory")
    );
}

#[test]
fn it_is_text_or_a_file_and_not_encrypted() {
    assert_eq!(refused(&[]), "Either 'file' or 'data' must be provided");
    assert_eq!(refused(&[("data", "x"), ("file", "/dev/null")]), "'file' and 'data' are mutually exclusive");
    assert_eq!(
        refused(&[("data", "x"), ("format", "hex")]),
        "Parameter 'format' does not accept value 'hex'"
    );
    assert_eq!(
        refused(&[("data", "eA=="), ("keyid", "masterKey0")]),
        "the secret is encrypted with 'masterKey0', and encrypted secrets are not supported"
    );
    assert_eq!(made(&[("data", "x"), ("iv", "eA==")]).unwrap(), b"x");
}

#[test]
fn what_is_set_later_changes_nothing() {
    let options = [("data", Input::Keyval("x"))];
    let object = tree().create_user_object("secret", "s", options).unwrap();
    object.set("data", Input::Keyval("y")).unwrap();
    assert_eq!(object.get("data").unwrap(), "y".into());
    assert_eq!(object.get("file").unwrap(), "".into());
    assert_eq!(object.get("format").unwrap(), "raw".into());
    let secret = Secret::from_object(&object).unwrap();
    assert_eq!(secret.bytes(), Some(&b"x"[..]));
    assert_eq!(format!("{secret:?}"), "Secret { .. }");
}
