//! What people type: keys go to the machine's keyboard, with time between them.
//!
//! Left out: moving a mouse, several keyboards (the first one hears), keys that are held down as a human holds them (a keyboard
//! repeats nothing by itself, as in QEMU).

mod commands;
mod queue;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mainloop::{Clock, Timer};
use qapi::types::{MouseInfo, QKeyCode};
use qapi::{Error, Result};

use crate::core::machine::Machine;
use queue::{Entry, Queue};

const NS_PER_MS: i64 = 1_000_000;

/// Somebody who hears of keys.
pub trait Keyboard: Send + Sync {
    /// A key went down or up. Called on the main loop's thread, with no lock held, while the machine runs.
    fn key(&self, key: QKeyCode, down: bool);
}

/// The keyboards and mice of a machine, and what is being typed.
#[derive(Default)]
pub struct Input {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who hears, in the order in which they came; the place of each is its number. A mouse is there for its name.
    listeners: Vec<Listener>,
    queue: Queue,
    /// What ends the pause that the queue is in.
    pause: Option<Timer>,
}

enum Listener {
    Keyboard(Weak<dyn Keyboard>),
    Mouse(&'static str),
    Gone,
}

impl Input {
    /// That of `machine`.
    pub fn of(machine: &Machine) -> Arc<Self> {
        machine.extension(Self::default)
    }

    /// Has `keyboard` hear of keys, and lists a mouse called `mouse`. Gives what [`remove`](Self::remove) takes.
    pub fn add(&self, keyboard: Weak<dyn Keyboard>, mouse: &'static str) -> [usize; 2] {
        let mut state = self.lock();
        let first = state.listeners.len();
        state.listeners.extend([Listener::Keyboard(keyboard), Listener::Mouse(mouse)]);
        [first, first + 1]
    }

    /// Undoes [`add`](Self::add). Numbers of the others stay.
    pub fn remove(&self, which: [usize; 2]) {
        let mut state = self.lock();
        for at in which {
            if let Some(listener) = state.listeners.get_mut(at) {
                *listener = Listener::Gone;
            }
        }
    }

    /// The mice, the first being the one that would be moved. They are numbered from 1, together with keyboards.
    pub fn mice(&self) -> Vec<MouseInfo> {
        let state = self.lock();
        let mut mice: Vec<MouseInfo> = Vec::new();
        for (index, listener) in (1..).zip(&state.listeners) {
            if let Listener::Mouse(name) = listener {
                let name = (*name).to_owned();
                mice.push(MouseInfo { name, index, current: mice.is_empty(), absolute: false });
            }
        }
        mice
    }

    /// Presses `keys` and releases them in the opposite order, `hold` milliseconds of the guest's time between any two of these, once
    /// everything that was sent before is done; nothing while the machine stands still. Call it on the main loop's thread.
    ///
    /// # Errors
    /// So much waits already that nothing of it is done.
    pub fn send_keys(self: &Arc<Self>, machine: &Arc<Machine>, keys: &[QKeyCode], hold: u32) -> Result<()> {
        if !machine.is_running() {
            return Ok(());
        }
        let waits = {
            let mut state = self.lock();
            if !state.queue.stroke(keys, hold) {
                return Err(Error::generic("Too many keys wait to be sent"));
            }
            state.pause.is_some()
        };
        if !waits {
            self.proceed(machine);
        }
        Ok(())
    }

    /// Does what is next, up to the next pause.
    fn proceed(self: &Arc<Self>, machine: &Arc<Machine>) {
        loop {
            let (key, down, keyboard) = {
                let mut state = self.lock();
                match state.queue.next() {
                    None => return,
                    Some(Entry::Pause(ms)) => {
                        state.pause = Some(self.pause(machine, ms));
                        return;
                    }
                    Some(Entry::Key(key, down)) => (key, down, state.keyboard()),
                }
            };
            // It may have been stopped since they were sent.
            if let Some(keyboard) = keyboard.filter(|_| machine.is_running()) {
                keyboard.key(key, down);
            }
        }
    }

    fn pause(self: &Arc<Self>, machine: &Arc<Machine>, ms: u32) -> Timer {
        let mainloop = machine.mainloop();
        let end = mainloop.now_ns(Clock::Virtual).saturating_add(i64::from(ms) * NS_PER_MS);
        let (input, machine) = (Arc::downgrade(self), Arc::downgrade(machine));
        mainloop.timer(Clock::Virtual, end, move || {
            if let (Some(input), Some(machine)) = (input.upgrade(), machine.upgrade()) {
                input.lock().pause = None;
                input.proceed(&machine);
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Lists that change by whole entries.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keyboard(&self) -> Option<Arc<dyn Keyboard>> {
        self.listeners.iter().find_map(|listener| match listener {
            Listener::Keyboard(keyboard) => keyboard.upgrade(),
            Listener::Mouse(_) | Listener::Gone => None,
        })
    }
}

#[cfg(test)]
mod tests;
