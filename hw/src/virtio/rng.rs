//! `virtio-rng` (virtio 1.3 §5.4): entropy for the guest, from an object of the host.
//!
//! A buffer waits in its queue while the source has nothing, and while the guest had all that it may have in this period. Nothing is
//! read ahead, so that there is nothing to lose in a reset.

pub(crate) mod backend;

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use mainloop::{Clock, Interest, Timer, Watch};
use qapi::{Error, Result};
use qom::{Class, ObjectRef, Property, TypeInfo, UserCreatable};
use vmstate::{Saved, vmstate};

use self::backend::{Fill, RngBackend, from_object};
use super::features::BAD_FEATURE;
use super::migration::{BackendState, Carrier, section};
use super::pci::{PciBackend, ProxyClass, register_with_modern};
use super::ring::Chain;
use super::{Outcome, Violation, VirtioBackend, VirtioCommon, VirtioDevice};
use crate::core::{Category, Device, DeviceClass, DeviceState, Machine, link};
use crate::virtio::unpoisoned;

const DEVICE_ID: u16 = 4;
const QUEUE_SIZES: [u16; 1] = [8];
/// Bytes that one buffer gets at most: more is never needed at once, and the guest asks again.
const MOST: usize = 64 << 10;
/// How long after the end of a file it is looked at again: it may be a pipe that nobody has opened yet.
const RETRY_NS: i64 = 1_000_000_000;

struct Config {
    rng: Option<(ObjectRef, Arc<dyn RngBackend>)>,
    /// Bytes in each period.
    max_bytes: u64,
    /// Milliseconds of the guest's clock.
    period: u32,
}

#[derive(Default)]
struct Live {
    mainloop: Option<mainloop::Handle>,
    /// Bytes the guest may still have in this period.
    quota: u64,
    /// The end of the period, in nanoseconds of the guest's clock, once something was asked for in it.
    period_end: Option<(i64, Timer)>,
    /// What the source is waited for with.
    readable: Option<Watch>,
    retry: Option<Timer>,
}

vmstate! {
    /// What a migration takes along.
    pub(in crate::virtio) struct RngState: "virtio-rng-device", version 1 {
        quota_remaining: u64,
        /// Nanoseconds of the guest's clock.
        period_end: Option<i64>,
    }
}

impl BackendState for RngState {
    const SECTION: &'static str = "virtio-rng";
}

/// The device, behind `virtio-bus`.
pub(in crate::virtio) struct VirtioRng {
    common: VirtioCommon,
    me: Weak<Self>,
    config: Mutex<Config>,
    live: Mutex<Live>,
}
crate::device_object!(VirtioRng, common.dev);

impl VirtioRng {
    fn new(class: &Arc<Class>) -> Arc<Self> {
        let config = Config { rng: None, max_bytes: i64::MAX as u64, period: 1 << 16 };
        Arc::new_cyclic(|me| Self {
            common: VirtioCommon::new(class),
            me: me.clone(),
            config: Mutex::new(config),
            live: Mutex::default(),
        })
    }

