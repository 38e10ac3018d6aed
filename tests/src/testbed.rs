//! The nested testbed: stock Linux on a real KVM, on a machine that has none.
//!
//! An outer machine for each lane, QEMU with its emulation of AMD's SVM, boots a Debian kernel once a run. In it this same program starts the VMM under test with
//! `-accel kvm`, boots Debian's kernels as inner guests, drives their shells on the serial port and their VMM over QMP, and reports each claim to the host.
//! Where the host has VMX or SVM the outer machine is left out; everything else is the same.
//!
//! Rooms: [`images`] makes initial file systems of Debian packages ([`cpio`] writes them), [`outer`] starts an outer machine, gives it jobs and hears what it reports
//! ([`report`]), [`lanes`] has boots and their claims looked at, two at a time, [`linux`] is one inner guest, whose [`machine`] is started here or, [`managed`], by libvirt; [`scenarios`] are the claims, [`stress`] is what guests run that are moved, [`bench`] measures how long
//! user space takes. `tests/testbed/run` is the way in.

pub mod bench;
pub mod cpio;
pub mod images;
pub mod lanes;
pub mod linux;
pub mod machine;
pub mod managed;
pub mod outer;
pub mod report;
pub mod scenarios;
pub mod stress;

pub use images::Images;
pub use linux::{Boot, Claim, Linux, Process};
pub use managed::Managed;
