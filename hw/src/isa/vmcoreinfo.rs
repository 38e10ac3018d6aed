//! `vmcoreinfo`: through the file `etc/vmcoreinfo` of `fw_cfg` a guest tells where its kernel keeps the note that debuggers want
//! of a dump (QEMU `docs/specs/vmcoreinfo.rst`). Only dumps look there, while the guest stands still.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use qapi::{Error, Result};
use qom::{Class, Registry, TypeInfo};
use vmstate::{LoadError, Saved, Section, vmstate};

use super::fw_cfg::FwCfg;
use crate::core::device::{Category, Device, DeviceClass, DeviceState};
use crate::core::machine::Machine;

const FILE: &str = "etc/vmcoreinfo";
/// Format of the note: an ELF note.
pub const ELF: u16 = 1;
/// What the host takes, what the guest has (nothing), size, address; little-endian.
const INITIAL: [u8; 16] = [ELF as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Where a guest has its note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// [`ELF`] if it can be used.
    pub format: u16,
    /// Bytes, header included.
    pub size: u32,
    /// Physical address.
    pub address: u64,
}

impl Place {
    /// What the file says; `None` while the guest has said nothing.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (_, rest) = bytes.split_first_chunk::<2>()?;
        let (format, rest) = rest.split_first_chunk::<2>()?;
        let (size, rest) = rest.split_first_chunk::<4>()?;
        let (address, _) = rest.split_first_chunk::<8>()?;
        let format = u16::from_le_bytes(*format);
        let (size, address) = (u32::from_le_bytes(*size), u64::from_le_bytes(*address));
        (format != 0).then_some(Self { format, size, address })
    }
}

/// The device.
pub struct VmCoreInfo {
    dev: DeviceState,
    place: Arc<Mutex<Option<Place>>>,
}
crate::device_object!(VmCoreInfo, dev);

vmstate! {
    /// What a migration takes along.
    pub struct VmCoreInfoState: "vmcoreinfo", version 1 {
        /// The file, as the guest has written it.
        vmcoreinfo: [u8; 16],
    }
}

/// The one of a machine.
#[derive(Default)]
struct Known(OnceLock<Weak<VmCoreInfo>>);

pub(super) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("vmcoreinfo")
            .parent("device")
            .extension(DeviceClass::internal().creatable().cold_only().category(Category::Misc))
            .instance(|class: &Arc<Class>| {
                Arc::new(VmCoreInfo { dev: DeviceState::new(class), place: Arc::default() })
            })
            .cast::<VmCoreInfo, dyn Device>(|d| d),
    );
}

/// Where the guest of `machine` has its note, if it has said so.
pub fn place(machine: &Machine) -> Option<Place> {
    let device = machine.extension(Known::default).0.get()?.upgrade()?;
    *device.place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets what a guest has said that is no more; at each reset.
///
/// # Errors
/// There is no room for the file, which has been there.
pub fn forget(machine: &Machine) -> Result<()> {
    let known = machine.extension(Known::default);
    let (Some(device), Some(fw)) = (known.0.get().and_then(Weak::upgrade), FwCfg::of(machine)) else {
        return Ok(());
    };
    *device.place.lock().unwrap_or_else(PoisonError::into_inner) = None;
    fw.set_file(FILE, INITIAL)
}

impl Device for VmCoreInfo {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let known = machine.extension(Known::default);
        if known.0.get().is_some() {
            return Err(Error::generic("at most one vmcoreinfo device is permitted"));
        }
        let fw = FwCfg::of(machine).filter(|fw| fw.has_dma());
        let fw = fw.ok_or_else(|| Error::generic("vmcoreinfo device requires fw_cfg with DMA"))?;
        let place = Arc::clone(&self.place);
        fw.add_writable(FILE, INITIAL.to_vec(), move |bytes| {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Place::parse(bytes);
        })?;
        known.0.get_or_init(|| Arc::downgrade(&self));
        Ok(())
    }

    fn saved(self: Arc<Self>) -> Saved {
        let fw = self.dev.machine().and_then(|machine| FwCfg::of(&machine));
        let loaded = fw.clone();
        let save = move || {
            let file = fw.as_deref().and_then(|fw| fw.file(FILE));
            let bytes = file.and_then(|file| file.first_chunk().copied());
            VmCoreInfoState { vmcoreinfo: bytes.unwrap_or(INITIAL) }
        };
        let load = move |VmCoreInfoState { vmcoreinfo }| {
            // The place is there only if the guest has written something.
            let place = if vmcoreinfo == INITIAL { None } else { Place::parse(&vmcoreinfo) };
            *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
            let Some(fw) = loaded.as_deref() else { return Ok(()) };
            fw.set_file(FILE, vmcoreinfo).map_err(|error| LoadError::invalid(error.desc()))
        };
        Saved::one(Section::new(save, load))
    }
}

#[cfg(test)]
mod tests;
