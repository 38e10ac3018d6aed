//! Serial ports.

pub mod isa_serial;
pub mod uart;

/// Takes the character device `id` for the property `property` (`serial.chardev`), which the messages name.
///
/// # Errors
/// QEMU's texts: there is none, or somebody uses it.
pub(crate) fn reserve(
    machine: &crate::core::Machine,
    property: &str,
    id: &str,
) -> qapi::Result<chardev::Port> {
    let error = |text: String| qapi::Error::generic(format!("Property '{property}' can't {text}"));
    let chardev = machine.chardevs().get(id).ok_or_else(|| error(format!("find value '{id}'")))?;
    chardev.reserve().map_err(|taken| error(format!("take value '{id}': {}", taken.desc())))
}

/// Registers the devices of this room.
pub fn register(registry: &mut qom::Registry) {
    isa_serial::register(registry);
}
