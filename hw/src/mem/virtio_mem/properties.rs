//! Properties of `virtio-mem`, in the order of `info qtree`, with QEMU's checks.

use memory::MemoryBackend;
use qapi::{Error, Result};
use qom::{ObjectRef, Property};

use super::device::{Config, OnOffAuto, VirtioMem};
use super::protection::Protection;
use super::sizes::MIN_BLOCK_SIZE;
use crate::core::{Device, link};
use crate::mem::unplugged::OnAccess;

type Flag = fn(&mut Config) -> &mut bool;

fn error<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::generic(text))
}

fn flag(name: &'static str, default: bool, field: Flag) -> Property {
    Property::new(name, "bool")
        .description("on/off")
        .default(default)
        .get(move |d: &VirtioMem| Ok((*field(&mut d.lock().config)).into()))
        .set(move |d: &VirtioMem, value, name| {
            let value = value.to_bool(name)?;
            *field(&mut d.lock().config) = value;
            Ok(())
        })
}

/// Properties that only exist on instances in QEMU: not listed by `info qtree`.
pub(super) const HIDDEN: &[&str] = &["size", "requested-size", "block-size"];

/// All properties of the class itself.
pub(super) fn all() -> Vec<Property> {
    vec![
        memaddr(),
        node(),
        flag("prealloc", false, |c| &mut c.prealloc),
        memdev(),
        // Neither readable nor writable, also in QEMU.
        Property::new("legacy-memdev", "str"),
        unplugged_inaccessible(),
        unplugged_protection(),
        unplugged_access(),
        flag("x-early-migration", true, |c| &mut c.early_migration),
        flag("dynamic-memslots", false, |c| &mut c.dynamic_memslots),
        memslots(),
        size(),
        requested_size(),
        block_size(),
    ]
}

fn memaddr() -> Property {
    Property::new("memaddr", "uint64")
        .default(0u64)
        .get(|d: &VirtioMem| Ok(d.lock().config.memaddr.into()))
        .set(|d: &VirtioMem, value, name| {
            let value = value.to_u64(name)?;
            d.lock().config.memaddr = value;
            Ok(())
        })
}

fn node() -> Property {
    Property::new("node", "uint32")
        .default(0u64)
        .get(|d: &VirtioMem| Ok(u64::from(d.lock().config.node).into()))
        .set(|d: &VirtioMem, value, name| {
            // In range: the setter refuses more than 32 bits.
            let value = value.to_uint(name, 32)? as u32;
            d.lock().config.node = value;
            Ok(())
        })
}

/// Ours: QEMU has only `dynamic-memslots`.
fn memslots() -> Property {
    Property::new("memslots", "uint16")
        .default(1u64)
        .description("parts that the memory is mapped in, 0 to choose")
        .get(|d: &VirtioMem| Ok(u64::from(d.lock().config.memslots).into()))
        .set(|d: &VirtioMem, value, name| {
            // In range: the setter refuses more than 16 bits.
            let value = value.to_uint(name, 16)? as u16;
            d.lock().config.memslots = value;
            Ok(())
        })
}

fn unplugged_inaccessible() -> Property {
    Property::new("unplugged-inaccessible", "OnOffAuto")
        .values(&OnOffAuto::NAMES)
        .description("on/off/auto")
        .default("on")
        .get(|d: &VirtioMem| Ok(OnOffAuto::NAMES[d.lock().config.unplugged_inaccessible as usize].into()))
        .set(|d: &VirtioMem, value, name| {
            let value = match value.to_enum(name, &OnOffAuto::NAMES)? {
                0 => OnOffAuto::Auto,
                1 => OnOffAuto::On,
                _ => OnOffAuto::Off,
            };
            d.lock().config.unplugged_inaccessible = value;
            Ok(())
        })
}

/// Ours.
fn unplugged_protection() -> Property {
    Property::new("unplugged-protection", "UnpluggedProtection")
        .values(&Protection::NAMES)
        .description("auto/off/slot/block")
        .default("auto")
        .get(|d: &VirtioMem| Ok(Protection::NAMES[d.lock().config.protection as usize].into()))
        .set(|d: &VirtioMem, value, name| {
            let value = Protection::ALL[value.to_enum(name, &Protection::NAMES)?];
            d.lock().config.protection = value;
            Ok(())
        })
}

/// Ours.
fn unplugged_access() -> Property {
    Property::new("unplugged-access", "UnpluggedAccess")
        .values(&OnAccess::NAMES)
        .live()
        .description("report/stop/kill")
        .default("report")
        .get(|d: &VirtioMem| Ok(OnAccess::NAMES[d.lock().config.on_access as usize].into()))
        .set(|d: &VirtioMem, value, name| {
            let value = OnAccess::ALL[value.to_enum(name, &OnAccess::NAMES)?];
            d.lock().config.on_access = value;
            Ok(())
        })
}

fn memdev() -> Property {
    Property::new("memdev", "link<memory-backend>")
        // Live, because what is named is looked for before the realized device refuses.
        .live()
        .get(|d: &VirtioMem| {
            let backend = d.lock().config.memdev.clone();
            Ok(backend.map_or_else(String::new, |backend| (backend as ObjectRef).path()).into())
        })
        .set(|d: &VirtioMem, value, name| {
            let backend =
                link::resolve(d, value.to_str(name)?, name, "memory-backend", MemoryBackend::from_object)?;
            d.lock().config.memdev = backend;
            Ok(())
        })
}

fn size() -> Property {
    Property::new("size", "size").get(|d: &VirtioMem| Ok(d.lock().size().into()))
}

fn requested_size() -> Property {
    Property::new("requested-size", "size")
        .live()
        .get(|d: &VirtioMem| Ok(d.lock().config.requested.into()))
        .set(|d: &VirtioMem, value, name| {
            let value = value.to_size(name)?;
            {
                let mut inner = d.lock();
                if inner.live.is_none() {
                    // Neither block size nor backend are final yet; realizing checks.
                    inner.config.requested = value;
                    return Ok(());
                }
                let block = inner.config.block_size;
                if !value.is_multiple_of(block) {
                    return error(format!("'{name}' has to be multiples of 'block-size' ({block:#x})"));
                }
                let max = inner.config.memdev.as_ref().map_or(0, |backend| backend.size());
                if value > max {
                    return error(format!("'{name}' cannot exceed the memory backend size({max:#x})"));
                }
            }
            d.request_size(value);
            Ok(())
        })
}

fn block_size() -> Property {
    Property::new("block-size", "size")
        .live()
        .get(|d: &VirtioMem| Ok(d.lock().config.effective_block_size().into()))
        .set(|d: &VirtioMem, value, name| {
            if d.dev().is_realized() {
                return error(format!("'{name}' cannot be changed"));
            }
            let value = value.to_size(name)?;
            if value < MIN_BLOCK_SIZE {
                return error(format!("'{name}' property has to be at least {MIN_BLOCK_SIZE:#x}"));
            }
            if !value.is_power_of_two() {
                return error(format!("'{name}' property has to be a power of two"));
            }
            d.lock().config.block_size = value;
            Ok(())
        })
}