    fn config(&self) -> MutexGuard<'_, Config> {
        unpoisoned(&self.config)
    }

    /// The source, which is made if the user named none.
    fn settle_source(&self, machine: &Machine) -> Result<()> {
        if self.config().rng.is_some() {
            return Ok(());
        }
        let registry = machine.tree().registry();
        let class = registry.lookup("rng-builtin").ok_or_else(|| Error::generic("no rng-builtin"))?;
        let object = class.create()?;
        if let Some(made) = qom::cast::<dyn UserCreatable>(&object) {
            made.complete()?;
        }
        let source = from_object(&object).ok_or_else(|| Error::generic("rng-builtin is no source"))?;
        let me: ObjectRef = self.me.upgrade().ok_or_else(|| Error::generic("the device is gone"))?;
        me.add_child("default-backend", Arc::clone(&object))?;
        self.config().rng = Some((object, source));
        Ok(())
    }

    /// A callback that does `change` and has the buffer that waits served.
    fn later(
        &self,
        change: impl FnOnce(&mut Live, &Config) + Send + 'static,
    ) -> impl FnOnce() + Send + 'static {
        let me = self.me.clone();
        move || {
            let Some(device) = me.upgrade() else { return };
            let done = {
                let config = device.config();
                let mut live = unpoisoned(&device.live);
                change(&mut live, &config);
                live.mainloop.is_some()
            };
            if done {
                device.common.notifier.queue_ready(0);
            }
        }
    }

    /// Has the period end at `end`, nanoseconds of the guest's clock.
    fn end_at(&self, mainloop: &mainloop::Handle, end: i64) -> Timer {
        let refill = self.later(|live, config| {
            live.quota = config.max_bytes;
            live.period_end = None;
        });
        mainloop.timer(Clock::Virtual, end, refill)
    }

    fn saved_state(&self) -> RngState {
        let live = unpoisoned(&self.live);
        // The buffer that waits is in the ring, and the source is asked again for it.
        let Live { mainloop: _, quota, period_end, readable: _, retry: _ } = &*live;
        RngState { quota_remaining: *quota, period_end: period_end.as_ref().map(|(end, _)| *end) }
    }

    fn load_state(&self, saved: &RngState) {
        let (max_bytes, period) = {
            let config = self.config();
            (config.max_bytes, config.period)
        };
        let mut live = unpoisoned(&self.live);
        let Some(mainloop) = live.mainloop.clone() else { return };
        // What is allowed in a period, and how long that is, are up to who started this machine.
        live.quota = saved.quota_remaining.min(max_bytes);
        let latest = mainloop.now_ns(Clock::Virtual).saturating_add(i64::from(period) * 1_000_000);
        let end = saved.period_end.map(|end| end.min(latest));
        let old = std::mem::replace(&mut live.period_end, end.map(|end| (end, self.end_at(&mainloop, end))));
        drop(live);
        drop(old);
    }

    /// Has the source looked at again.
    fn wait(&self, live: &mut Live, source: &dyn RngBackend, outcome: Fill) {
        let Some(mainloop) = &live.mainloop else { return };
        let watch = match (outcome, source.file()) {
            (Fill::NotNow, Some(_)) if live.readable.is_some() => return,
            (Fill::NotNow, Some(file)) => {
                let me = self.me.clone();
                mainloop.watch(file, Interest::READ, move |_| {
                    let Some(device) = me.upgrade() else { return };
                    let gone = unpoisoned(&device.live).readable.take();
                    drop(gone);
                    device.common.notifier.queue_ready(0);
                })
            }
            _ => {
                let at = mainloop.now_ns(Clock::Realtime) + RETRY_NS;
                let again = self.later(|live, _| live.retry = None);
                live.retry = Some(mainloop.timer(Clock::Realtime, at, again));
                return;
            }
        };
        match watch {
            Ok(watch) => live.readable = Some(watch),
            Err(error) => tracing::error!("virtio-rng: the source of entropy cannot be waited for: {error}"),
        }
    }
}

impl Device for VirtioRng {
    fn dev(&self) -> &DeviceState {
        &self.common.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        {
            let config = self.config();
            if config.period == 0 {
                return Err(Error::generic("'period' parameter expects a positive integer"));
            }
            if config.max_bytes > i64::MAX as u64 {
                return Err(Error::generic("'max-bytes' parameter must be positive, and less than 2^63"));
            }
        }
        self.settle_source(machine)?;
        let quota = self.config().max_bytes;
        let mainloop = Some(machine.mainloop().clone());
        *unpoisoned(&self.live) = Live { mainloop, quota, ..Live::default() };
        Ok(())
    }

    fn unrealize(self: Arc<Self>, _machine: &Arc<Machine>) {
        let live = std::mem::take(&mut *unpoisoned(&self.live));
        drop(live);
    }

    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }
}

impl VirtioBackend for VirtioRng {
    fn common(&self) -> &VirtioCommon {
        &self.common
    }

    fn saved_behind(self: Arc<Self>, carrier: Carrier) -> Saved {
        let own = Arc::clone(&self);
        let load = move |state| {
            self.load_state(&state);
            Ok(())
        };
        Saved::one(section(carrier, move || own.saved_state(), load))
    }

    fn feature_texts(&self) -> &'static [(u64, &'static str)] {
        // There is a vhost-user device of this kind, too, and QEMU has one list for both.
        &[(BAD_FEATURE, "VHOST_USER_F_PROTOCOL_FEATURES: Vhost-user protocol features negotiation supported")]
    }
}

