//! Creating, realizing and removing devices: `-device`, `device_add`, `device_del`, and what the board builds itself.
//!
//! One path for all of them, so that what can be started with can also be added later. Everything here runs on the main
//! loop thread (or before it runs).

use std::sync::Arc;

use mainloop::Clock;
use qapi::{Dict, Error, ErrorClass, Result, Value};
use qom::{Class, Input, ObjectRef, Resolve, cast, valid_id};

use super::bus::{self, Bus};
use super::device::{Device, DeviceClass, ResetKind};
use super::hotplug::{HotplugHandler, Unplug};
use super::machine::Machine;

/// Options of one `-device` or `device_add`: keys in the order written, `driver`, `id` and `bus` among them.
pub type Options<'a> = [(&'a str, Input<'a>)];

/// Adds a device the user asked for.
///
/// # Errors
/// QEMU's texts; nothing is left of the device then.
pub fn device_add(machine: &Arc<Machine>, options: &Options<'_>) -> Result<Arc<dyn Device>> {
    let text = |key: &'static str| -> Result<Option<&str>> {
        options.iter().rev().find(|(k, _)| *k == key).map(|(_, v)| v.to_str(key)).transpose()
    };
    let id = text("id")?;
    if let Some(id) = id {
        valid_id(id)?;
    }
    let driver = text("driver")?.ok_or_else(|| Error::generic("Parameter 'driver' is missing"))?;
    let class = pluggable_class(machine, driver)?;
    let info = class_info(&class);
    let bus = choose_bus(machine, driver, &info, text("bus")?)?;
    let ready = machine.is_ready();
    machine.may_change_devices("device_add")?;
    if ready && !info.hotpluggable {
        return Err(no_hotplug(driver));
    }
    if let Some(bus) = &bus
        && ready
        && !bus.bus().is_hotpluggable()
    {
        return Err(Error::generic(format!("Bus '{}' does not support hotplugging", bus.bus().name())));
    }
    let device = create(machine, &class)?;
    device.dev().set_hotplugged(ready);
    let object = Arc::clone(&device) as ObjectRef;
    let place = match id {
        Some(id) => {
            let container = machine.tree().container("/machine/peripheral");
            container
                .add_child(id, Arc::clone(&object))
                .map_err(|_| Error::generic(format!("Duplicate device ID '{id}'")))?;
            device.dev().set_id(Some(id.to_owned()));
            container
        }
        None => {
            let container = machine.tree().container("/machine/peripheral-anon");
            container.add_child("device[*]", Arc::clone(&object))?;
            container
        }
    };
    let done = options
        .iter()
        .filter(|(key, _)| !matches!(*key, "driver" | "id" | "bus"))
        .try_for_each(|(key, value)| object.set(key, *value))
        .and_then(|()| realize_on(machine, &device, bus.as_ref()));
    if let Err(error) = done {
        place.remove_child(&object.core().name());
        return Err(error);
    }
    Ok(device)
}

fn pluggable_class(machine: &Arc<Machine>, driver: &str) -> Result<Arc<Class>> {
    let registry = machine.tree().registry();
    let class = registry
        .lookup(driver)
        .filter(|c| c.is_a("device"))
        .ok_or_else(|| Error::generic(format!("'{driver}' is not a valid device model name")))?;
    if class.is_abstract() {
        return Err(Error::generic("Parameter 'driver' expects a non-abstract device type"));
    }
    let info = class_info(class);
    if !info.user_creatable {
        return Err(Error::generic("Parameter 'driver' expects a pluggable device type"));
    }
    Ok(Arc::clone(class))
}

fn class_info(class: &Class) -> DeviceClass {
    class.extension::<DeviceClass>().cloned().unwrap_or_else(DeviceClass::internal)
}

fn choose_bus(
    machine: &Arc<Machine>,
    driver: &str,
    info: &DeviceClass,
    named: Option<&str>,
) -> Result<Option<Arc<dyn Bus>>> {
    let root = machine.main_bus();
    let fits = |bus: &Arc<dyn Bus>, wanted: &str| bus.core().class().is_a(wanted);
    if let Some(name) = named {
        // A path names the buses on the way; only the last one matters, because bus names are unique here.
        let last = name.rsplit('/').next().unwrap_or(name);
        let bus = bus::find(&root, &mut |b| (b.bus().name() == last).then(|| Arc::clone(b)))
            .ok_or_else(|| Error::generic(format!("Bus '{name}' not found")))?;
        if bus::is_full(&bus) {
            return Err(Error::generic(format!("Bus '{name}' is full")));
        }
        return match info.bus {
            Some(wanted) if fits(&bus, wanted) => Ok(Some(bus)),
            _ => Err(Error::generic(format!("Device '{driver}' can't go on {} bus", bus.bus().type_name()))),
        };
    }
    let Some(wanted) = info.bus else { return Ok(None) };
    find_bus(machine, wanted)
        .map(Some)
        .ok_or_else(|| Error::generic(format!("No '{wanted}' bus found for device '{driver}'")))
}

