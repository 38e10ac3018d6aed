//! The proxy's part in the device tree: properties, capabilities, BARs; common to all virtio-pci devices.
//!
//! A proxy struct holds a [`VirtioPci`] and its back end, and forwards its [`PciDevice`] methods here. The layout is
//! QEMU's: BAR 1 is MSI-X, BAR 4 the four register windows, capabilities in the order in which they are added.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory::{RegionDesc, RegionId, RegionOps};
use qapi::{Error, Result};
use qom::{Class, ObjectRef, Property, TypeInfo, cast};

use super::express::Express;
use super::windows::{NotifyPort, Window, WindowOps};
use crate::core::bus::{attach, plain_bus_class};
use crate::core::{Bus, Device, Machine, PlainBus, qdev};
use crate::pci::config::{COMMAND_MASTER, reg};
use crate::pci::{BarKind, PciDevice, PciDeviceState, PciInfo, PciState};
use crate::virtio::backend::VirtioBackend;
use crate::virtio::transport::{Doorbells, Parts, Transport, Wiring, follow_run_state};

/// `vectors` when the user left it to the device.
#[doc(alias = "DEV_NVECTORS_UNSPECIFIED")]
const VECTORS_AUTO: u32 = u32::MAX;
const MAX_VECTORS: u32 = 2048;
const VIRTIO_VENDOR: u16 = 0x1af4;
/// PCI device ID of virtio device 0 in the modern range.
const MODERN_ID_BASE: u16 = 0x1040;
const CAP_VENDOR: u8 = 9;
const MSIX_BAR: u8 = 1;
const MODERN_BAR: u8 = 4;
/// With `modern-pio-notify`.
const PORT_BAR: u8 = 2;
const PORT_SIZE: u64 = 4;
/// Kind of the capability of notification registers.
const NOTIFY_CAP: u8 = 2;
const PAGE: u64 = 0x1000;

/// Values of the proxy's properties.
#[derive(Debug, Clone, Copy)]
struct Props {
    /// Whether `disable-legacy` reads back as `on`; index into `auto`, `on`, `off` before.
    disable_legacy: usize,
    disable_modern: bool,
    ioeventfd: bool,
    vectors: u32,
    flags: [bool; FLAGS.len()],
}

/// Flags in the order of `info qtree`.
const FLAGS: [(&str, bool); 14] = [
    ("virtio-pci-bus-master-bug-migration", false),
    ("migrate-extra", true),
    ("modern-pio-notify", false),
    ("x-disable-pcie", false),
    ("page-per-vq", false),
    ("x-ignore-backend-features", false),
    ("ats", false),
    ("x-ats-page-aligned", true),
    ("x-pcie-deverr-init", true),
    ("x-pcie-lnkctl-init", true),
    ("x-pcie-pm-init", true),
    ("x-pcie-pm-no-soft-reset", false),
    ("x-pcie-flr-init", true),
    ("aer", false),
];

const ON_OFF_AUTO: [&str; 3] = ["auto", "on", "off"];

/// What a virtio-pci proxy carries.
pub struct VirtioPci {
    /// The PCI part.
    pub pci: PciState,
    props: Mutex<Props>,
    live: Mutex<Option<Live>>,
    /// Behind a port.
    express: Mutex<Option<Express>>,
}

struct Live {
    transport: Arc<Transport>,
    /// The windows, the port, which is unmapped at first, and then the BARs' containers.
    regions: Vec<RegionId>,
    spaces: Vec<Arc<memory::AddressSpace>>,
    /// Offset of the capability through which BAR 4 is reached without mapping it.
    cfg_cap: u16,
}

impl VirtioPci {
    /// The part of a new proxy of `class`.
    pub fn new(class: &Arc<Class>) -> Self {
        let props = Props {
            disable_legacy: 0,
            disable_modern: false,
            ioeventfd: true,
            vectors: VECTORS_AUTO,
            flags: FLAGS.map(|(_, default)| default),
        };
        Self {
            pci: PciState::new(class),
            props: Mutex::new(props),
            live: Mutex::default(),
            express: Mutex::default(),
        }
    }

