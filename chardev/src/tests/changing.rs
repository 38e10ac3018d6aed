//! Claims about `chardev-add` and `chardev-change`.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use qapi::commands::ChardevCommands as _;
use qapi::types::ChardevBackend;
use qapi::visit::Path as Member;
use qapi::{FromValue as _, json};

use super::{Bench, Recorder};
use crate::CharEvent::{Closed, Opened};
use crate::{ChardevSet, WRITE_QUEUE};

/// A back end, written as a client writes it.
fn described(text: &str) -> ChardevBackend {
    ChardevBackend::from_value(json::parse(text).unwrap(), &Member::ROOT).unwrap()
}

fn unix(path: &Path, server: bool) -> ChardevBackend {
    let path = path.display();
    described(&format!(
        r#"{{"type":"socket","data":{{"addr":{{"type":"unix","data":{{"path":"{path}"}}}},"server":{server}}}}}"#
    ))
}

fn change(set: &ChardevSet, id: &str, backend: &str) -> Result<(), String> {
    set.chardev_change(id.into(), described(backend)).map(drop).map_err(|error| error.desc().to_owned())
}

const NULL: &str = r#"{"type":"null","data":{}}"#;
const RING: &str = r#"{"type":"ringbuf","data":{}}"#;
const BROKEN: &str = r#"{"type":"file","data":{"out":"/nonexistent/file"}}"#;

#[test]
fn a_front_end_that_can_goes_on_with_the_new_host_side() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    let mut bench = Bench::new();
    bench.set.chardev_add("a".into(), unix(&first, true)).unwrap();
    let front = Recorder::changeable();
    let port = front.attach(&bench.set.get("a").unwrap());
    let mut old = UnixStream::connect(&first).unwrap();
    bench.until(|| front.events() == [Opened]);
    old.write_all(b"old").unwrap();
    bench.until(|| front.got() == b"old");

    bench.set.chardev_change("a".into(), unix(&second, true)).unwrap();
    let mut nothing = Vec::new();
    assert_eq!(old.read_to_end(&mut nothing).unwrap(), 0, "the old peer is sent away");
    assert!(!first.exists(), "and its path with it");
    bench.until(|| front.events() == [Opened, Closed]);
    let mut new = UnixStream::connect(&second).unwrap();
    bench.until(|| front.events() == [Opened, Closed, Opened]);
    new.write_all(b"new").unwrap();
    bench.until(|| front.got() == b"oldnew");
    assert_eq!(port.write(b"hello"), 5);
    let mut said = [0; 5];
    new.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello");
    assert_eq!(port.chardev().filename(), format!("unix:{},server=on", second.display()));
    assert_eq!(bench.set.remove("a").unwrap_err().desc(), "Chardev 'a' is busy");
    drop(port);
    bench.set.remove("a").unwrap();
    assert!(!second.exists());
}

#[test]
fn a_change_from_open_to_open_is_told_as_an_end_and_a_beginning() {
    let mut bench = Bench::new();
    bench.set.chardev_add("a".into(), described(RING)).unwrap();
    let front = Recorder::changeable();
    let _port = front.attach(&bench.set.get("a").unwrap());
    bench.until(|| front.events() == [Opened]);
    change(&bench.set, "a", RING).unwrap();
    bench.until(|| front.events() == [Opened, Closed, Opened]);
}

#[test]
fn a_change_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut bench = Bench::new();
    bench.set.chardev_add("a".into(), unix(&path, true)).unwrap();
    let front = Recorder::changeable();
    let _port = front.attach(&bench.set.get("a").unwrap());
    let mut peer = UnixStream::connect(&path).unwrap();
    bench.until(|| front.events() == [Opened]);
    let missing = "Could not open '/nonexistent/file': No such file or directory";
    assert_eq!(change(&bench.set, "a", BROKEN), Err(missing.into()));
    // The same path, and a log that cannot be made: the path must not be lost either.
    let logged = format!(
        r#"{{"type":"socket","data":{{"addr":{{"type":"unix","data":{{"path":"{}"}}}},"logfile":"/nonexistent/log"}}}}"#,
        path.display()
    );
    let no_log = "Could not create '/nonexistent/log': No such file or directory";
    assert_eq!(change(&bench.set, "a", &logged), Err(no_log.into()));
    assert!(path.exists());
    peer.write_all(b"still here").unwrap();
    bench.until(|| front.got() == b"still here");
    assert_eq!(front.events(), [Opened]);
}

#[test]
fn a_device_that_nobody_uses_is_changed_or_kept() {
    let bench = Bench::new();
    bench.set.chardev_add("a".into(), described(NULL)).unwrap();
    change(&bench.set, "a", RING).unwrap();
    assert_eq!(bench.set.get("a").unwrap().kind(), "ringbuf");
    let text =
        "Failed to add chardev 'a': Could not open '/nonexistent/file': No such file or directory".to_owned();
    assert_eq!(change(&bench.set, "a", BROKEN), Err(text));
    assert_eq!(bench.set.get("a").unwrap().kind(), "ringbuf");
    assert_eq!(bench.set.list().len(), 1);
}

