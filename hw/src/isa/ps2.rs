//! What is plugged into a keyboard controller: a keyboard (`ps2-kbd`) and a mouse (`ps2-mouse`).
//!
//! [`Keyboard`] and [`Mouse`] are what happens on the two lines, without a clock or locks. The devices in the tree are there to be
//! found; what they are at is the controller's to keep, whose lock covers all three.

pub mod codes;
mod keyboard;
mod mouse;

use std::collections::VecDeque;
use std::sync::Arc;

use qapi::Result;
use qom::{Class, Registry, TypeInfo};
use vmstate::Saved;

pub use keyboard::{Keyboard, KeyboardState};
pub use mouse::{Mouse, MouseState};

use crate::core::device::{Category, Device, DeviceClass, DeviceState};
use crate::core::machine::Machine;

/// Bytes that wait on a line at most.
pub const QUEUE: usize = 16;
/// The command was understood.
const ACK: u8 = 0xfa;
/// A self test passed.
const PASSED: u8 = 0xaa;

/// A keyboard or a mouse in the tree.
pub struct Ps2Device {
    dev: DeviceState,
}
crate::device_object!(Ps2Device, dev);

pub(super) fn register(registry: &mut Registry) {
    let class = DeviceClass::internal_on("System").category(Category::Input);
    registry.register(TypeInfo::new("ps2-device").parent("device").extension(class));
    for name in ["ps2-kbd", "ps2-mouse"] {
        registry.register(
            TypeInfo::new(name)
                .parent("ps2-device")
                .instance(|class: &Arc<Class>| Arc::new(Ps2Device { dev: DeviceState::new(class) }))
                .cast::<Ps2Device, dyn Device>(|d| d),
        );
    }
}

impl Device for Ps2Device {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, _machine: &Arc<Machine>) -> Result<()> {
        Ok(())
    }

    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }

    fn qtree_gpios(&self) -> Vec<String> {
        vec!["gpio-out \"\" 1".into()]
    }
}

/// Bytes on their way to the controller, [`QUEUE`] at most; what comes when there is no room is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Bytes(VecDeque<u8>);

impl Bytes {
    /// Appends all of `bytes`, or none.
    fn push_whole(&mut self, bytes: &[u8]) {
        if self.0.len() + bytes.len() <= QUEUE {
            self.0.extend(bytes);
        }
    }

    /// Appends as many of `bytes` as there is room for.
    fn push_each(&mut self, bytes: &[u8]) {
        self.0.extend(&bytes[..bytes.len().min(QUEUE - self.0.len())]);
    }

    /// What a migration brought, unless that is too long.
    fn loaded(bytes: Vec<u8>) -> vmstate::Result<Self> {
        if bytes.len() > QUEUE {
            return Err(vmstate::LoadError::invalid("ps2: more bytes wait than there is room for"));
        }
        Ok(Self(bytes.into()))
    }

    fn saved(&self) -> Vec<u8> {
        self.0.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests;