    fn props(&self) -> MutexGuard<'_, Props> {
        // Plain values, assigned whole.
        self.props.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn express(&self) -> MutexGuard<'_, Option<Express>> {
        // Offsets, and a state that is assigned whole.
        self.express.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The transport, while the proxy is realized.
    pub fn transport(&self) -> Option<Arc<Transport>> {
        self.live().as_ref().map(|live| Arc::clone(&live.transport))
    }

    /// Puts the back end and the bus it sits on below `proxy`, which was just created.
    ///
    /// # Errors
    /// The bus class makes no bus.
    pub fn adopt(proxy: &Arc<dyn Device>, backend: ObjectRef, bus_class: &Arc<Class>) -> Result<()> {
        let bus = bus_class.create()?;
        let bus = cast::<dyn Bus>(&bus)
            .ok_or_else(|| Error::generic(format!("class '{}' is no bus", bus_class.name())))?;
        attach(proxy, "virtio-bus", bus)?;
        let object: ObjectRef = Arc::clone(proxy) as ObjectRef;
        object.add_child("virtio-backend", backend).map(drop)
    }

    /// Identity of the proxy of `backend`, of PCI class `class`.
    pub fn info(backend: &dyn VirtioBackend, class: u16) -> PciInfo {
        let device = MODERN_ID_BASE + backend.device_id();
        PciInfo { revision: 1, interrupt_pin: 1, ..PciInfo::new(VIRTIO_VENDOR, device, class) }
    }

    /// Realizes back end and transport. `default_vectors` replaces an unspecified `vectors`.
    ///
    /// # Errors
    /// What the back end says.
    pub fn realize(
        &self,
        proxy: &Arc<dyn PciDevice>,
        backend: &Arc<dyn VirtioBackend>,
        machine: &Arc<Machine>,
        default_vectors: u32,
    ) -> Result<()> {
        let vectors = self.settle_properties(default_vectors);
        let bus = self.pci.dev.buses().into_iter().next();
        let device: Arc<dyn Device> = Arc::clone(backend) as Arc<dyn Device>;
        qdev::realize_on(machine, &device, bus.as_ref())?;
        let done = self.build(proxy, backend, machine, vectors);
        if done.is_err() {
            qdev::undo_realize(machine, &device);
        }
        done
    }

    /// Refuses `disable-modern=on`, which asks for the legacy interface alone.
    ///
    /// # Errors
    /// It is set.
    pub(super) fn refuse_legacy_only(&self) -> Result<()> {
        if self.props().disable_modern {
            return Err(Error::generic(
                "'disable-modern' property set to 'on' is not supported: devices are modern only",
            ));
        }
        Ok(())
    }

    fn settle_properties(&self, default_vectors: u32) -> u32 {
        let mut props = self.props();
        // Devices of this kind have no legacy interface, whatever was asked.
        props.disable_legacy = 1;
        props.disable_modern = false;
        if props.vectors == VECTORS_AUTO {
            props.vectors = default_vectors;
        }
        props.vectors
    }

    /// Value of the flag `name`.
    fn flag(&self, name: &str) -> bool {
        let props = self.props();
        FLAGS.iter().zip(props.flags).any(|((other, _), value)| *other == name && value)
    }

