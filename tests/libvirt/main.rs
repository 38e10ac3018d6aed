//! libvirt, unmodified, takes the program under test for its emulator.
//!
//! Each test has a host of its own with one libvirtd or two (`tests::libvirt`). Domains run the built-in guest on KVM, whose console tells what it does; stock Linux
//! is in the testbed.

mod leaves_nothing;
mod lifecycle;
mod migration;
mod probe;
mod refused;
mod restart;
mod shape;
mod variants;

use tests::libvirt::{Domain, Host, Node, session};
use tests::{Need, have};

/// Whether libvirt can be tried here.
fn can() -> bool {
    have(&[Need::Kvm, Need::Libvirt])
}
