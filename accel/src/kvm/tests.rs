//! Against the real `/dev/kvm`, with guests of a few bytes. Without it these tests say so and pass, unless `CI=true`.

mod dirty_log;
mod exits;
mod guest_image;
mod interrupts;
mod memory_slots;
mod moved;
mod nmi;
mod plugged;
mod put_off;
mod registers;
mod rig;
mod sections;
mod throttle;
mod unplugged;

pub(super) use rig::kvm_with;