/// The first bus of class `wanted` on which there is room.
pub fn find_bus(machine: &Machine, wanted: &str) -> Option<Arc<dyn Bus>> {
    let fits = |b: &Arc<dyn Bus>| b.core().class().is_a(wanted) && !bus::is_full(b);
    bus::find(&machine.main_bus(), &mut |b| fits(b).then(|| Arc::clone(b)))
}

/// A new device of class `class`, with the defaults of the machine type and `-global` applied to it and to the devices it
/// contains. Not realized and not in the tree.
///
/// # Errors
/// `can't apply global …`.
pub fn create(machine: &Arc<Machine>, class: &Arc<Class>) -> Result<Arc<dyn Device>> {
    let object = class.create()?;
    adopt(machine, &object)?;
    cast::<dyn Device>(&object)
        .ok_or_else(|| Error::generic(format!("'{}' is not a valid device model name", class.name())))
}

/// Applies globals and the machine to `object` and every device below it.
fn adopt(machine: &Arc<Machine>, object: &ObjectRef) -> Result<()> {
    for (_, child) in object.core().children() {
        adopt(machine, &child)?;
    }
    if let Some(device) = cast::<dyn Device>(object) {
        device.dev().set_machine(machine);
        machine.globals().apply(object)?;
    }
    Ok(())
}

/// Creates a device of the board: `properties` set, realized on `bus`, child `name` of `parent`
/// (`/machine/unattached` as `device[N]` without one).
///
/// # Errors
/// What a property or `realize` says.
pub fn build(
    machine: &Arc<Machine>,
    type_name: &str,
    place: Place<'_>,
    bus: Option<&Arc<dyn Bus>>,
    properties: &[(&str, Value)],
) -> Result<Arc<dyn Device>> {
    let registry = machine.tree().registry();
    let class =
        registry.lookup(type_name).ok_or_else(|| Error::generic(format!("unknown type '{type_name}'")))?;
    let device = create(machine, class)?;
    let object = Arc::clone(&device) as ObjectRef;
    for (name, value) in properties {
        object.set(name, Input::Json(value))?;
    }
    let (parent, name) = match place {
        Place::Unattached => (machine.tree().container("/machine/unattached"), "device[*]"),
        Place::Child(parent, name) => (parent, name),
    };
    let name = parent.add_child(name, Arc::clone(&object))?;
    if let Err(error) = realize_on(machine, &device, bus) {
        parent.remove_child(&name);
        return Err(error);
    }
    Ok(device)
}

/// Where [`build`] puts a device in the tree.
pub enum Place<'a> {
    /// `/machine/unattached/device[N]`.
    Unattached,
    /// A named child.
    Child(ObjectRef, &'a str),
}

/// Puts `device` on `bus` and realizes it, with the hot-plug handlers around.
///
/// # Errors
/// The device is on no bus then and holds nothing.
pub fn realize_on(
    machine: &Arc<Machine>,
    device: &Arc<dyn Device>,
    bus: Option<&Arc<dyn Bus>>,
) -> Result<()> {
    let dev = device.dev();
    dev.set_machine(machine);
    if let Some(bus) = bus {
        dev.set_bus(Some(bus));
        bus.bus().add(Arc::clone(device));
    }
    let done = realize_plugged(machine, device);
    if done.is_err() {
        leave_bus(device);
    }
    done
}

