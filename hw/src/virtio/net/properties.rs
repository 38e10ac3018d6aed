//! The classes, and their properties in the order of `info qtree`.

use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use ::net::MacAddr;
use qapi::{Error, Value};
use qom::{Property, Registry, TypeInfo};

use super::VirtioNet;
use super::config::{Config, QUEUE_SIZE, REFUSED};
use super::features::{LATE_SWITCHES, SWITCHES, Switch};
use crate::core::{Category, Device, DeviceClass};
use crate::virtio::VirtioBackend;
use crate::virtio::pci::{BackendPci, ProxyClass, register_with_modern};

/// What the proxy has of its own: its place in a boot order that no firmware asks for.
pub(in crate::virtio) struct BootIndex(AtomicI32);

impl Default for BootIndex {
    fn default() -> Self {
        Self(AtomicI32::new(-1))
    }
}

fn switch((name, default, bit): Switch) -> Property {
    flag(
        name,
        default,
        move |c| c.switched & bit != 0,
        move |c, on| {
            if on { c.switched |= bit } else { c.switched &= !bit }
        },
    )
}

fn flag(
    name: &'static str,
    default: bool,
    get: impl Fn(&Config) -> bool + Send + Sync + 'static,
    set: impl Fn(&mut Config, bool) + Send + Sync + 'static,
) -> Property {
    Property::new(name, "bool")
        .description("on/off")
        .default(default)
        .get(move |d: &VirtioNet| Ok(get(&d.settings()).into()))
        .set(move |d: &VirtioNet, value, name| {
            let value = value.to_bool(name)?;
            set(&mut d.settings(), value);
            Ok(())
        })
}

fn refused(at: usize) -> Property {
    flag(REFUSED[at], false, move |c| c.refused[at], move |c, on| c.refused[at] = on)
}

fn number<T: Copy + Into<i64> + 'static>(
    name: &'static str,
    kind: &'static str,
    default: i64,
    bits: u32,
    field: fn(&mut Config) -> &mut T,
    narrow: fn(u64) -> T,
) -> Property {
    Property::new(name, kind)
        .default(default)
        .get(move |d: &VirtioNet| Ok(Value::Int((*field(&mut d.settings())).into())))
        .set(move |d: &VirtioNet, value, name| {
            let value = value.to_uint(name, bits)?;
            *field(&mut d.settings()) = narrow(value);
            Ok(())
        })
}

fn signed(name: &'static str, default: i64, field: fn(&mut Config) -> &mut i32) -> Property {
    Property::new(name, "int32")
        .default(default)
        .get(move |d: &VirtioNet| Ok(Value::Int((*field(&mut d.settings())).into())))
        .set(move |d: &VirtioNet, value, name| {
            // In range: the setter refuses more bits.
            let value = value.to_int(name, 32)? as i32;
            *field(&mut d.settings()) = value;
            Ok(())
        })
}

fn word(name: &'static str, field: fn(&mut Config) -> &mut String) -> Property {
    Property::new(name, "str").get(move |d: &VirtioNet| Ok(field(&mut d.settings()).clone().into())).set(
        move |d: &VirtioNet, value, name| {
            let value = value.to_str(name)?.to_owned();
            *field(&mut d.settings()) = value;
            Ok(())
        },
    )
}

/// Of values that the setter found to have no more bits.
const fn to_u16(value: u64) -> u16 {
    value as u16
}

/// As above.
const fn to_u32(value: u64) -> u32 {
    value as u32
}

fn properties() -> Vec<Property> {
    let mut all: Vec<_> = SWITCHES.into_iter().map(switch).collect();
    all.extend((0..3).map(refused));
    let (u16_, u32_) = ("uint16", "uint32");
    all.extend([
        number("rsc_interval", u32_, 300_000, 32, |c| &mut c.rsc_interval, to_u32),
        Property::new("mac", "str")
            .description("Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56")
            .get(|d: &VirtioNet| Ok(d.settings().mac.unwrap_or_default().to_string().into()))
            .set(|d: &VirtioNet, value, name| {
                let text = value.to_str(name)?;
                let mac = MacAddr::parse(text).ok_or_else(|| {
                    Error::generic(format!("Property 'virtio-net-device.{name}' doesn't take value '{text}'"))
                })?;
                d.settings().mac = Some(mac);
                Ok(())
            }),
        Property::new("netdev", "str")
            .description("ID of a netdev to use as a backend")
            .get(|d: &VirtioNet| {
                let netdev = d.settings().netdev.clone();
                Ok(netdev.map_or_else(String::new, |netdev| netdev.id().to_owned()).into())
            })
            .set(|d: &VirtioNet, value, name| {
                let netdev = d.find_netdev(value.to_str(name)?, name)?;
                d.settings().netdev = netdev;
                Ok(())
            }),
        number("x-txtimer", u32_, 150_000, 32, |c| &mut c.tx_timer, to_u32),
        signed("x-txburst", 256, |c| &mut c.tx_burst),
        word("tx", |c| &mut c.tx),
        number("rx_queue_size", u16_, QUEUE_SIZE.into(), 16, |c| &mut c.rx_queue_size, to_u16),
        number("tx_queue_size", u16_, QUEUE_SIZE.into(), 16, |c| &mut c.tx_queue_size, to_u16),
        number("host_mtu", u16_, 0, 16, |c| &mut c.host_mtu, to_u16),
        flag("x-mtu-bypass-backend", true, |c| c.mtu_bypass, |c, on| c.mtu_bypass = on),
        signed("speed", -1, |c| &mut c.speed),
        word("duplex", |c| &mut c.duplex_text),
        refused(3),
    ]);
    all.extend(LATE_SWITCHES.into_iter().map(switch));
    all
}

fn proxy(name: &'static str, parent: &'static str, without: &'static [&'static str]) -> ProxyClass {
    let boot_index = Property::new("bootindex", "int32")
        .get(|d: &BackendPci<VirtioNet>| Ok(Value::Int(d.own().0.load(Relaxed).into())))
        .set(|d: &BackendPci<VirtioNet>, value, name| {
            // In range: the setter refuses more bits.
            d.own().0.store(value.to_int(name, 32)? as i32, Relaxed);
            Ok(())
        });
    ProxyClass {
        name,
        parent,
        backend: "virtio-net-device",
        child_type: "child<virtio-net-device>",
        without,
        vectors: None,
        own: vec![(usize::MAX, boot_index)],
        device: DeviceClass::on("PCI").category(Category::Network).hide(&["bootindex"]),
    }
}

/// Registers `virtio-net-device` and its proxies.
pub(in crate::virtio) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("virtio-net-device")
            .parent("virtio-device")
            .instance(VirtioNet::new)
            .properties(properties())
            .cast::<VirtioNet, dyn Device>(|d| d)
            .cast::<VirtioNet, dyn VirtioBackend>(|d| d)
            .extension(DeviceClass::on("virtio-bus").category(Category::Network)),
    );
    let names = ["virtio-net-pci", "virtio-net-pci-non-transitional"];
    register_with_modern::<VirtioNet>(registry, "virtio-net-pci-base", names, proxy);
}
