//! Claims about connections that are waited on.

use std::os::unix::net::UnixStream;

use super::{Wire, WireError};

fn pair() -> (Wire, Wire) {
    let (a, b) = UnixStream::pair().unwrap();
    (Wire::new(a.into()), Wire::new(b.into()))
}

#[test]
fn lines_are_taken_one_by_one_with_either_end() {
    let (mut a, mut b) = pair();
    a.send(b"one\r\ntwo\nthr").unwrap();
    assert_eq!(b.line().unwrap(), "one");
    assert_eq!(b.line().unwrap(), "two");
    drop(a);
    assert!(matches!(b.line(), Err(WireError::Closed { got, .. }) if got == "thr"));
    assert_eq!(b.rest().unwrap(), b"thr");
}

#[test]
fn two_sides_that_both_send_more_than_the_kernel_holds_do_not_wait_for_each_other() {
    let (mut a, mut b) = pair();
    let much = vec![b'x'; 1 << 20];
    let other = much.clone();
    let there = std::thread::spawn(move || {
        b.send(&other).unwrap();
        b.take("all", |got| (got.len() == 1 << 20).then_some(1 << 20)).unwrap()
    });
    a.send(&much).unwrap();
    assert_eq!(a.take("all", |got| (got.len() == 1 << 20).then_some(1 << 20)).unwrap(), much);
    assert_eq!(there.join().unwrap(), much);
}