fn realize_plugged(machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<()> {
    trace::emit!(pliant_device_realize, trace::Id::of(&**device), device.dev().type_name(), &id_text(device));
    let handlers = handlers(device);
    for handler in &handlers {
        handler.pre_plug(machine, device)?;
    }
    Arc::clone(device).realize(machine)?;
    if let Some(bus) = device.dev().parent_bus()
        && let Err(error) = bus.device_realized(machine, device)
    {
        Arc::clone(device).unrealize(machine);
        return Err(error);
    }
    device.dev().set_realized(true);
    machine.devices_changed();
    // Before `plug`: the guest must not be told of a device that is not in its power-on state.
    if device.dev().is_hotplugged() {
        reset_tree(device, ResetKind::Cold);
        if let Some(board) = machine.board() {
            board.device_plugged(machine, device);
        }
    }
    for (done, handler) in handlers.iter().enumerate() {
        if let Err(error) = handler.plug(machine, device) {
            for undo in handlers[..done].iter().rev() {
                undo.unplug(machine, device);
            }
            unrealize(machine, device);
            return Err(error);
        }
    }
    Ok(())
}

/// The class's handler, then, for a hot-plugged device or one on a bus that can, the bus's.
fn handlers(device: &Arc<dyn Device>) -> Vec<Arc<dyn HotplugHandler>> {
    let class = class_info(device.core().class()).plug;
    let bus = device.dev().parent_bus().and_then(|b| b.bus().hotplug_handler());
    class.into_iter().chain(bus).collect()
}

/// How a trace names a device without an id: not at all.
fn id_text(device: &Arc<dyn Device>) -> String {
    device.dev().id().map(|id| id.to_string()).unwrap_or_default()
}

fn leave_bus(device: &Arc<dyn Device>) {
    if let Some(bus) = device.dev().parent_bus() {
        bus.bus().remove(device);
    }
    device.dev().set_bus(None);
}

/// Unrealizes `device` and the devices on its buses, those first.
fn unrealize(machine: &Arc<Machine>, device: &Arc<dyn Device>) {
    for bus in device.dev().buses() {
        for child in bus.bus().children() {
            unrealize(machine, &child);
        }
    }
    if device.dev().is_realized() {
        let id = id_text(device);
        trace::emit!(pliant_device_unrealize, trace::Id::of(&**device), device.dev().type_name(), &id);
        if let Some(bus) = device.dev().parent_bus() {
            bus.device_unrealized(device);
        }
        Arc::clone(device).unrealize(machine);
        device.dev().set_realized(false);
        machine.devices_changed();
    }
}

/// Sets the property `realized`: for devices that can come and go while the machine runs. All others are realized once, by
/// whoever made them.
pub(super) fn set_realized(device: &Arc<dyn Device>, on: bool) -> Result<()> {
    if on == device.dev().is_realized() {
        return Ok(());
    }
    let machine = device.dev().machine().ok_or_else(|| Error::generic("the device has no machine"))?;
    let Some(bus) = device.dev().parent_bus().filter(|_| class_info(device.core().class()).hotpluggable)
    else {
        return Err(no_hotplug(device.dev().type_name()));
    };
    if !bus.bus().is_hotpluggable() {
        return Err(Error::generic(format!("Bus '{}' does not support hotplugging", bus.bus().name())));
    }
    if on {
        return realize_plugged(&machine, device);
    }
    unplug(&machine, device);
    device.dev().set_unplug_pending(false);
    Ok(())
}

fn no_hotplug(class: &str) -> Error {
    Error::generic(format!("Device '{class}' does not support hotplugging"))
}

fn unplug(machine: &Arc<Machine>, device: &Arc<dyn Device>) {
    for handler in handlers(device).iter().rev() {
        handler.unplug(machine, device);
    }
    unrealize(machine, device);
}

/// Undoes [`realize_on`], for a device that is part of one that could not be realized.
pub(crate) fn undo_realize(machine: &Arc<Machine>, device: &Arc<dyn Device>) {
    unplug(machine, device);
    leave_bus(device);
}

/// `device_del`: `id` is an id or a path.
///
/// # Errors
/// QEMU's texts; the device stays as it was.
pub fn device_del(machine: &Arc<Machine>, id: &str) -> Result<()> {
    let device = find_device(machine, id)?;
    let dev = device.dev();
    if dev.unplug_refused(machine.mainloop().now_ns(Clock::Virtual) / 1_000_000) {
        return Err(Error::generic(format!("Device {id} is already in the process of unplug")));
    }
    let bus = dev.parent_bus();
    if let Some(bus) = &bus
        && machine.is_ready()
        && !bus.bus().is_hotpluggable()
    {
        return Err(Error::generic(format!("Bus '{}' does not support hotplugging", bus.bus().name())));
    }
    if !class_info(device.core().class()).hotpluggable {
        return Err(no_hotplug(device.dev().type_name()));
    }
    machine.may_change_devices("device_del")?;
    if !dev.is_realized() {
        // Somebody set `realized` to false: the guest does not know it any more and cannot let go of it.
        complete_at_once(machine, &device);
        return Ok(());
    }
    let mut outcome = Unplug::Now;
    for handler in handlers(&device) {
        let answer = handler.unplug_request(machine, &device)?;
        if answer != Unplug::Now {
            outcome = answer;
        }
    }
    match outcome {
        // Marked here, so that a handler that refuses leaves no trace.
        Unplug::GuestAsked => dev.set_unplug_pending(true),
        Unplug::MayAskAgain => {}
        Unplug::Now => complete_at_once(machine, &device),
    }
    Ok(())
}

/// The device of that id, or at that path.
///
/// # Errors
/// `Device '…' not found`, `… is not a device`.
pub(crate) fn find_device(machine: &Arc<Machine>, id: &str) -> Result<Arc<dyn Device>> {
    if !id.starts_with('/') {
        let peripheral = machine.tree().container("/machine/peripheral");
        let object = peripheral.core().child(id).ok_or_else(|| Error::device_not_found(id))?;
        return cast::<dyn Device>(&object).ok_or_else(|| Error::device_not_found(id));
    }
    let Resolve::Found(object) = machine.tree().resolve(id) else {
        return Err(Error::new(ErrorClass::DeviceNotFound, format!("Device '{id}' not found")));
    };
    cast::<dyn Device>(&object).ok_or_else(|| Error::generic(format!("{id} is not a device")))
}

/// Takes a device out for good, as the guest's eject does.
/// Sends `DEVICE_DELETED` for it and for the devices on its buses, those first.
pub fn complete_unplug(machine: &Arc<Machine>, device: &Arc<dyn Device>) {
    for (id, path) in take_out(machine, device) {
        machine.send_device_deleted(id, path);
    }
}

/// How long after `device_del` the events of a device come that no guest had to let go of, in nanoseconds: as long as one lives on in QEMU 10.0.2 until nobody can be looking at it any more.
const GONE_NS: i64 = 50_000_000;

/// The same for `device_del`, where no guest needs to be asked. The device is gone at once, the events come later, as in QEMU: libvirt 11.3 begins to wait for them when a thread of its own has
/// seen the answer, misses those that were there before, and then waits for five seconds.
fn complete_at_once(machine: &Arc<Machine>, device: &Arc<dyn Device>) {
    let gone = take_out(machine, device);
    let weak = Arc::downgrade(machine);
    let mainloop = machine.mainloop();
    let tell = move || {
        let Some(machine) = weak.upgrade() else { return };
        gone.into_iter().for_each(|(id, path)| machine.send_device_deleted(id, path));
    };
    mainloop.timer(Clock::Realtime, mainloop.now_ns(Clock::Realtime) + GONE_NS, tell).detach();
}

/// Takes a device out; ids and paths of it and of the devices on its buses, those first.
fn take_out(machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Vec<(Option<String>, String)> {
    for handler in handlers(device).iter().rev() {
        handler.unplug(machine, device);
    }
    let mut gone = Vec::new();
    collect(device, &mut gone);
    unrealize(machine, device);
    leave_bus(device);
    device.dev().set_unplug_pending(false);
    remove_from_tree(device);
    let told = gone.into_iter().map(|(device, id, path)| {
        // What sat behind a bridge is gone with it; the rest is below the device.
        remove_from_tree(&device);
        (id, path)
    });
    told.collect()
}

fn remove_from_tree(device: &Arc<dyn Device>) {
    let object = Arc::clone(device) as ObjectRef;
    if let Some(parent) = object.core().parent() {
        parent.remove_child(&object.core().name());
    }
}

fn collect(device: &Arc<dyn Device>, out: &mut Vec<(Arc<dyn Device>, Option<String>, String)>) {
    for bus in device.dev().buses() {
        for child in bus.bus().children() {
            collect(&child, out);
        }
    }
    out.push((Arc::clone(device), device.dev().id(), (Arc::clone(device) as ObjectRef).path()));
}

/// Resets `device` after the devices on its buses.
pub fn reset_tree(device: &Arc<dyn Device>, kind: ResetKind) {
    for bus in device.dev().buses() {
        reset_bus(&bus, kind);
    }
    trace::emit!(resettable_phase_hold_exec, trace::Id::of(&**device), device.dev().type_name());
    device.reset(kind);
}

/// Resets every device on `bus` and below, oldest first.
pub fn reset_bus(bus: &Arc<dyn Bus>, kind: ResetKind) {
    for child in bus.bus().children().iter().rev() {
        reset_tree(child, kind);
    }
}

/// Options of a JSON `-device` or of the QMP command, in the form [`device_add`] takes.
pub fn json_options(dict: &Dict) -> Vec<(&str, Input<'_>)> {
    dict.iter().map(|(k, v)| (k, Input::Json(v))).collect()
}

#[cfg(test)]
mod tests;
