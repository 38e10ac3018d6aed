//! Properties of `vhost-user-blk`, in the order of `info qtree`.

use qom::Property;

use super::{AUTO_QUEUES, Config, TIMEOUT_MS, VhostUserBlk};

type Flag = fn(&mut Config) -> &mut bool;

fn flag(name: &'static str, field: Flag) -> Property {
    Property::new(name, "bool")
        .description("on/off")
        .default(true)
        .get(move |d: &VhostUserBlk| Ok((*field(&mut d.settings())).into()))
        .set(move |d: &VhostUserBlk, value, name| {
            let value = value.to_bool(name)?;
            *field(&mut d.settings()) = value;
            Ok(())
        })
}

/// All properties of the class itself.
pub(super) fn all() -> Vec<Property> {
    vec![
        Property::new("chardev", "str")
            .description("ID of a chardev to use as a backend")
            .get(|d: &VhostUserBlk| Ok(d.settings().chardev.clone().unwrap_or_default().into()))
            .set(|d: &VhostUserBlk, value, name| {
                let id = value.to_str(name)?.to_owned();
                d.settings().chardev = Some(id);
                Ok(())
            }),
        Property::new("num-queues", "uint16")
            .default(u64::from(AUTO_QUEUES))
            .get(|d: &VhostUserBlk| Ok(u64::from(d.settings().num_queues).into()))
            .set(|d: &VhostUserBlk, value, name| {
                // In range, here and below: the setter refuses more bits.
                let value = value.to_uint(name, 16)? as u16;
                d.settings().num_queues = value;
                Ok(())
            }),
        Property::new("queue-size", "uint32")
            .default(128u64)
            .get(|d: &VhostUserBlk| Ok(u64::from(d.settings().queue_size).into()))
            .set(|d: &VhostUserBlk, value, name| {
                let value = value.to_uint(name, 32)? as u32;
                d.settings().queue_size = value;
                Ok(())
            }),
        flag("config-wce", |c| &mut c.config_wce),
        flag("discard", |c| &mut c.discard),
        flag("write-zeroes", |c| &mut c.write_zeroes),
        Property::new("x-pliant-timeout-ms", "uint32")
            .description("Milliseconds that the backend is waited for before it is disconnected")
            .default(u64::from(TIMEOUT_MS))
            .get(|d: &VhostUserBlk| Ok(u64::from(d.settings().timeout_ms).into()))
            .set(|d: &VhostUserBlk, value, name| {
                let value = value.to_uint(name, 32)? as u32;
                d.settings().timeout_ms = value;
                Ok(())
            }),
    ]
}
