//! Links of devices: a property that names an object of some class.

use qapi::{Error, Result};
use qom::{ObjectRef, Resolve};

use super::device::Device;

/// What the link `name` of `device` names with `path`: an object below `/objects` before anything else of that name. `class` is what
/// is wanted, and `accept` takes it. `None` for an empty path.
///
/// # Errors
/// QEMU's texts: nothing there, not the only one, not of that class, or the device is realized.
pub fn resolve<D: Device, T>(
    device: &D,
    path: &str,
    name: &str,
    class: &str,
    accept: impl Fn(&ObjectRef) -> Option<T>,
) -> Result<Option<T>> {
    let found = if path.is_empty() { None } else { Some(find(device, path, name, class, accept)?) };
    if device.dev().is_realized() {
        let (id, type_name) = (device.dev().id(), device.core().class().name());
        return Err(Error::generic(format!(
            "Attempt to set link property '{name}' on device '{}' (type '{type_name}') after it was realized",
            id.as_deref().unwrap_or("(null)")
        )));
    }
    Ok(found)
}

fn find<D: Device, T>(
    device: &D,
    path: &str,
    name: &str,
    class: &str,
    accept: impl Fn(&ObjectRef) -> Option<T>,
) -> Result<T> {
    let machine = device.dev().machine().ok_or_else(|| Error::device_not_found(path))?;
    // A partial path means a user's object before anything else that happens to have the same name.
    let object = machine.tree().absolute(&format!("/objects/{path}"));
    if let Some(target) = object.as_ref().and_then(&accept) {
        return Ok(target);
    }
    let object = match machine.tree().resolve(path) {
        Resolve::Found(object) => object,
        Resolve::Missing => return Err(Error::device_not_found(path)),
        Resolve::Ambiguous => {
            return Err(Error::generic(format!("Path '{path}' does not uniquely identify an object")));
        }
    };
    accept(&object)
        .ok_or_else(|| Error::generic(format!("Invalid parameter type for '{name}', expected: {class}")))
}
