//! The classes and their properties.

use qom::{ObjectRef, Property, TypeInfo};

use super::{Config, VirtioBalloon, unpoisoned};
use crate::core::{Category, Device, DeviceClass, IoThread, link};
use crate::virtio::VirtioBackend;
use crate::virtio::pci::{ProxyClass, register_with_modern};

type Flag = fn(&mut Config) -> &mut bool;

fn flag(name: &'static str, default: bool, field: Flag) -> Property {
    Property::new(name, "bool")
        .description("on/off")
        .default(default)
        .get(move |d: &VirtioBalloon| Ok((*field(&mut d.settings())).into()))
        .set(move |d: &VirtioBalloon, value, name| {
            let value = value.to_bool(name)?;
            *field(&mut d.settings()) = value;
            Ok(())
        })
}

/// Properties that only exist on instances in QEMU: not listed by `info qtree`.
const HIDDEN: &[&str] = &["guest-stats", "guest-stats-polling-interval"];

fn properties() -> Vec<Property> {
    vec![
        flag("deflate-on-oom", false, |c| &mut c.deflate_on_oom),
        flag("free-page-hint", false, |c| &mut c.free_page_hint),
        flag("page-poison", true, |c| &mut c.page_poison),
        flag("free-page-reporting", false, |c| &mut c.free_page_reporting),
        flag("qemu-4-0-config-size", false, |c| &mut c.old_config_size),
        Property::new("iothread", "link<iothread>")
            .live()
            .get(|d: &VirtioBalloon| {
                let thread = unpoisoned(&d.iothread).clone();
                Ok(thread.map_or_else(String::new, |thread| (thread as ObjectRef).path()).into())
            })
            .set(|d: &VirtioBalloon, value, name| {
                let thread = link::resolve(d, value.to_str(name)?, name, "iothread", IoThread::from_object)?;
                *unpoisoned(&d.iothread) = thread;
                Ok(())
            }),
        Property::new("guest-stats", "guest statistics")
            .get(|d: &VirtioBalloon| Ok(d.state().stats.to_value())),
        Property::new("guest-stats-polling-interval", "int")
            .live()
            .get(|d: &VirtioBalloon| Ok(i64::from(d.state().interval).into()))
            .set(|d: &VirtioBalloon, value, name| d.set_interval(value.to_int(name, 64)?)),
    ]
}

/// Registers `virtio-balloon-device` and its proxies.
pub(in crate::virtio) fn register(registry: &mut qom::Registry) {
    registry.register(
        TypeInfo::new("virtio-balloon-device")
            .parent("virtio-device")
            .instance(VirtioBalloon::new)
            .properties(properties())
            .cast::<VirtioBalloon, dyn Device>(|d| d)
            .cast::<VirtioBalloon, dyn VirtioBackend>(|d| d)
            .extension(DeviceClass::on("virtio-bus").category(Category::Misc).hide(HIDDEN)),
    );
    let names = ["virtio-balloon-pci", "virtio-balloon-pci-non-transitional"];
    let class = |name, parent, without| ProxyClass {
        name,
        parent,
        backend: "virtio-balloon-device",
        child_type: "child<virtio-balloon-device>",
        without,
        vectors: None,
        own: Vec::new(),
        device: DeviceClass::on("PCI").category(Category::Misc),
    };
    register_with_modern::<VirtioBalloon>(registry, "virtio-balloon-pci-base", names, class);
}
