//! Every state that a migration may take along, as it is declared: `-dump-vmstate`.
//!
//! Nobody lists them: a machine of each board is built, with every device that a user can make, and asked as a migration asks it. What
//! belongs to no machine (accelerators that this host may lack, the stream itself) their crates tell.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use mainloop::MainLoop;
use migration::Machine as _;
use qapi::{Result, Value};
use qom::Input;
use vmstate::StateShape;

use crate::core::machine_types::TYPES;
use crate::core::{DeviceClass, Host, Machine, MachineConfig, MemoryConfig, qdev};
use crate::migration::Movable;

/// Bytes of a backend's memory, which nobody touches.
const BACKEND: u64 = 128 << 20;

/// What there is.
#[derive(Debug, Default)]
pub struct Declared {
    /// States that sections of a stream have, in order of their names. States within states are there.
    pub states: Vec<StateShape>,
    /// Models of devices that could not be made, so that nobody asked them.
    pub missing: Vec<&'static str>,
    /// Why machines cannot be moved.
    pub blocked: Vec<String>,
}

/// Asks machines, each on a host that `make` gives, which has its own loop.
///
/// # Errors
/// A machine cannot be built.
pub fn declared(make: &dyn Fn() -> Result<(MainLoop, Host)>) -> Result<Declared> {
    let mut all = Declared::default();
    let mut asked: BTreeMap<&'static str, bool> = BTreeMap::new();
    all.states.extend(accel::declared_states());
    all.states.extend(migration::declared_states());
    let mut boards = Vec::new();
    for kind in TYPES.iter().rev() {
        if boards.contains(&kind.board) {
            continue;
        }
        boards.push(kind.board);
        let (_main, host) = make()?;
        let machine = build(kind.name, host, &mut asked)?;
        let sections = Movable::new(Arc::clone(&machine)).sections();
        all.states.extend(sections.list.iter().map(|placed| placed.section.shape()));
        all.blocked.extend(sections.blocked);
        machine.shut_down();
    }
    all.states.sort_by_key(|state| state.name);
    all.states.dedup();
    all.missing = asked.into_iter().filter(|(_, made)| !made).map(|(name, _)| name).collect();
    Ok(all)
}

/// A machine with every device that it can have. `asked` learns which models there are, and which were made.
fn build(kind: &str, host: Host, asked: &mut BTreeMap<&'static str, bool>) -> Result<Arc<Machine>> {
    let memory = MemoryConfig { size: Some(BACKEND), maxmem: Some(64 << 30), slots: Some(16) };
    let memory = if kind == "none" { MemoryConfig::default() } else { memory };
    let config = MachineConfig { machine: Some(kind.to_owned()), memory, ..MachineConfig::default() };
    let machine = Machine::new(config, host)?;
    machine.init()?;
    let registry = machine.tree().registry();
    let models: Vec<_> = registry
        .iter()
        .filter(|class| class.is_a("device") && !class.is_abstract())
        .filter(|class| class.extension::<DeviceClass>().is_some_and(|info| info.user_creatable))
        // What vCPUs have is the accelerator's to tell.
        .filter(|class| !class.is_a("cpu"))
        .collect();
    let mut made: Vec<&str> = Vec::new();
    // Twice: some are plugged into others.
    for class in models.iter().chain(&models) {
        let name = class.name();
        if made.contains(&name) {
            continue;
        }
        let known = asked.entry(name).or_default();
        if make_device(&machine, name, |property| class.property(property).is_some()).is_ok() {
            made.push(name);
            *known = true;
        }
    }
    machine.finish()?;
    Ok(machine)
}

/// Makes a device of a model, with what its properties show that it needs.
fn make_device(machine: &Arc<Machine>, name: &str, has: impl Fn(&str) -> bool) -> Result<()> {
    let id = format!("of-{name}");
    let (backend, one) = (Value::from(id.as_str()), Value::from(1u64));
    let driver = Value::from(name);
    let mut options = vec![("driver", Input::Json(&driver))];
    if has("memdev") {
        let size = Value::from(BACKEND);
        machine.tree().create_user_object("memory-backend-ram", &id, [("size", Input::Json(&size))])?;
        options.push(("memdev", Input::Json(&backend)));
    }
    for number in ["chassis", "chassis_nr"] {
        if has(number) {
            options.push((number, Input::Json(&one)));
        }
    }
    let made = qdev::device_add(machine, &options);
    if made.is_err() && has("memdev") {
        machine.tree().delete_user_object(&id)?;
    }
    made.map(drop)
}

/// The JSON of `-dump-vmstate`: an object with a member for each state, and the machine's name in `vmschkmachine` as in QEMU.
pub fn to_json(machine: &str, states: &[StateShape]) -> String {
    let name = qapi::json::to_string(&Value::from(machine));
    let mut out = format!("{{\n  \"vmschkmachine\": {{\n    \"Name\": {name}\n  }}");
    for state in states {
        // Writing to a String cannot fail.
        let _ = write!(out, ",\n  \"{}\": {}", state.name, state.to_json(1));
    }
    out.push_str("\n}\n");
    out
}

#[cfg(test)]
mod tests;
