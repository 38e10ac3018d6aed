//! Properties that every PCI device has.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use qapi::{Error, Result, Value};
use qom::{Input, ObjectRef, Property, cast};

use super::device::PciDevice;

/// Values of the common properties.
#[derive(Default)]
pub struct PciProperties {
    values: Mutex<BTreeMap<&'static str, Value>>,
}

enum Kind {
    Bool(bool),
    U32(u32),
    I32(i32),
    Size(u64),
    Text,
}

/// In the order of `info qtree`. What needs hardware that is not there (option ROMs; a list of functions, of `x-pcie-ari-nextfn-1`)
/// is stored and has no effect, and what is of PCI Express has none on devices that sit on a root bus.
const TABLE: &[(&str, Kind, &str)] = &[
    ("romfile", Kind::Text, ""),
    ("romsize", Kind::U32(u32::MAX), ""),
    ("rombar", Kind::I32(-1), ""),
    ("multifunction", Kind::Bool(false), "on/off"),
    ("x-pcie-lnksta-dllla", Kind::Bool(true), "on/off"),
    ("x-pcie-extcap-init", Kind::Bool(true), "on/off"),
    ("failover_pair_id", Kind::Text, ""),
    ("acpi-index", Kind::U32(0), ""),
    ("x-pcie-err-unc-mask", Kind::Bool(true), "on/off"),
    ("x-pcie-ari-nextfn-1", Kind::Bool(false), "on/off"),
    (
        "x-max-bounce-buffer-size",
        Kind::Size(4096),
        "Maximum buffer size allocated for bounce buffers used for mapped access to indirect DMA memory",
    ),
    ("x-pcie-ext-tag", Kind::Bool(true), "on/off"),
];

impl Kind {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::U32(_) => "uint32",
            Self::I32(_) => "int32",
            Self::Size(_) => "size",
            Self::Text => "str",
        }
    }

    fn default(&self) -> Value {
        match self {
            Self::Bool(b) => (*b).into(),
            Self::U32(u) => (*u).into(),
            Self::I32(i) => (*i).into(),
            Self::Size(u) => (*u).into(),
            Self::Text => "".into(),
        }
    }

    fn read(&self, input: Input<'_>, name: &str) -> Result<Value> {
        Ok(match self {
            Self::Bool(_) => input.to_bool(name)?.into(),
            Self::U32(_) => input.to_uint(name, 32)?.into(),
            Self::I32(_) => input.to_int(name, 32)?.into(),
            Self::Size(_) => input.to_size(name)?.into(),
            Self::Text => input.to_str(name)?.into(),
        })
    }
}

impl PciProperties {
    fn get(&self, name: &str) -> Option<Value> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn put(&self, name: &'static str, value: Value) {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).insert(name, value);
    }

    /// `addr=`, as slot and function; `None` for the next free slot.
    pub fn devfn(&self) -> Option<u8> {
        self.get("addr").and_then(|v| v.as_u64()).map(|v| v as u8)
    }

    pub(super) fn set_devfn(&self, devfn: u8) {
        self.put("addr", devfn.into());
    }

    /// A property that is on or off; `default` where it was not set.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.get(name).and_then(|v| v.as_bool()).unwrap_or(default)
    }

    /// `acpi-index=`, 0 for none.
    pub fn acpi_index(&self) -> u32 {
        self.get("acpi-index").and_then(|v| v.as_u64()).unwrap_or(0) as u32
    }

    /// `multifunction=`.
    pub fn multifunction(&self) -> bool {
        self.flag("multifunction", false)
    }
}

/// The value of `addr` as it is written: slot and function in hexadecimal.
pub fn addr_text(devfn: i64) -> String {
    if devfn < 0 { "<unset>".into() } else { format!("{:02x}.{:x}", devfn >> 3, devfn & 7) }
}

fn device(object: &ObjectRef) -> Result<std::sync::Arc<dyn PciDevice>> {
    cast::<dyn PciDevice>(object).ok_or_else(|| Error::generic("not a PCI device"))
}

/// The properties of the class `pci-device`.
pub(super) fn all() -> Vec<Property> {
    let mut list = vec![
        Property::new("addr", "str")
            .description("Slot and optional function number, example: 06.0 or 06")
            .default(-1)
            .get_any(|o| Ok(device(o)?.pci().props.get("addr").unwrap_or(Value::Int(-1))))
            .set_any(|o, value, name| {
                let class = o.core().class().name();
                let devfn = parse_addr(value, class, name)?;
                device(o)?.pci().props.put("addr", devfn.map_or(Value::Int(-1), Value::from));
                Ok(())
            }),
        Property::new("legacy-addr", "str").get_any(|o| {
            let value = device(o)?.pci().props.get("addr");
            Ok(addr_text(value.and_then(|v| v.as_i64()).unwrap_or(-1)).into())
        }),
    ];
    for (name, kind, help) in TABLE {
        let mut property = Property::new(name, kind.type_name())
            .get_any(|o| Ok(device(o)?.pci().props.get(name).unwrap_or_else(|| kind.default())))
            .set_any(|o, value, text| {
                let value = kind.read(value, text)?;
                if *name == "romfile" && value.as_str() != Some("") {
                    return Err(Error::generic("option ROMs are not supported"));
                }
                device(o)?.pci().props.put(name, value);
                Ok(())
            });
        if !matches!(kind, Kind::Text) {
            property = property.default(kind.default());
        }
        if !help.is_empty() {
            property = property.description(help);
        }
        list.push(property);
    }
    list.push(Property::new("busnr", "busnr").get_any(|o| Ok(device(o)?.pci().bus_number().into())));
    list
}

/// `06`, `06.1`, both hexadecimal, or in JSON the number of slot and function.
fn parse_addr(input: Input<'_>, class: &str, name: &str) -> Result<Option<u8>> {
    let bad = |text: &str| Error::generic(format!("Property '{class}.{name}' doesn't take value '{text}'"));
    if let Input::Json(Value::Int(number)) = input {
        return match number {
            -1 => Ok(None),
            _ => u8::try_from(*number).map(Some).map_err(|_| bad(&number.to_string())),
        };
    }
    let text = input.to_str(name)?;
    let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
    let hex = |part: &str, limit: u8| {
        let part = part.strip_prefix("0x").unwrap_or(part);
        // `from_str_radix` would take a sign.
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
        u8::from_str_radix(part, 16).ok().filter(|n| digits && *n <= limit)
    };
    match (hex(slot, 31), hex(function, 7)) {
        (Some(slot), Some(function)) => Ok(Some(slot << 3 | function)),
        _ => Err(bad(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_slot_and_function() {
        let parse =
            |text| parse_addr(Input::Option(text), "virtio-mem-pci", "addr").map_err(|e| e.desc().to_owned());
        assert_eq!(parse("1f.7"), Ok(Some(0xff)));
        assert_eq!(parse("06"), Ok(Some(0x30)));
        for bad in ["20", "zz", "1.8", "", "+1", "1."] {
            let text = format!("Property 'virtio-mem-pci.addr' doesn't take value '{bad}'");
            assert_eq!(parse(bad), Err(text));
        }
        let json = parse_addr(Input::Json(&Value::Int(16)), "x", "addr");
        assert_eq!(json, Ok(Some(16)));
    }
}
