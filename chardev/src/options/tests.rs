//! Claims about `-chardev`: the messages are those QEMU 10.0.2 printed for the same text.

use proptest::prelude::*;

use super::{Backend, ChardevOptions, SocketAddress};

/// As the command line splits it: the first part without `=` is the back end.
pub(crate) fn pairs(text: &str) -> Vec<(String, String)> {
    let part = |(at, part): (usize, &str)| match part.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None if at == 0 => ("backend".to_owned(), part.to_owned()),
        None => (part.to_owned(), "on".to_owned()),
    };
    text.split(',').enumerate().map(part).collect()
}

fn error(text: &str) -> String {
    ChardevOptions::parse(&pairs(text)).expect_err(text).desc().to_owned()
}

fn backend(text: &str) -> Backend {
    ChardevOptions::parse(&pairs(text)).unwrap().backend
}

#[test]
fn messages_are_those_of_qemu() {
    for (text, message) in [
        ("null", "chardev: no id specified"),
        ("foo", "chardev: no id specified"),
        ("backend=null", "chardev: no id specified"),
        ("foo,id=a", "'foo' is not a valid char driver name"),
        ("null,id=1a", "Parameter 'id' expects an identifier"),
        ("null,id=", "Parameter 'id' expects an identifier"),
        ("null,id=a,foo=1", "Invalid parameter 'foo'"),
        ("stdio,id=a,signal=maybe", "Parameter 'signal' expects 'on' or 'off'"),
        ("file,id=a", "chardev: file: no filename given"),
        ("file,id=a,path=f,append=x", "Parameter 'append' expects 'on' or 'off'"),
        ("pipe,id=a", "chardev: pipe: no device path given"),
        ("serial,id=a", "chardev: serial/tty: no device path given"),
        ("mux,id=a", "chardev: mux: no chardev given"),
        ("socket,id=a,host=localhost", "chardev: socket: no port given"),
        ("socket,id=a,path=s,wait=on", "'wait' option is incompatible with socket in client connect mode"),
        ("socket,id=a,path=s,wait=off", "'wait' option is incompatible with socket in client connect mode"),
        (
            "socket,id=a,path=s,server=on,reconnect=1",
            "'reconnect' option is incompatible with socket in server listen mode",
        ),
        (
            "socket,id=a,path=s,reconnect-ms=1,reconnect=1",
            "'reconnect' and 'reconnect-ms' are mutually exclusive",
        ),
        ("socket,id=a,path=s,reconnect-ms=x", "Parameter 'reconnect-ms' expects a number"),
        ("socket,id=a,path=s,path=t,host=h,port=1", "None or one of 'path', 'fd' or 'host' option required."),
        ("socket,id=a,fd=3,path=/x", "None or one of 'path', 'fd' or 'host' option required."),
        ("socket,id=a,host=h,port=1,nodelay=on,delay=on", "'delay' and 'nodelay' are mutually exclusive"),
        ("socket,id=a,path=s,tls-creds=x", "No TLS credentials with id 'x'"),
        ("socket,id=a,path=s,websocket=on", "Websocket client is not implemented"),
        ("null,id=a,mux=x", "Parameter 'mux' expects 'on' or 'off'"),
        ("null,id=a,width=x", "Parameter 'width' expects a number"),
        (
            "null,id=a,rows=99999999999999999999",
            "Value '99999999999999999999' is too large for parameter 'rows'",
        ),
        ("ringbuf,id=a,size=abc", "Parameter 'size' expects a non-negative number below 2^64"),
        ("null,id=a,size=1X", "Parameter 'size' expects a non-negative number below 2^64"),
    ] {
        assert_eq!(error(text), message, "{text}");
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    assert_eq!(error("vc,id=a"), "chardev: vc: there is no display to show a virtual console on");
    assert_eq!(error("udp,id=a"), "chardev: udp: this back end is not supported");
    assert_eq!(error("socket,id=a,path=s,tn3270=on"), "chardev: socket: tn3270 is not supported");
}

#[test]
fn a_key_of_another_back_end_does_not_matter_as_in_qemu() {
    assert_eq!(backend("null,id=a,size=12,cols=-1,localport=x"), Backend::Null);
}

#[test]
fn a_bad_id_has_a_hint() {
    let error = ChardevOptions::parse(&pairs("null,id=1a")).unwrap_err();
    assert_eq!(
        error.hint(),
        ["Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."]
    );
}

#[test]
fn a_server_waits_unless_told_not_to() {
    let wait = |text: &str| match backend(text) {
        Backend::Socket(socket) => (socket.server, socket.wait, socket.reconnect_ms),
        other => panic!("{other:?}"),
    };
    assert_eq!(wait("socket,id=a,path=s,server=on"), (true, true, 0));
    assert_eq!(wait("socket,id=a,path=s,server=on,wait=off"), (true, false, 0));
    assert_eq!(wait("socket,id=a,path=s,reconnect=2"), (false, false, 2000));
    assert_eq!(wait("socket,id=a,path=s,reconnect-ms=250"), (false, false, 250));
}

#[test]
fn sizes_have_suffixes_and_default_to_64_kib() {
    assert_eq!(backend("ringbuf,id=a"), Backend::RingBuf { size: 65536, memory: false });
    assert_eq!(backend("memory,id=a,size=4k"), Backend::RingBuf { size: 4096, memory: true });
    assert_eq!(backend("ringbuf,id=a,size=0x10"), Backend::RingBuf { size: 16, memory: false });
}

#[test]
fn an_address_is_a_path_a_host_or_a_descriptor() {
    let address = |text: &str| match backend(text) {
        Backend::Socket(socket) => socket.address,
        other => panic!("{other:?}"),
    };
    let unix = |path: &str, abstract_, tight| SocketAddress::Unix { path: path.into(), abstract_, tight };
    assert_eq!(address("socket,id=a,path=/s"), unix("/s", false, true));
    assert_eq!(address("socket,id=a,path=n,abstract=on,tight=off"), unix("n", true, false));
    assert_eq!(address("socket,id=a"), SocketAddress::Fd(String::new()));
    assert_eq!(address("socket,id=a,fd=7"), SocketAddress::Fd("7".into()));
}

proptest! {
    #[test]
    fn garbage_is_an_error_and_never_a_panic(keys in proptest::collection::vec(("[a-z-]{0,9}", ".{0,9}"), 0..6)) {
        let _ = ChardevOptions::parse(&keys);
    }

    #[test]
    fn every_known_key_takes_any_text_without_panic(key in proptest::sample::select(super::KEYS.to_vec()), value in ".{0,24}") {
        let pairs = pairs("socket,id=a").into_iter().chain([(key.0.to_owned(), value)]).collect::<Vec<_>>();
        let _ = ChardevOptions::parse(&pairs);
    }
}
