//! Named trace events and the log: what a person switches on to see what the machine does.
//!
//! An event is declared once, in the table of its crate ([`events!`]): a name, typed parameters, and how the line looks. Names and
//! lines are QEMU's where it traces the same thing; what is ours is called `pliant_…`. [`emit!`] writes a line if somebody switched the
//! event on; as long as nobody has, that costs one relaxed load and evaluates no argument, so it may stand where guests are served.
//!
//! The log ([`log`]) is where lines go: standard error, or a file that may change while the machine runs. Besides events it takes
//! *items* ([`log::Item`]): things a guest does that are wrong or that we do not model.
//!
//! Switches and destination are the process's, like standard error itself; two machines in one process share them.
//!
//! ```
//! mod trace_events {
//!     trace::events! {
//!         /// A block was planted: `addr` and `size` in bytes.
//!         demo_block_plant(addr: u64, size: u64) "addr={addr:#x} size={size:#x}";
//!     }
//! }
//! macro_rules! plant {
//!     ($addr:expr) => { trace::emit!(demo_block_plant, $addr, 4096) };
//! }
//! # fn main() {
//! plant!(0x1000); // nobody listens
//! let lines = trace::tap("demo_*", trace_events::EVENTS, || plant!(0x2000));
//! assert_eq!(lines, ["demo_block_plant addr=0x2000 size=0x1000"]);
//! # }
//! ```

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

pub mod budget;
pub mod glob;
pub mod log;
pub mod table;

pub use table::Table;

/// A trace event. Declared by [`events!`].
#[derive(Debug)]
pub struct Event {
    name: &'static str,
    on: AtomicBool,
}

impl Event {
    /// An event that is off.
    pub const fn new(name: &'static str) -> Self {
        Self { name, on: AtomicBool::new(false) }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether somebody wants to see it.
    #[inline(always)]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Switches it. Other threads follow soon, not at once.
    pub fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// Writes a line about it: the name, a blank, and what there is to say.
    pub fn write(&self, text: fmt::Arguments<'_>) {
        let line = format!("{} {text}", self.name);
        match TAP.take() {
            // What the tap itself causes goes to the log.
            Some(mut tap) => {
                tap(&line);
                TAP.set(Some(tap));
            }
            None => log::event(&line),
        }
    }
}

/// Declares the events of a crate, in its module `trace_events`: each with its documentation (what happened; what the parameters mean),
/// its parameters and the text behind the name, in which they are named. Makes `EVENTS`, the list of all.
#[macro_export]
macro_rules! events {
    ($($(#[$doc:meta])+ $name:ident($($arg:ident: $ty:ty),* $(,)?) $format:literal;)+) => {
        $(
            $(#[$doc])+
            pub(crate) mod $name {
                /// The switch.
                pub(crate) static EVENT: $crate::Event = $crate::Event::new(stringify!($name));

                /// Writes the line.
                #[cold]
                #[inline(never)]
                pub(crate) fn write($($arg: $ty),*) {
                    EVENT.write(format_args!($format));
                }
            }
        )+

        /// Every trace event of this crate.
        pub static EVENTS: &[&$crate::Event] = &[$(&$name::EVENT),+];
    };
}

/// Emits an event of the calling crate's table: `trace::emit!(virtio_set_status, vdev, value)`. Arguments are evaluated only if it is on.
#[macro_export]
#[expect(clippy::crate_in_macro_def, reason = "the table is the caller's")]
macro_rules! emit {
    ($name:ident $(, $arg:expr)* $(,)?) => {
        if crate::trace_events::$name::EVENT.is_on() {
            crate::trace_events::$name::write($($arg),*);
        }
    };
}

/// Which object a line is about: where it lives. Lines about the same object have the same, as with QEMU's pointers; nothing is ever
/// reached through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(usize);

impl Id {
    /// Of no object.
    pub const NONE: Self = Self(0);

    /// The identity of `object`.
    pub fn of<T: ?Sized>(object: &T) -> Self {
        Self(std::ptr::from_ref(object).cast::<()>().addr())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

type Tap = Box<dyn FnMut(&str)>;

thread_local! {
    static CPU: Cell<Option<u32>> = const { Cell::new(None) };
    static TAP: RefCell<Option<Tap>> = const { RefCell::new(None) };
}

/// Says that this thread runs the vCPU `index`, from now on.
pub fn set_current_cpu(index: u32) {
    CPU.set(Some(index));
}

/// The vCPU that this thread runs; -1 on other threads, as QEMU prints it.
pub fn current_cpu() -> i64 {
    CPU.get().map_or(-1, i64::from)
}

/// For tests: switches the events of `table` that fit `pattern` on, does `work`, and gives the lines that this thread wrote meanwhile.
/// They are off afterwards, whatever they were.
pub fn tap(pattern: &str, table: &[&'static Event], work: impl FnOnce()) -> Vec<String> {
    let lines = Rc::new(RefCell::new(Vec::new()));
    let to = Rc::clone(&lines);
    watch(pattern, table, move |line| to.borrow_mut().push(line.to_owned()), work);
    lines.take()
}

/// For tests: [`tap`] with each line handed to `tap` as it is written.
pub fn watch(pattern: &str, table: &[&'static Event], tap: impl FnMut(&str) + 'static, work: impl FnOnce()) {
    let chosen: Vec<_> = table.iter().filter(|event| glob::matches(pattern, event.name)).collect();
    TAP.set(Some(Box::new(tap)));
    chosen.iter().for_each(|event| event.set(true));
    work();
    chosen.iter().for_each(|event| event.set(false));
    TAP.set(None);
}

#[cfg(test)]
mod tests;
#[cfg(test)]
#[path = "tests/trace_events.rs"]
pub mod trace_events;
