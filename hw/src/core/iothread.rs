//! `iothread`: a thread with an event loop of its own, for queues of devices that name it.
//!
//! The thread runs as soon as the object is made. `object-del` takes the object off the list at once, as in QEMU; the thread ends with
//! the last device that has it.

use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use mainloop::MainLoop;
use qapi::types::IOThreadInfo;
use qapi::{Error, Result};
use qom::{ObjectCore, ObjectRef, Property, Registry, TypeInfo, UserCreatable, object};

/// `poll-max-ns` where the user says nothing.
const DEFAULT_POLL_NS: i64 = 32_768;
/// `thread-pool-max` where the user says nothing.
const DEFAULT_POOL: i64 = 64;

#[derive(Debug, Clone, Copy)]
struct Settings {
    poll_max_ns: i64,
    poll_grow: i64,
    poll_shrink: i64,
    aio_max_batch: i64,
    thread_pool_min: i64,
    thread_pool_max: i64,
}

impl Settings {
    fn check(&self) -> Result<()> {
        if self.thread_pool_max == 0 || self.thread_pool_min > self.thread_pool_max {
            return Err(Error::generic("bad thread-pool-min/thread-pool-max values"));
        }
        Ok(())
    }
}

struct Running {
    handle: mainloop::Handle,
    /// The host's number.
    thread_id: i32,
    thread: Option<JoinHandle<()>>,
}

/// See the module.
pub struct IoThread {
    core: ObjectCore,
    settings: Mutex<Settings>,
    running: OnceLock<Running>,
}
object!(IoThread, core);

impl IoThread {
    fn new(core: ObjectCore) -> Arc<Self> {
        let settings = Settings {
            poll_max_ns: DEFAULT_POLL_NS,
            poll_grow: 0,
            poll_shrink: 0,
            aio_max_batch: 0,
            thread_pool_min: 0,
            thread_pool_max: DEFAULT_POOL,
        };
        Arc::new(Self { core, settings: Mutex::new(settings), running: OnceLock::new() })
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        // Checked before they are assigned, whole.
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread behind an object, if it is one.
    pub fn from_object(object: &ObjectRef) -> Option<Arc<Self>> {
        Arc::clone(object).downcast()
    }

    /// Its loop. Absent while the object is being made.
    pub fn handle(&self) -> Option<&mainloop::Handle> {
        self.running.get().map(|running| &running.handle)
    }

    /// How long a queue that ran empty may be looked at before the thread sleeps.
    pub fn poll_max(&self) -> Duration {
        Duration::from_nanos(self.settings().poll_max_ns.cast_unsigned())
    }

    /// What `query-iothreads` tells of it.
    pub(crate) fn info(&self) -> IOThreadInfo {
        let settings = *self.settings();
        IOThreadInfo {
            id: self.core.name(),
            thread_id: self.running.get().map_or(0, |running| running.thread_id).into(),
            poll_max_ns: settings.poll_max_ns,
            poll_grow: settings.poll_grow,
            poll_shrink: settings.poll_shrink,
            aio_max_batch: settings.aio_max_batch,
        }
    }
}

impl UserCreatable for IoThread {
    fn complete(&self) -> Result<()> {
        self.settings().check()?;
        let failed = |error| Error::generic(format!("cannot start the thread: {}", qapi::strerror(&error)));
        let (sender, receiver) = mpsc::channel();
        // The loop is made by its thread, so that nobody else ever counts as that.
        let run = move || match MainLoop::new() {
            Ok(mut main) => {
                let thread_id = rustix::thread::gettid().as_raw_nonzero().get();
                if sender.send(Ok((main.handle(), thread_id))).is_ok() {
                    main.run();
                }
            }
            Err(error) => drop(sender.send(Err(error))),
        };
        let thread = Builder::new().name(format!("IO {}", self.core.name())).spawn(run).map_err(failed)?;
        let (handle, thread_id) = match receiver.recv() {
            Ok(started) => started.map_err(failed)?,
            Err(_) => return Err(Error::generic("cannot start the thread: it ended")),
        };
        self.running.get_or_init(|| Running { handle, thread_id, thread: Some(thread) });
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.quit(0);
        // What was served last may have been the last user.
        if let Some(thread) = self.thread.take().filter(|_| !self.handle.on_loop_thread()) {
            // It has nothing to tell, and a panic there was reported there.
            let _ = thread.join();
        }
    }
}

type Field = fn(&mut Settings) -> &mut i64;

fn property((name, field): (&'static str, Field)) -> Property {
    Property::new(name, "int")
        .live()
        .get(move |thread: &IoThread| Ok((*field(&mut thread.settings())).into()))
        .set(move |thread: &IoThread, value, name| {
            let value = value.to_int(name, 64)?;
            if value < 0 {
                return Err(Error::generic(format!("{name} value must be in range [0, {}]", i64::MAX)));
            }
            let mut settings = thread.settings();
            let mut wanted = *settings;
            *field(&mut wanted) = value;
            // While the object is made they come one by one; then `complete` looks at all of them.
            if thread.running.get().is_some() {
                wanted.check()?;
            }
            *settings = wanted;
            Ok(())
        })
}

/// Registers the class.
pub(super) fn register(registry: &mut Registry) {
    let fields: [(&'static str, Field); 6] = [
        ("aio-max-batch", |s| &mut s.aio_max_batch),
        ("poll-grow", |s| &mut s.poll_grow),
        ("poll-max-ns", |s| &mut s.poll_max_ns),
        ("poll-shrink", |s| &mut s.poll_shrink),
        ("thread-pool-max", |s| &mut s.thread_pool_max),
        ("thread-pool-min", |s| &mut s.thread_pool_min),
    ];
    registry.register(TypeInfo::new("event-loop-base").interface("user-creatable"));
    registry.register(
        TypeInfo::new("iothread")
            .parent("event-loop-base")
            .instance(|class| IoThread::new(ObjectCore::new(class)))
            .cast::<IoThread, dyn UserCreatable>(|thread| thread)
            .properties(fields.map(property)),
    );
}

#[cfg(test)]
mod tests;
