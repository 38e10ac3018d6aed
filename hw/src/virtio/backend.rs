//! What every virtio back end object has: generic properties, its place in the device tree, its transport.
//!
//! The abstract class is `virtio-device`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qapi::{Error, Result};
use qom::{Class, ObjectRef, Property, TypeInfo, cast};
use vmstate::Saved;

use super::device::{NotifierSlot, VirtioDevice};
use super::features::{ANY_LAYOUT, BAD_FEATURE, NOTIFY_ON_EMPTY};
use super::migration::Carrier;
use super::state::Generic;
use crate::core::{Device, DeviceState};

/// A back end in the device tree; it sits on the `virtio-bus` of its proxy.
pub trait VirtioBackend: Device + VirtioDevice {
    /// The common part.
    fn common(&self) -> &VirtioCommon;

    /// Has whoever keeps the configuration space tell it anew; `None` if that is the device itself. Main loop thread.
    ///
    /// # Errors
    /// They cannot be asked.
    fn sync_config(&self) -> Option<Result<()>> {
        None
    }

    /// What a migration takes along of the device and of the proxy it is behind: see [`migration`](super::migration). The device's own
    /// `saved` says `Nothing` then.
    fn saved_behind(self: Arc<Self>, _carrier: Carrier) -> Saved {
        Saved::Blocked(format!("State blocked by non-migratable device '{}'", self.name()))
    }

    /// The device-specific feature bits with QEMU's sentences, in the order QEMU lists them.
    fn feature_texts(&self) -> &'static [(u64, &'static str)] {
        &[]
    }
}

/// The properties of `virtio-device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenericProperties {
    /// Features that are offered.
    pub features: Generic,
    /// `notify_on_empty`: shown as a host feature; means nothing to a modern driver.
    pub notify_on_empty: bool,
    /// `any_layout`: as above.
    pub any_layout: bool,
    /// `use-started`
    pub use_started: bool,
    /// `use-disabled-flag`
    pub use_disabled_flag: bool,
    /// `x-disable-legacy-check`
    pub disable_legacy_check: bool,
}

impl Default for GenericProperties {
    fn default() -> Self {
        Self {
            features: Generic {
                indirect_desc: true,
                event_idx: true,
                iommu_platform: false,
                packed: false,
                in_order: false,
                queue_reset: true,
            },
            notify_on_empty: true,
            any_layout: true,
            use_started: true,
            use_disabled_flag: true,
            disable_legacy_check: false,
        }
    }
}

/// See the module.
pub struct VirtioCommon {
    /// The device part.
    pub dev: DeviceState,
    /// Where the transport is told of changes.
    pub notifier: NotifierSlot,
    generic: Mutex<GenericProperties>,
}

impl VirtioCommon {
    /// The common part of a new back end of `class`.
    pub fn new(class: &Arc<Class>) -> Self {
        Self { dev: DeviceState::new(class), notifier: NotifierSlot::default(), generic: Mutex::default() }
    }

    /// The proxy that the device sits behind.
    pub fn proxy(&self) -> Option<Arc<dyn Device>> {
        self.dev.parent_bus()?.bus().parent()
    }

    /// The generic properties as they are set.
    pub fn generic(&self) -> GenericProperties {
        *self.lock()
    }

    /// What QEMU's devices have among their features but a modern transport does not offer.
    pub(super) fn legacy_features(&self) -> u64 {
        let generic = self.generic();
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        bit(generic.notify_on_empty, NOTIFY_ON_EMPTY) | bit(generic.any_layout, ANY_LAYOUT) | BAD_FEATURE
    }

    #[cfg(test)]
    pub(crate) fn set_packed(&self, packed: bool) {
        self.lock().features.packed = packed;
    }

    fn lock(&self) -> MutexGuard<'_, GenericProperties> {
        // Plain values, assigned whole.
        self.generic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Field = fn(&mut GenericProperties) -> &mut bool;

fn backend(object: &ObjectRef) -> Result<Arc<dyn VirtioBackend>> {
    cast(object).ok_or_else(|| Error::generic("not a virtio device"))
}

/// The properties of `virtio-device`, in the order of `info qtree`; proxies alias them.
pub fn generic_properties() -> Vec<Property> {
    let defaults = GenericProperties::default();
    let fields: [(&'static str, Field); 11] = [
        ("indirect_desc", |p| &mut p.features.indirect_desc),
        ("event_idx", |p| &mut p.features.event_idx),
        ("notify_on_empty", |p| &mut p.notify_on_empty),
        ("any_layout", |p| &mut p.any_layout),
        ("iommu_platform", |p| &mut p.features.iommu_platform),
        ("packed", |p| &mut p.features.packed),
        ("queue_reset", |p| &mut p.features.queue_reset),
        ("in_order", |p| &mut p.features.in_order),
        ("use-started", |p| &mut p.use_started),
        ("use-disabled-flag", |p| &mut p.use_disabled_flag),
        ("x-disable-legacy-check", |p| &mut p.disable_legacy_check),
    ];
    let property = |(name, field): (&'static str, Field)| {
        let mut initial = defaults;
        Property::new(name, "bool")
            .description("on/off")
            .default(*field(&mut initial))
            .get_any(move |o| Ok((*field(&mut backend(o)?.common().generic())).into()))
            .set_any(move |o, value, name| {
                let value = value.to_bool(name)?;
                *field(&mut backend(o)?.common().lock()) = value;
                Ok(())
            })
    };
    fields.into_iter().map(property).collect()
}

/// The abstract class `virtio-device`.
pub(super) fn class() -> TypeInfo {
    TypeInfo::new("virtio-device").parent("device").properties(generic_properties())
}