    fn build(
        &self,
        proxy: &Arc<dyn PciDevice>,
        backend: &Arc<dyn VirtioBackend>,
        machine: &Arc<Machine>,
        vectors: u32,
    ) -> Result<()> {
        *self.express() =
            super::express::is_behind_port(&self.pci).then(|| Express::add(&self.pci)).transpose()?;
        let notify_stride = if self.flag("page-per-vq") { PAGE } else { 4 };
        let port = self.flag("modern-pio-notify");
        self.add_capabilities(notify_stride, port)?;
        let mut body = [0; 18];
        (body[0], body[1]) = (20, 5);
        let cfg_cap = self.pci.add_capability(CAP_VENDOR, &body)?;
        self.pci.with_config(|config| {
            // Which BAR, where in it, how many bytes, and those bytes are the guest's to write.
            config.set_writable(cfg_cap + 4, &[0xff]);
            config.set_writable(cfg_cap + 8, &[0xff; 12]);
        });
        match vectors {
            0 => {}
            1..=MAX_VECTORS => self.pci.init_msix_exclusive(machine, MSIX_BAR, vectors as u16)?,
            _ => tracing::warn!("unable to init msix vectors to {vectors}"),
        }
        let space = self.pci.bus_master_space().ok_or_else(|| Error::generic("the proxy is on no bus"))?;
        let transport = Transport::new(Parts {
            backend: Arc::clone(backend),
            wiring: Wiring::Pci(Arc::downgrade(proxy), self.pci.msix().cloned()),
            memory: Arc::downgrade(machine.memory()),
            space,
            mainloop: machine.mainloop().clone(),
            ioeventfd: self.props().ioeventfd,
            notify_stride,
        });
        let live = self.map(machine, &transport, port, cfg_cap);
        follow_run_state(machine, &transport);
        backend.common().notifier.set(Some(Arc::clone(&transport) as _));
        *self.live() = Some(live);
        Ok(())
    }

    /// Says where the register windows are. With `port` drivers may also notify through BAR 2.
    fn add_capabilities(&self, notify_stride: u64, port: bool) -> Result<()> {
        for (window, kind) in [(Window::Common, 1), (Window::Isr, 3), (Window::Device, 4)] {
            self.pci.add_capability(CAP_VENDOR, &window_cap(16, kind, window, notify_stride))?;
        }
        let mut notify = window_cap(20, NOTIFY_CAP, Window::Notify, notify_stride).to_vec();
        notify.extend((notify_stride as u32).to_le_bytes());
        self.pci.add_capability(CAP_VENDOR, &notify)?;
        if port {
            let mut body = [0; 18];
            (body[0], body[1], body[2], body[10]) = (20, NOTIFY_CAP, PORT_BAR, PORT_SIZE as u8);
            self.pci.add_capability(CAP_VENDOR, &body)?;
        }
        Ok(())
    }

    /// Makes the regions of BAR 4 and the address space through which the configuration window reaches them, and those of the
    /// notification port, which is BAR 2 if `port`.
    fn map(&self, machine: &Machine, transport: &Arc<Transport>, port: bool, cfg_cap: u16) -> Live {
        let notify_stride = transport.notify_stride();
        let owner = self.pci.owner();
        let device = transport.backend().name();
        let mut tx = machine.memory().transaction();
        let size = (Window::Notify.offset() + Window::Notify.size(notify_stride)).next_power_of_two();
        let bar = tx.container(RegionDesc::new("virtio-pci", size.into()).owned_by(owner.clone()));
        let mut regions = Vec::new();
        for window in Window::ALL {
            let name = format!("virtio-pci-{}-{device}", window.name());
            let ops = Arc::new(WindowOps { transport: Arc::clone(transport), window });
            let desc = RegionDesc::new(name, window.size(notify_stride).into()).owned_by(owner.clone());
            let region = tx.io(desc, ops);
            tx.add_subregion(bar, window.offset(), region, 0);
            regions.push(region);
        }
        let notify = regions.last().copied();
        let desc = RegionDesc::new(format!("virtio-pci-notify-pio-{device}"), PORT_SIZE.into());
        let notify_port = tx.io(desc.owned_by(owner.clone()), Arc::new(NotifyPort(Arc::clone(transport))));
        regions.push(notify_port);
        regions.push(bar);
        let mut spaces = vec![tx.address_space("virtio-pci-cfg-mem-as", bar)];
        let port_bar = port.then(|| {
            let container = tx.container(RegionDesc::new("virtio-pci-io", PORT_SIZE.into()).owned_by(owner));
            tx.add_subregion(container, 0, notify_port, 0);
            regions.push(container);
            spaces.push(tx.address_space("virtio-pci-cfg-io-as", container));
            container
        });
        drop(tx);
        if let Some(notify) = notify {
            transport.set_doorbells(Doorbells {
                registers: Some((notify, notify_stride)),
                shared: port_bar.map(|_| (notify_port, 0, 2)),
            });
        }
        if let Some(container) = port_bar {
            self.pci.add_bar(PORT_BAR, BarKind::Io, PORT_SIZE, container);
        }
        self.pci.add_bar(MODERN_BAR, BarKind::Memory64 { prefetch: true }, size, bar);
        Live { transport: Arc::clone(transport), regions, spaces, cfg_cap }
    }