#[test]
fn what_cannot_be_changed_says_why_before_anything_is_opened() {
    let mut bench = Bench::new();
    bench.try_chardev("null,id=m,mux=on").unwrap();
    let fixed = bench.add("fixed", "null");
    let reserved = bench.add("reserved", "null");
    let _port = Recorder::default().attach(&fixed);
    let _reserved = reserved.reserve().unwrap();
    assert_eq!(change(&bench.set, "x", BROKEN), Err("Chardev 'x' does not exist".into()));
    let mux = "For mux or hub device hotswap is not supported yet";
    assert_eq!(change(&bench.set, "m", BROKEN), Err(mux.into()));
    let user = "Chardev user does not support chardev hotswap";
    for id in ["m-base", "fixed", "reserved"] {
        assert_eq!(change(&bench.set, id, BROKEN), Err(user.into()), "{id}");
    }
}

#[test]
fn what_the_old_host_side_did_not_take_the_new_one_may() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut bench = Bench::new();
    bench.set.chardev_add("a".into(), unix(&path, true)).unwrap();
    let front = Recorder::changeable();
    let port = front.attach(&bench.set.get("a").unwrap());
    let _does_not_read = UnixStream::connect(&path).unwrap();
    bench.until(|| front.events() == [Opened]);
    let much = vec![b'x'; 1 << 20];
    while port.write(&much) > WRITE_QUEUE {}
    assert_eq!(front.writable_calls(), 0);
    change(&bench.set, "a", RING).unwrap();
    bench.until(|| front.writable_calls() > 0);
    assert_eq!(port.write(&much), much.len());
}

#[test]
fn a_device_can_come_to_sit_on_a_mux() {
    let mut bench = Bench::new();
    bench.set.chardev_add("base".into(), described(RING)).unwrap();
    bench.set.chardev_add("a".into(), described(NULL)).unwrap();
    let front = Recorder::changeable();
    let port = front.attach(&bench.set.get("a").unwrap());
    change(&bench.set, "a", r#"{"type":"mux","data":{"chardev":"base"}}"#).unwrap();
    bench.until(|| front.events().contains(&Opened));
    assert_eq!(port.write(b"through"), 7);
    assert_eq!(bench.set.ringbuf_read("base", 9, crate::DataFormat::Utf8).unwrap(), "through");
}

#[test]
fn members_that_do_not_go_together_are_refused_in_qemus_words() {
    let bench = Bench::new();
    let fd = r#"{"type":"fd","data":{"str":"x"}}"#;
    let path = r#"{"type":"unix","data":{"path":"/nonexistent/s"}}"#;
    for (addr, members, error) in [
        (
            path,
            r#""server":false,"reconnect":1,"reconnect-ms":1"#,
            "'reconnect' and 'reconnect-ms' are mutually exclusive",
        ),
        (path, r#""reconnect":1"#, "'reconnect' option is incompatible with socket in server listen mode"),
        (fd, r#""reconnect":1"#, "'reconnect' option is incompatible with 'fd' address type"),
        (
            path,
            r#""server":false,"wait":false"#,
            "'wait' option is incompatible with socket in client connect mode",
        ),
        (path, r#""tls-creds":"t""#, "No TLS credentials with id 't'"),
        (path, r#""tls-authz":"t""#, "'tls_authz' option requires 'tls_creds' option"),
        (path, r#""server":false,"websocket":true"#, "Websocket client is not implemented"),
        (
            path,
            r#""server":false,"reconnect-ms":-5"#,
            "Failed to connect to '/nonexistent/s': No such file or directory",
        ),
    ] {
        let backend = format!(r#"{{"type":"socket","data":{{"addr":{addr},{members}}}}}"#);
        let got = bench.set.chardev_add("a".into(), described(&backend)).unwrap_err();
        assert_eq!(got.desc(), format!("Failed to add chardev 'a': {error}"));
    }
    assert!(bench.set.list().is_empty());
}

#[test]
fn a_host_that_is_a_number_for_certain_is_not_looked_up() {
    let bench = Bench::new();
    let add = |id: &str, host: &str| {
        let backend = format!(
            r#"{{"type":"socket","data":{{"addr":{{"type":"inet","data":{{"host":"{host}","port":"0","numeric":true,"keep-alive":true}}}}}}}}"#
        );
        bench.set.chardev_add(id.into(), described(&backend)).map(drop)
    };
    add("a", "127.0.0.1").unwrap();
    let text =
        "Failed to add chardev 'b': address resolution failed for localhost:0: Name or service not known";
    assert_eq!(add("b", "localhost").unwrap_err().desc(), text);
}
