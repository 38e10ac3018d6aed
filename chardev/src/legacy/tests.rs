//! Claims about short forms: the messages are those QEMU 10.0.2 printed for `-serial TEXT`.

use proptest::prelude::*;

use super::{Legacy, parse_legacy};
use crate::options::{Backend, InetExtra, SocketAddress, SocketOptions};

fn new(text: &str) -> Backend {
    match parse_legacy("serial0", text) {
        Ok(Legacy::New(options)) => {
            assert_eq!((options.id.as_str(), options.mux), ("serial0", false));
            options.backend
        }
        other => panic!("{text}: {other:?}"),
    }
}

fn socket(text: &str) -> SocketOptions {
    match new(text) {
        Backend::Socket(socket) => socket,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn simple_names_are_back_ends() {
    assert_eq!(new("null"), Backend::Null);
    assert_eq!(new("stdio"), Backend::Stdio { signal: true });
    assert_eq!(new("pty"), Backend::Pty { path: None });
    assert_eq!(new("file:a,b"), Backend::File { path: "a,b".into(), append: false, input_path: None });
    assert_eq!(new("pipe:/p"), Backend::Pipe { path: "/p".into() });
    assert_eq!(new("/dev/ttyS0"), Backend::Serial { path: "/dev/ttyS0".into() });
    assert_eq!(parse_legacy("x", "none"), Ok(Legacy::None));
    assert_eq!(parse_legacy("x", "chardev:a"), Ok(Legacy::Existing("a".into())));
}

#[test]
fn a_unix_socket_takes_options_in_both_spellings() {
    for text in ["unix:/a,,b,server=on,wait=off", "unix:/a,,b,server,nowait"] {
        let socket = socket(text);
        let path = SocketAddress::Unix { path: "/a,b".into(), abstract_: false, tight: true };
        assert_eq!((socket.address, socket.server, socket.wait), (path, true, false));
    }
}

#[test]
fn tcp_and_telnet_take_host_and_port() {
    let inet = |host: &str, port: &str| SocketAddress::Inet {
        host: host.into(),
        port: port.into(),
        to: None,
        ipv4: None,
        ipv6: None,
        extra: InetExtra::default(),
    };
    let tcp = socket("tcp::4444,server=on,wait=off,nodelay");
    assert_eq!((tcp.address, tcp.telnet, tcp.nodelay), (inet("", "4444"), false, true));
    let telnet = socket("telnet:localhost:23,server=on");
    assert_eq!((telnet.address, telnet.telnet, telnet.wait), (inet("localhost", "23"), true, true));
    assert_eq!(socket("tcp:[::1]:5").address, inet("[::1]", "5"));
}

#[test]
fn mon_makes_a_mux_and_leaves_ctrl_c_to_the_guest() {
    match parse_legacy("serial0", "mon:stdio") {
        Ok(Legacy::WithMonitor(options)) => {
            assert!(options.mux);
            assert_eq!(options.backend, Backend::Stdio { signal: false });
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_are_those_of_qemu() {
    let error =
        |text: &str| parse_legacy("serial0", text).expect_err(text).map(|error| error.desc().to_owned());
    for (text, message) in [
        ("foo", "'foo' is not a valid char driver"),
        ("mon:foo", "'foo' is not a valid char driver"),
        ("mon:chardev:zz", "'chardev:zz' is not a valid char driver"),
        ("foo:bar", "'foo:bar' is not a valid char driver"),
        ("ringbuf", "'ringbuf' is not a valid char driver"),
        ("fd:3", "'fd:3' is not a valid char driver"),
        ("", "'' is not a valid char driver"),
        ("stdio,signal=off", "'stdio,signal=off' is not a valid char driver"),
        ("unix:/q,foo=1", "Invalid parameter 'foo'"),
        ("vc", "chardev: vc: there is no display to show a virtual console on"),
        ("vc:80Cx24C", "chardev: vc: there is no display to show a virtual console on"),
    ] {
        assert_eq!(error(text), Some(message.to_owned()), "{text}");
    }
    for text in ["tcp:localhost", "tcp:localhost:", "tcp:1,server=on", "tcp:[::1]"] {
        assert_eq!(error(text), None, "{text}: QEMU leaves it to the option's owner");
    }
}

proptest! {
    #[test]
    fn garbage_is_an_error_and_never_a_panic(
        prefix in "(tcp:|unix:|telnet:|mon:|file:|)(\\[)?", rest in "[a-z:,=\\[\\]0-9é]{0,20}",
    ) {
        let _ = parse_legacy("x", &format!("{prefix}{rest}"));
    }
}
