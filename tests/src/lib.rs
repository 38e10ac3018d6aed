//! The end-to-end harness: it starts the real program as a user would and talks to it over the real sockets.
//!
//! Rooms: [`program`] finds the program under test, [`vm`] starts and ends it, [`wire`] is a byte stream with a deadline, on which
//! [`qmp`], [`hmp`], [`qtest`] and [`console`] speak their protocols; [`screen`] is a window that the program is in; [`pci`] and [`virtio_mem`] are a driver over qtest, [`qtest_bus`] has the built-in guest's drivers there; [`vhost_user`] is what
//! serves vhost-user devices; [`stream`] takes saved machines apart; [`share`] says how many random cases are tried; [`testbed`] boots Linux; [`moves`] moves a guest that writes back and forth, and [`holds`] says what a process holds; [`libvirt`] has a libvirtd drive it; [`introspection`] judges replies by the program's own schema; [`oracle`] reads the transcripts of QEMU 10.0.2 and
//! says where a program differs from them. The tests themselves are in `e2e/`.
//!
//! The same tests run against QEMU (`PLIANT_BIN=/usr/bin/qemu-system-x86_64`), which shows that the harness is right before
//! the program is. Nothing here sleeps: everything waits for bytes or for the end of a process, with a generous deadline
//! (`PLIANT_TEST_DEADLINE` seconds).
//!
//! ```no_run
//! let mut vm = tests::Vm::new().line("-machine q35 -m 1G").qmp().hmp().start();
//! assert_eq!(vm.hmp().run("info status"), "VM status: running\n");
//! assert_eq!(vm.qmp().ok("query-status", serde_json::json!({}))["status"], "running");
//! ```

pub mod console;
pub mod core_file;
pub mod hmp;
pub mod holds;
pub mod introspection;
pub mod libvirt;
pub mod moves;
pub mod oracle;
pub mod pci;
pub mod program;
pub mod qmp;
pub mod qtest;
pub mod qtest_bus;
pub mod screen;
pub mod share;
pub mod stream;
pub mod testbed;
pub mod vhost_user;
pub mod virtio_mem;
pub mod vm;
pub mod wire;
pub mod words;

pub use hmp::Hmp;
pub use holds::Holds;
pub use program::{Need, Peer, have};
pub use qmp::Qmp;
pub use qtest::Qtest;
pub use qtest_bus::QtestBus;
pub use share::share_of;
pub use virtio_mem::VirtioMem;
pub use vm::{Exited, Vm, VmBuilder};
pub use wire::{Wire, WireError};
pub use words::words;
