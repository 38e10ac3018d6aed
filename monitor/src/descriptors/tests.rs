//! What nobody takes is closed: the other end of a socket pair tells.

use std::io::Read as _;
use std::os::unix::net::UnixStream;

use super::*;

fn pair() -> (UnixStream, OwnedFd) {
    let (far, near) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    (far, near.into())
}

fn is_closed(mut far: UnixStream) -> bool {
    far.read(&mut [0]).is_ok_and(|count| count == 0)
}

#[test]
fn the_first_is_taken_and_the_others_are_closed() {
    let descriptors = Descriptors::default();
    let [(first, a), (second, b)] = [pair(), pair()];
    descriptors.arrive(vec![a, b]);
    let taken = descriptors.take().unwrap();
    assert!(!is_closed(first));
    assert!(is_closed(second));
    drop(taken);
    assert_eq!(descriptors.take().unwrap_err().desc(), "No file descriptor supplied via SCM_RIGHTS");
}

#[test]
fn what_comes_next_replaces_what_came_before_and_input_without_descriptors_does_not() {
    let descriptors = Descriptors::default();
    let [(first, a), (second, b)] = [pair(), pair()];
    descriptors.arrive(vec![a]);
    descriptors.arrive(Vec::new());
    descriptors.arrive(vec![b]);
    assert!(is_closed(first));
    descriptors.forget();
    assert!(is_closed(second));
    assert!(descriptors.take().is_err());
}
