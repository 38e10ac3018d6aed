//! End-to-end tests of the program: replays of the oracle and tests of our own, each with a machine of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod chardev_change;
mod chardevs;
mod command_line;
mod compatibility;
mod console;
mod descriptors;
mod device;
mod dispatch;
mod dump;
mod garbage;
mod guest;
mod harness;
mod hmp_behaviour;
mod host_memory;
mod hot_plug_errors;
mod inspect;
mod kvm;
mod lifecycle;
mod memslots;
mod mtree;
mod multiple_monitors;
mod processors;
mod properties;
mod qmp_protocol;
mod qmp_shell;
mod replay;
mod runtime_errors;
mod scenarios;
mod screens;
mod session;
mod startup_errors;
mod state;
mod unplugged;
mod vhost_user_io;
mod virtqueues;
