//! What a migration takes along of a virtio device: one section, named after the back end, with the state of the proxy, the transport and
//! the rings in the field `virtio`, and the back end's own behind it.
//!
//! A back end declares its own with `vmstate!`, says what the section is called ([`BackendState`]), and answers
//! [`VirtioBackend::saved_behind`](super::VirtioBackend::saved_behind) with [`section`]. Its `Device::saved` is `Saved::Nothing`.
//!
//! ```ignore
//! fn saved_behind(self: Arc<Self>, carrier: Carrier) -> Saved {
//!     let own = Arc::clone(&self);
//!     Saved::one(section(carrier, move || own.saved_state(), move |state| self.load_state(&state)))
//! }
//! ```
//!
//! The back end is loaded after its proxy: features are negotiated and BARs mapped by then, and nothing is served before the machine
//! runs. Then every queue is looked at, so that no notification is lost that came too late to be heard before.

use std::sync::Arc;

use vmstate::{
    Decoder, Encoder, Field, FieldShape, LoadError, Result, Section, StateShape, VmState, vmstate,
};

use super::mmio::{MmioState, VirtioMmio};
use super::pci::Proxy;
use super::transport::{Transport, TransportState};
use crate::pci::PciDeviceState;

/// What a back end has of its own, which may be nothing.
pub trait BackendState: VmState + Field + Send + 'static {
    /// The name of the section, as `virtio-mem`; QEMU's.
    const SECTION: &'static str;
}

vmstate! {
    /// All but the back end.
    struct ProxyState: "virtio", version 1 {
        /// Of a PCI device: what it has as a function.
        pci: Option<PciDeviceState>,
        /// Of a device of registers in memory: those.
        mmio: Option<MmioState>,
        /// What either has.
        transport: TransportState,
    }
}

/// The proxy that a back end is behind, which is saved with it.
#[derive(Clone)]
pub struct Carrier {
    proxy: Kind,
    transport: Arc<Transport>,
}

#[derive(Clone)]
enum Kind {
    Pci(Arc<dyn Proxy>),
    Mmio(Arc<VirtioMmio>),
}

impl Carrier {
    pub(super) fn pci(proxy: Arc<dyn Proxy>, transport: Arc<Transport>) -> Self {
        Self { proxy: Kind::Pci(proxy), transport }
    }

    pub(super) fn mmio(proxy: Arc<VirtioMmio>, transport: Arc<Transport>) -> Self {
        Self { proxy: Kind::Mmio(proxy), transport }
    }

    fn save(&self) -> ProxyState {
        let (pci, mmio) = match &self.proxy {
            Kind::Pci(proxy) => (Some(proxy.pci().saved_state()), None),
            Kind::Mmio(proxy) => (None, proxy.saved_state()),
        };
        ProxyState { pci, mmio, transport: self.transport.saved_state() }
    }

    fn load(&self, state: &ProxyState) -> Result<()> {
        match (&self.proxy, state) {
            (Kind::Pci(proxy), ProxyState { pci: Some(pci), mmio: None, .. }) => proxy.virtio().load(pci)?,
            (Kind::Mmio(proxy), ProxyState { pci: None, mmio: Some(mmio), .. }) => proxy.load_state(mmio)?,
            _ => return Err(LoadError::invalid("the device has another transport")),
        }
        self.transport.load_state(&state.transport)
    }
}

/// The section of a back end behind `carrier`: `save` tells the back end's own state, `load` takes it over.
pub fn section<S: BackendState>(
    carrier: Carrier,
    save: impl Fn() -> S + Send + Sync + 'static,
    load: impl Fn(S) -> Result<()> + Send + Sync + 'static,
) -> Section {
    let to = carrier.clone();
    Section::new(
        move || Whole { virtio: carrier.save(), device: save() },
        move |Whole { virtio, device }| to.load(&virtio).and_then(|()| load(device)).map_err(in_virtio::<S>),
    )
}

/// QEMU has all of it in one field.
fn in_virtio<S: BackendState>(error: LoadError) -> LoadError {
    error.in_field(S::SECTION, "virtio")
}

/// A section.
struct Whole<S> {
    virtio: ProxyState,
    device: S,
}

impl<S: BackendState> VmState for Whole<S> {
    const NAME: &'static str = S::SECTION;
    const VERSION: u32 = S::VERSION;
    const OLDEST: u32 = S::OLDEST;

    fn put_fields(&self, out: &mut Encoder) {
        let Self { virtio, device } = self;
        virtio.put("virtio", out);
        device.put("device", out);
    }

    fn get_versioned(input: &mut Decoder<'_>, version: u32) -> Result<Self> {
        vmstate::check_version::<Self>(version)?;
        let virtio = ProxyState::get(input).map_err(in_virtio::<S>)?;
        let device = S::get_versioned(input, version).map_err(in_virtio::<S>)?;
        Ok(Self { virtio, device })
    }

    fn declared() -> StateShape {
        let field = |name, shape| FieldShape { name, shape, since: 0 };
        StateShape {
            name: Self::NAME,
            version: Self::VERSION,
            oldest: Self::OLDEST,
            fields: vec![field("virtio", ProxyState::shape()), field("device", S::shape())],
            subsections: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
