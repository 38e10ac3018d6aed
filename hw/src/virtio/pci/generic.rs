//! The proxy of a virtio device whose class is declared by its back end: every `…-pci` class is one of these.

use std::sync::Arc;

use qapi::Result;
use qom::{Class, ObjectRef, Property, Registry, TypeInfo};
use vmstate::Saved;

use super::proxy::{Proxy, VirtioPci, leading_properties};
use crate::core::{Device, DeviceClass, Machine, ResetKind};
use crate::pci::{PciDevice, PciInfo, PciState};
use crate::virtio::VirtioBackend;
use crate::virtio::migration::Carrier;

/// PCI class of a device that is of no other class.
pub const PCI_CLASS_OTHERS: u16 = 0x00ff;

/// Properties that a proxy has itself, so that it has no alias for its back end's.
const OF_EVERY_DEVICE: [&str; 4] = ["realized", "hotplugged", "hotpluggable", "parent_bus"];

/// A back end that says what its PCI proxy is.
pub trait PciBackend: VirtioBackend + Sized {
    /// What the proxy holds in addition.
    type Own: Default + Send + Sync + 'static;

    /// A back end of `class` with every property at its default.
    fn create(class: &Arc<Class>) -> Arc<Self>;

    /// Whether QEMU's device has a legacy interface too, which this program has not.
    const HAS_LEGACY: bool;

    /// PCI class of the proxy.
    fn pci_class(&self, _own: &Self::Own) -> u16 {
        PCI_CLASS_OTHERS
    }

    /// Called before the proxy is realized; gives the interrupt vectors it has if nobody set `vectors`.
    fn default_vectors(&self, machine: &Machine, own: &Self::Own) -> u32;

    /// The proxy is realized.
    fn proxy_realized(&self, _pci: &PciState) {}
}

/// See the module.
pub struct BackendPci<B: PciBackend> {
    virtio: VirtioPci,
    backend: Arc<B>,
    own: B::Own,
}
crate::pci_device!(for [B: PciBackend] BackendPci<B>, virtio.pci);

impl<B: PciBackend> BackendPci<B> {
    fn new(class: &Arc<Class>, backend: &Arc<Class>, bus: &Arc<Class>) -> Arc<Self> {
        let backend = B::create(backend);
        let proxy = Arc::new(Self {
            virtio: VirtioPci::new(class),
            backend: Arc::clone(&backend),
            own: B::Own::default(),
        });
        let device: Arc<dyn Device> = Arc::clone(&proxy) as Arc<dyn Device>;
        VirtioPci::adopt(&device, backend, bus).expect("a new object has no children yet");
        proxy
    }

    /// The device behind it.
    pub fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    /// What it holds in addition.
    pub fn own(&self) -> &B::Own {
        &self.own
    }

    fn dyn_backend(&self) -> Arc<dyn VirtioBackend> {
        Arc::clone(&self.backend) as Arc<dyn VirtioBackend>
    }
}

impl<B: PciBackend> PciDevice for BackendPci<B> {
    fn pci(&self) -> &PciState {
        &self.virtio.pci
    }

    fn pci_info(&self) -> PciInfo {
        VirtioPci::info(&*self.backend, self.backend.pci_class(&self.own))
    }

    fn pci_realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let proxy: Arc<dyn PciDevice> = Arc::clone(&self) as Arc<dyn PciDevice>;
        if B::HAS_LEGACY {
            self.virtio.refuse_legacy_only()?;
        }
        let vectors = self.backend.default_vectors(machine, &self.own);
        self.virtio.realize(&proxy, &self.dyn_backend(), machine, vectors)?;
        self.backend.proxy_realized(&self.virtio.pci);
        Ok(())
    }

    fn pci_unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        self.virtio.unrealize(&self.dyn_backend(), machine);
    }

    fn pci_reset(&self, _kind: ResetKind) {
        self.virtio.reset();
    }

    fn config_read(&self, offset: u16, size: u8) -> Option<u32> {
        self.virtio.config_read(offset, size)
    }

    fn pci_saved(self: Arc<Self>) -> Saved {
        let Some(transport) = self.virtio.transport() else { return Saved::Nothing };
        self.dyn_backend().saved_behind(Carrier::pci(self, transport))
    }

    fn config_written(&self, offset: u16, size: u8, value: u32) {
        self.virtio.config_written(offset, size, value);
    }
}

