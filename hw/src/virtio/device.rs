//! What a virtio device is to its transport: the back end.
//!
//! A back end knows its features, its configuration space and what to do with one buffer of a queue. It never sees
//! rings, registers or interrupts; those are the transport's ([`super::state`], [`super::pci`]).

use std::sync::Arc;

use super::ring::Chain;
use super::ring_server::RingServer;
use crate::core::IoThread;

/// The driver broke the protocol; the device stops until it is reset.
///
/// The text is what QEMU prints on standard error, without the program's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// What became of a buffer that a device was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It goes back to the driver, with this many bytes written into it.
    Done(u32),
    /// It stays first in its queue until the device calls [`Notifier::queue_ready`]; then, and whenever the driver adds another
    /// one, it is given to the device again, with what is in it then. Rings are not looked at meanwhile.
    Later,
    /// The room is too small for what the device has: it is given the buffer again together with the next one, as one, once there is one.
    /// Until then it stays, as with `Later`. Of a ring that holds no more ([`Chain::is_complete`]) that is never.
    More,
    /// As `Later`, but the device is at work on what the buffer needs, some milliseconds in each call: it is given to the device again in
    /// the next turns of the loop that serves the queue, and a machine that stops waits for it. A device forgets its work when it is given
    /// something else, and in [`VirtioDevice::driver_reset`].
    Again,
}

/// The device's half of virtio (virtio 1.3 §2, §5).
///
/// Called with the transport's lock held: an implementation may call down (memory, accelerator) and take its own lock,
/// but must not call its [`Notifier`] from inside; what these methods return is enough.
pub trait VirtioDevice: Send + Sync {
    /// Type name, as `virtio-mem`.
    fn name(&self) -> &'static str;

    /// Device ID (virtio 1.3 §5).
    fn device_id(&self) -> u16;

    /// Sizes of the queues, in entries (powers of two). The number of queues never changes.
    fn queue_sizes(&self) -> &[u16];

    /// Device-specific feature bits offered (0 to 23 and 50 to 127; here the low 64).
    fn features(&self) -> u64;

    /// Whether the device can work with the accepted features; `FEATURES_OK` does not stick otherwise.
    fn accepts(&self, _features: u64) -> bool {
        true
    }

    /// The device configuration space, as it is now. Bytes beyond it read as ones.
    fn config(&self) -> Vec<u8>;

    /// The driver writes `data` at `offset` of the configuration space; may reach beyond its end.
    fn write_config(&self, _offset: usize, _data: &[u8]) {}

    /// Which of the generic features in `generic` (virtio 1.3 §6) its rings have.
    fn ring_features(&self, generic: u64) -> u64 {
        generic
    }

    /// Who serves the rings, if the transport does not do it through [`serve`](Self::serve). Asked once, when the device is realized.
    fn ring_server(&self) -> Option<Arc<dyn RingServer>> {
        None
    }

    /// The thread that serves queue `queue`, if it is not the main loop's. Asked once, when the device is realized. A machine that stops
    /// waits for it, so that what it calls here must not wait for the main loop.
    fn iothread(&self, _queue: u16) -> Option<Arc<IoThread>> {
        None
    }

    /// The driver set `DRIVER_OK`, having accepted `features`; buffers are served from now on.
    fn started(&self, _features: u64) {}

    /// Serves the first buffer of queue `queue`.
    ///
    /// # Errors
    /// The driver broke the protocol. The buffer is not returned to it then.
    fn serve(&self, queue: u16, buffer: &mut Chain<'_>) -> Result<Outcome, Violation>;

    /// The driver reset the device (status 0). Not a system reset: a memory device keeps its memory.
    fn driver_reset(&self) {}

    /// The driver reset one queue: what is in it comes to nothing.
    fn queue_reset(&self, _queue: u16) {}

    /// Called after a run of [`serve`](Self::serve) with the transport's lock released: the place to tell the world.
    fn settle(&self) {}
}

/// How a back end tells its transport that something happened. Called from any thread, without any lock of the back end held.
pub trait Notifier: Send + Sync {
    /// The configuration space changed.
    fn config_changed(&self);

    /// Buffers of a queue that had to wait ([`Outcome::Later`]) can be served: the next turn of the loop that serves the queue does it. While
    /// the machine is stopped they wait on. Nothing happens for a queue that does not run or that is not there.
    fn queue_ready(&self, queue: u16);
}

/// A back end's place for its notifier; empty until the transport is realized.
#[derive(Default)]
pub struct NotifierSlot(std::sync::Mutex<Option<Arc<dyn Notifier>>>);

impl NotifierSlot {
    /// Connects a transport, or disconnects it with `None`.
    pub fn set(&self, notifier: Option<Arc<dyn Notifier>>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = notifier;
    }

    /// Tells the transport, if there is one. The slot is not locked meanwhile.
    pub fn config_changed(&self) {
        if let Some(notifier) = self.get() {
            notifier.config_changed();
        }
    }

    /// As [`Notifier::queue_ready`], if there is a transport.
    pub fn queue_ready(&self, queue: u16) {
        if let Some(notifier) = self.get() {
            notifier.queue_ready(queue);
        }
    }

    fn get(&self) -> Option<Arc<dyn Notifier>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}
