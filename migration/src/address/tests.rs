//! URIs.

use super::*;

#[test]
fn each_scheme_has_its_address() {
    let parse = |uri| Address::parse(uri).unwrap();
    let unix = SocketAddress::Unix { path: "/x/y".into(), abstract_: false, tight: true };
    assert_eq!(parse("unix:/x/y"), Address::Socket(unix));
    assert_eq!(parse("fd:a"), Address::Fd("a".into()));
    assert_eq!(parse("exec:cat>x,y"), Address::Exec(vec!["/bin/sh".into(), "-c".into(), "cat>x,y".into()]));
    assert_eq!(parse("file:a:b"), Address::File { path: "a:b".into(), offset: 0 });
    assert_eq!(parse("file:a,offset=0x10"), Address::File { path: "a".into(), offset: 16 });
    let Address::Socket(SocketAddress::Inet { host, port, ipv4, to, .. }) =
        parse("tcp:[::1]:0,ipv4=off,to=9")
    else {
        panic!("no TCP");
    };
    assert_eq!((&*host, &*port, ipv4, to), ("[::1]", "0", Some(false), Some(9)));
}

#[test]
fn what_is_no_address_is_said_so() {
    let error = |uri| Address::parse(uri).unwrap_err().desc().to_owned();
    assert_eq!(error("foo:bar"), "unknown migration protocol: foo:bar");
    assert_eq!(error(""), "unknown migration protocol: ");
    assert_eq!(error("unix:"), "invalid Unix socket address");
    assert_eq!(error("tcp:"), "error parsing address ''");
    assert_eq!(error("tcp:1"), "error parsing address '1'");
    assert_eq!(error("file:x,offset=abc"), "file URI has bad offset abc: Invalid argument");
    let none = Address::of(None, Some(&[])).unwrap_err();
    assert_eq!(none.desc(), "need either 'uri' or 'channels' argument");
}