    /// Undoes [`VirtioPci::realize`]; the back end is gone already.
    pub fn unrealize(&self, backend: &Arc<dyn VirtioBackend>, machine: &Machine) {
        backend.common().notifier.set(None);
        let Some(live) = self.live().take() else { return };
        live.transport.shut_down();
        let mut tx = machine.memory().transaction();
        for space in &live.spaces {
            tx.remove_address_space(space);
        }
        for region in live.regions {
            if let Err(error) = tx.destroy(region) {
                tracing::error!(%error, "a register window outlives its device");
            }
        }
    }

    /// The device part of a reset.
    pub fn reset(&self) {
        if let Some(express) = &mut *self.express() {
            express.reset(&self.pci);
        }
        if let Some(transport) = self.transport() {
            transport.reset();
        }
    }

    /// Takes over what the same proxy had elsewhere, but for its transport; of what it has itself there is nothing else that changes.
    pub(in crate::virtio) fn load(&self, state: &PciDeviceState) -> vmstate::Result<()> {
        self.pci.load_state(state)?;
        if let Some(express) = &mut *self.express() {
            express.loaded(&self.pci);
        }
        Ok(())
    }

    /// A read of configuration space: through the window, if it is of the window's data.
    pub fn config_read(&self, offset: u16, size: u8) -> Option<u32> {
        let (transport, at) = self.window(offset, size)?;
        let (window, offset, len) = at?;
        let ops = WindowOps { transport, window };
        Some(ops.read(offset, len) as u32)
    }

    /// After a write of configuration space.
    pub fn config_written(&self, offset: u16, size: u8, _value: u32) {
        let reset = self.express().as_mut().is_some_and(|express| express.written(&self.pci));
        if reset {
            self.pci.reset();
            self.reset();
        }
        if offset < reg::COMMAND + 2 && offset + u16::from(size) > reg::COMMAND {
            let master = self.pci.with_config(|config| config.command()) & COMMAND_MASTER != 0;
            if let Some(transport) = self.transport() {
                transport.set_bus_master(master);
            }
        }
        if let Some((transport, Some((window, offset, len)))) = self.window(offset, size) {
            let data = self.live().as_ref().map_or(0, |live| live.cfg_cap + 16);
            let value = self.pci.with_config(|config| config.read(data, len));
            WindowOps { transport, window }.write(offset, len, value.into());
        }
    }

    /// Whether an access touches the window's data, and what the window shows: register window, offset, bytes.
    #[expect(clippy::type_complexity, reason = "a private answer of two parts, taken apart at once")]
    fn window(&self, offset: u16, size: u8) -> Option<(Arc<Transport>, Option<(Window, u64, u8)>)> {
        let (transport, cap) = {
            let live = self.live();
            let live = live.as_ref()?;
            (Arc::clone(&live.transport), live.cfg_cap)
        };
        let data = cap + 16;
        if offset + u16::from(size) <= data || offset >= data + 4 {
            return None;
        }
        let (at, len) = self.pci.with_config(|c| (c.get32(cap + 8), c.get32(cap + 12)));
        let place = || {
            let len = u8::try_from(len).ok().filter(|len| matches!(len, 1 | 2 | 4))?;
            // Unaligned offsets are rounded down, as QEMU does.
            let at = u64::from(at) & !(u64::from(len) - 1);
            let (window, at) = Window::at(at, transport.notify_stride())?;
            Some((window, at, len))
        };
        let place = place();
        Some((transport, place))
    }
}