impl<B: PciBackend> Proxy for BackendPci<B> {
    fn virtio(&self) -> &VirtioPci {
        &self.virtio
    }
}

/// What only classes have that could be something else than modern.
const LEGACY_PROPERTIES: &[&str] = &["disable-legacy", "disable-modern"];

/// Registers two proxy classes with an abstract one above them, whose names are `base`, `names[0]`, and `names[1]`, which ends in
/// `-non-transitional`: it has no properties that ask for a legacy interface. `class` makes one of a name, a parent, and what it has not.
pub fn register_with_modern<B: PciBackend>(
    registry: &mut Registry,
    base: &'static str,
    names: [&'static str; 2],
    class: impl Fn(&'static str, &'static str, &'static [&'static str]) -> ProxyClass,
) {
    registry.register(TypeInfo::new(base).parent("virtio-pci"));
    for (name, without) in names.into_iter().zip([&[][..], LEGACY_PROPERTIES]) {
        let info = class(name, base, without).info::<B>(registry);
        registry.register(info);
    }
}

/// Declares a proxy class.
pub struct ProxyClass {
    /// Its name, as `virtio-rng-pci`.
    pub name: &'static str,
    /// The class above it.
    pub parent: &'static str,
    /// Its back end's class, which is registered.
    pub backend: &'static str,
    /// The type of its property `virtio-backend`.
    pub child_type: &'static str,
    /// Names among [`leading_properties`] that it has not.
    pub without: &'static [&'static str],
    /// The default of `vectors` that users are shown, if it is not the usual one.
    pub vectors: Option<u64>,
    /// Properties of its own, by where they are among the leading ones, and after them.
    pub own: Vec<(usize, Property)>,
    /// What the device floor knows of it.
    pub device: DeviceClass,
}

impl ProxyClass {
    /// The class, for [`Registry::register`].
    pub fn info<B: PciBackend>(self, registry: &Registry) -> TypeInfo {
        let class = |name| Arc::clone(registry.lookup(name).expect("registered before"));
        let (backend, bus) = (class(self.backend), class("virtio-pci-bus"));
        let mut leading: Vec<_> = leading_properties()
            .into_iter()
            .filter(|p| !self.without.contains(&p.name()))
            .map(|p| match self.vectors {
                Some(vectors) if p.name() == "vectors" => p.default(vectors),
                _ => p,
            })
            .collect();
        let own: Vec<_> = self.own.iter().map(|(_, property)| property.name()).collect();
        let aliases = backend
            .properties()
            .into_iter()
            .filter(|p| !OF_EVERY_DEVICE.contains(&p.name()) && !own.contains(&p.name()))
            .map(|p| {
                Property::alias(p, |proxy: &BackendPci<B>| Some(Arc::clone(&proxy.backend) as ObjectRef))
            })
            .collect::<Vec<_>>();
        for (place, property) in self.own {
            leading.insert(place.min(leading.len()), property);
        }
        TypeInfo::new(self.name)
            .parent(self.parent)
            .instance(move |class| BackendPci::<B>::new(class, &backend, &bus))
            .properties(leading)
            .properties(aliases)
            .property(
                Property::new("virtio-backend", self.child_type)
                    .get(|proxy: &BackendPci<B>| Ok((Arc::clone(&proxy.backend) as ObjectRef).path().into())),
            )
            .cast::<BackendPci<B>, dyn Device>(|d| d)
            .cast::<BackendPci<B>, dyn PciDevice>(|d| d)
            .cast::<BackendPci<B>, dyn Proxy>(|d| d)
            .extension(self.device)
    }
}