impl VirtioDevice for VirtioRng {
    fn name(&self) -> &'static str {
        "virtio-rng"
    }

    fn device_id(&self) -> u16 {
        DEVICE_ID
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn serve(&self, _queue: u16, buffer: &mut Chain<'_>) -> std::result::Result<Outcome, Violation> {
        let room = usize::try_from(buffer.writable_len()).unwrap_or(usize::MAX).min(MOST);
        if room == 0 {
            return Ok(Outcome::Done(0));
        }
        let (source, period) = {
            let config = self.config();
            let Some((_, source)) = &config.rng else { return Ok(Outcome::Later) };
            (Arc::clone(source), config.period)
        };
        let mut live = unpoisoned(&self.live);
        let Some(mainloop) = &live.mainloop else { return Ok(Outcome::Later) };
        // In range: less than 2^32 ms.
        if live.period_end.is_none() {
            let end = mainloop.now_ns(Clock::Virtual) + i64::from(period) * 1_000_000;
            live.period_end = Some((end, self.end_at(mainloop, end)));
        }
        let most = room.min(usize::try_from(live.quota).unwrap_or(usize::MAX));
        trace::emit!(virtio_rng_request, trace::Id::of(self), room, live.quota);
        if most == 0 {
            return Ok(Outcome::Later);
        }
        let (mut few, mut many) = ([0; 256], Vec::new());
        let bytes = few.get_mut(..most).unwrap_or_else(|| {
            many.resize(most, 0);
            &mut many
        });
        match source.fill(bytes) {
            Fill::Bytes(count) => {
                let written = buffer.write(&bytes[..count.min(most)]);
                live.quota -= written as u64;
                trace::emit!(virtio_rng_pushed, trace::Id::of(self), written);
                Ok(Outcome::Done(written as u32))
            }
            outcome => {
                self.wait(&mut live, &*source, outcome);
                Ok(Outcome::Later)
            }
        }
    }

    fn driver_reset(&self) {
        let mut live = unpoisoned(&self.live);
        let old = (live.readable.take(), live.retry.take());
        drop(live);
        drop(old);
    }
}

impl PciBackend for VirtioRng {
    type Own = ();
    const HAS_LEGACY: bool = true;

    fn create(class: &Arc<Class>) -> Arc<Self> {
        Self::new(class)
    }

    fn default_vectors(&self, _machine: &Machine, (): &()) -> u32 {
        2
    }
}

fn properties() -> Vec<Property> {
    vec![
        Property::new("max-bytes", "uint64")
            .default(i64::MAX as u64)
            .get(|d: &VirtioRng| Ok(d.config().max_bytes.into()))
            .set(|d: &VirtioRng, value, name| {
                let value = value.to_u64(name)?;
                d.config().max_bytes = value;
                Ok(())
            }),
        Property::new("period", "uint32")
            .default(1u64 << 16)
            .get(|d: &VirtioRng| Ok(u64::from(d.config().period).into()))
            .set(|d: &VirtioRng, value, name| {
                // In range: the setter refuses more bits.
                let value = value.to_uint(name, 32)? as u32;
                d.config().period = value;
                Ok(())
            }),
        // Neither readable nor writable, also in QEMU.
        Property::new("legacy-rng", "str"),
        Property::new("rng", "link<rng-backend>")
            .live()
            .get(|d: &VirtioRng| {
                let rng = d.config().rng.as_ref().map(|(object, _)| Arc::clone(object));
                Ok(rng.map_or_else(String::new, |object| object.path()).into())
            })
            .set(|d: &VirtioRng, value, name| {
                let accept = |object: &ObjectRef| Some((Arc::clone(object), from_object(object)?));
                let rng = link::resolve(d, value.to_str(name)?, name, "rng-backend", accept)?;
                d.config().rng = rng;
                Ok(())
            }),
    ]
}

/// Registers the sources, `virtio-rng-device` and `virtio-rng-pci`.
pub(super) fn register(registry: &mut qom::Registry) {
    backend::register(registry);
    registry.register(
        TypeInfo::new("virtio-rng-device")
            .parent("virtio-device")
            .instance(VirtioRng::new)
            .properties(properties())
            .cast::<VirtioRng, dyn Device>(|d| d)
            .cast::<VirtioRng, dyn VirtioBackend>(|d| d)
            .extension(DeviceClass::on("virtio-bus").category(Category::Misc)),
    );
    let names = ["virtio-rng-pci", "virtio-rng-pci-non-transitional"];
    register_with_modern::<VirtioRng>(registry, "virtio-rng-pci-base", names, |name, parent, without| {
        ProxyClass {
            name,
            parent,
            backend: "virtio-rng-device",
            child_type: "child<virtio-rng-device>",
            without,
            vectors: None,
            own: Vec::new(),
            device: DeviceClass::on("PCI").category(Category::Misc),
        }
    });
}

#[cfg(test)]
mod tests;