fn window_cap(len: u8, kind: u8, window: Window, notify_stride: u64) -> [u8; 14] {
    let mut body = [0; 14];
    (body[0], body[1], body[2]) = (len, kind, MODERN_BAR);
    body[6..10].copy_from_slice(&(window.offset() as u32).to_le_bytes());
    body[10..14].copy_from_slice(&(window.size(notify_stride) as u32).to_le_bytes());
    body
}

/// Finds the common part of a proxy.
pub trait Proxy: PciDevice {
    /// It.
    fn virtio(&self) -> &VirtioPci;
}

fn proxy(object: &ObjectRef) -> Result<Arc<dyn Proxy>> {
    cast(object).ok_or_else(|| Error::generic("not a virtio-pci device"))
}

/// `disable-legacy`, `disable-modern`, `ioeventfd` and `vectors`, which `info qtree` lists first.
pub fn leading_properties() -> Vec<Property> {
    vec![
        Property::new("disable-legacy", "OnOffAuto")
            .values(&ON_OFF_AUTO)
            .description("on/off/auto")
            .default("auto")
            .get_any(|o| Ok(ON_OFF_AUTO[proxy(o)?.virtio().props().disable_legacy].into()))
            .set_any(|o, value, name| {
                proxy(o)?.virtio().props().disable_legacy = value.to_enum(name, &ON_OFF_AUTO)?;
                Ok(())
            }),
        flag("disable-modern", false, |p| &mut p.disable_modern),
        flag("ioeventfd", true, |p| &mut p.ioeventfd),
        Property::new("vectors", "uint32")
            .default(u64::from(VECTORS_AUTO))
            .get_any(|o| Ok(u64::from(proxy(o)?.virtio().props().vectors).into()))
            .set_any(|o, value, name| {
                // In range: the setter refuses more than 32 bits.
                let value = value.to_uint(name, 32)? as u32;
                proxy(o)?.virtio().props().vectors = value;
                Ok(())
            }),
    ]
}

fn flag(name: &'static str, default: bool, field: fn(&mut Props) -> &mut bool) -> Property {
    Property::new(name, "bool")
        .description("on/off")
        .default(default)
        .get_any(move |o| Ok((*field(&mut proxy(o)?.virtio().props())).into()))
        .set_any(move |o, value, name| {
            let value = value.to_bool(name)?;
            *field(&mut proxy(o)?.virtio().props()) = value;
            Ok(())
        })
}

fn flags() -> impl Iterator<Item = Property> {
    FLAGS.iter().enumerate().map(|(index, (name, default))| {
        Property::new(name, "bool")
            .description("on/off")
            .default(*default)
            .get_any(move |o| Ok(proxy(o)?.virtio().props().flags[index].into()))
            .set_any(move |o, value, name| {
                let value = value.to_bool(name)?;
                proxy(o)?.virtio().props().flags[index] = value;
                Ok(())
            })
    })
}

/// The abstract classes `virtio-pci` and `virtio-pci-bus`.
pub(super) fn register(registry: &mut qom::Registry) {
    registry.register(TypeInfo::new("virtio-bus").parent("bus"));
    registry.register(
        plain_bus_class("virtio-pci-bus", "virtio-bus", Some(1))
            .instance(|class| PlainBus::new(class, "virtio-bus", Some(1))),
    );
    registry.register(TypeInfo::new("virtio-pci").parent("pci-device").properties(flags()));
}
