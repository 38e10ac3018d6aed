//! What `help` prints of devices: `-device help`, `-device X,help` and the same behind `device_add`.

use std::fmt::Write;

use qapi::{Error, Result};
use qom::help::property_list;
use qom::{Class, Registry};

use super::device::{Category, DeviceClass};

/// What every device has and nobody sets in an option list.
const HIDDEN: [&str; 6] = ["type", "realized", "hotpluggable", "hotplugged", "parent_bus", "id"];

/// The options of a device model.
pub fn device_options(class: &Class) -> String {
    let listed = class.properties().into_iter().filter(|p| !HIDDEN.contains(&p.name()) && !p.is_legacy());
    property_list(class.name(), listed, true)
}

/// The options of the device model `driver`, as the command line asks for them.
///
/// # Errors
/// `Device 'X' not found`; a class that no device can be of.
pub fn device_help(registry: &Registry, driver: &str) -> Result<String> {
    let class = registry.lookup(driver).ok_or_else(|| Error::device_not_found(driver))?;
    if class.is_abstract() || !class.is_a("device") {
        return Err(Error::generic("Parameter 'typename' expects a non-abstract device type"));
    }
    Ok(device_options(class))
}

/// All device models a user can make, by category.
pub fn device_list(registry: &Registry) -> String {
    let mut rows: Vec<(Category, String)> = registry
        .iter()
        .filter(|c| c.is_a("device") && !c.is_abstract())
        .filter_map(|c| Some((c, c.extension::<DeviceClass>()?)))
        .filter(|(_, info)| info.user_creatable)
        .map(|(class, info)| (info.category, device_row(class, info)))
        .collect();
    rows.sort();
    let mut out = String::new();
    let mut heading = None;
    for (category, row) in rows {
        if heading != Some(category) {
            let blank = if heading.is_some() { "\n" } else { "" };
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(out, "{blank}{}", category.heading());
            heading = Some(category);
        }
        let _ = writeln!(out, "{row}");
    }
    out
}

fn device_row(class: &Class, info: &DeviceClass) -> String {
    let mut row = format!("name \"{}\"", class.name());
    if let Some(bus) = info.bus {
        let _ = write!(row, ", bus {bus}");
    }
    if let Some(text) = class.description() {
        let _ = write!(row, ", desc \"{text}\"");
    }
    row
}
