//! `kvm-pit`: what users say of the interval timer that KVM has. The timer itself is the accelerator's, and no device in the object tree.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use qapi::{Error, Result};
use qom::{Class, ObjectCore, Property, Registry, TypeInfo, object};

use crate::core::device::DeviceClass;
use crate::core::machine::Machine;

/// What becomes of ticks that a guest missed.
const TICK_POLICIES: [&str; 4] = ["discard", "delay", "slew", "merge"];
/// They are made up for, one after another: what KVM does if nobody says otherwise.
const DELAY: usize = 1;
/// This one there is for none of the policy's users in a PC's timer.
const MERGE: usize = 3;

struct KvmPit {
    core: ObjectCore,
    /// Index into [`TICK_POLICIES`].
    policy: AtomicUsize,
}
object!(KvmPit, core);

pub(super) fn register(registry: &mut Registry) {
    let policy = Property::new("lost_tick_policy", "LostTickPolicy")
        .values(&TICK_POLICIES[..MERGE])
        .description("Policy for handling lost ticks (discard/delay/slew)")
        .default(TICK_POLICIES[DELAY])
        .get(|pit: &KvmPit| Ok(TICK_POLICIES[pit.policy.load(Relaxed)].into()))
        .set(|pit: &KvmPit, value, name| {
            pit.policy.store(value.to_enum(name, &TICK_POLICIES[..MERGE])?, Relaxed);
            Ok(())
        });
    let mut device = DeviceClass::internal_on("ISA");
    device.hotpluggable = false;
    registry.register(TypeInfo::new("kvm-pit").parent("device").extension(device).property(policy).instance(
        |class: &Arc<Class>| {
            Arc::new(KvmPit { core: ObjectCore::new(class), policy: AtomicUsize::new(DELAY) })
        },
    ));
}

/// Judges what `-global` says of a machine's timer.
///
/// # Errors
/// QEMU's: no such property or policy; `Lost tick policy not supported.`, also for `discard`, which QEMU has.
pub fn check(machine: &Arc<Machine>) -> Result<()> {
    if !machine.accel().is_kvm() {
        return Ok(());
    }
    let registry = machine.tree().registry();
    let class = registry.lookup("kvm-pit").ok_or_else(|| Error::generic("hw::register was not called"))?;
    let pit = Arc::new(KvmPit { core: ObjectCore::new(class), policy: AtomicUsize::new(DELAY) });
    let object: qom::ObjectRef = Arc::<KvmPit>::clone(&pit);
    machine.globals().apply(&object)?;
    if pit.policy.load(Relaxed) != DELAY {
        return Err(Error::generic("Lost tick policy not supported."));
    }
    Ok(())
}
