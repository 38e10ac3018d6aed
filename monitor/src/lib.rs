//! Monitors: QMP for programs, the console for people, and the events both cause.
//!
//! A [`Monitors`] serves any number of character devices. It knows how commands are written and how replies look;
//! what a command does is behind [`Backend`], the generated handler traits of `qapi`. Everything runs on the loop
//! thread, but `exec-oob` commands, which have a thread of their own (`qmp::oob`); [`Monitors::emit`] may be called from any thread.

mod descriptors;
mod emit;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod hmp;
pub mod progress;
mod qmp;
mod server;
mod terminal;
mod throttle;
pub mod trace_events;

pub use qmp::greeting;
pub use server::{Backend, Conversation, Monitors, Version};
pub use terminal::TerminalSettings;
