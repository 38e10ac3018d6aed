//! `vmgenid`: a number by which a guest knows that it is not the machine any more that it was, because a snapshot or a copy of it was
//! started (Microsoft, "Virtual Machine Generation ID"; QEMU `docs/specs/vmgenid.rst`).
//!
//! It lies in a page of memory that nobody else has: firmware places the file `etc/vmgenid_guid` and tells where through
//! `etc/vmgenid_addr`; where a kernel is started without, the page is at [`PAGE`]. The tables lead there. The number stays the same
//! as long as the program runs, resets included. A guest that arrives from another program finds another number where its firmware
//! said, and is told by event 5 ([`tell`]). As in QEMU a guest of `microvm` is not told of the device.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use qapi::{Error, Result};
use qom::{Class, Property, Registry, TypeInfo};
use vm_memory::{Bytes, GuestAddress};
use vmstate::{LoadError, Saved, Section, vmstate};

use crate::core::device::{Category, Device, DeviceClass, DeviceState};
use crate::core::machine::Machine;
use crate::core::machine_types::Board;
use crate::core::uuid::{self, Uuid};
use crate::isa::fw_cfg::FwCfg;

/// The file that is the page.
pub const GUID_FILE: &str = "etc/vmgenid_guid";
/// The file in which firmware says where the number is: 64 bits, little-endian.
pub const ADDR_FILE: &str = "etc/vmgenid_addr";
/// Where the page is without firmware; in the area of the BIOS, which no guest takes for free memory.
pub const PAGE: u32 = 0xf_4000;
/// Bytes of the page.
pub const PAGE_SIZE: u32 = 0x1000;
/// Where in the page the number is.
pub const OFFSET: u8 = 40;
/// The general-purpose event that announces another number.
const GPE: u8 = 5;
const NO_FILE: &str = "vmgenid: the guest of this machine cannot say where its generation ID is";
const AUTO: &str = "auto";

/// The device.
pub struct VmGenId {
    dev: DeviceState,
    /// `None` until it is realized, if it is to be a random one.
    guid: Mutex<Option<Uuid>>,
}
crate::device_object!(VmGenId, dev);

vmstate! {
    /// What a migration takes along: not the number, which is to be another one.
    pub struct VmGenIdState: "vmgenid", version 1 {
        /// Where the guest has it; 0 if it has not said so.
        vmgenid_addr: u64,
    }
}

/// The one of a machine.
#[derive(Default)]
struct Known(OnceLock<Weak<VmGenId>>);

pub(super) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("vmgenid")
            .parent("device")
            .extension(DeviceClass::internal().creatable().cold_only().category(Category::Misc))
            .instance(|class: &Arc<Class>| {
                Arc::new(VmGenId { dev: DeviceState::new(class), guid: Mutex::default() })
            })
            .cast::<VmGenId, dyn Device>(|d| d)
            .property(
                Property::new("guid", "str")
                    .description("UUID (aka GUID) or \"auto\" for random value (default)")
                    .default(AUTO)
                    .get(|d: &VmGenId| Ok(d.text().into()))
                    .set(|d: &VmGenId, v, name| {
                        let text = v.to_str(name)?;
                        let guid = match text {
                            AUTO => None,
                            _ => Some(uuid::parse(text).ok_or_else(|| {
                                Error::generic(format!(
                                    "Property 'vmgenid.{name}' doesn't take value '{text}'"
                                ))
                            })?),
                        };
                        *d.guid.lock().unwrap_or_else(PoisonError::into_inner) = guid;
                        Ok(())
                    }),
            ),
    );
}

impl VmGenId {
    fn guid(&self) -> Option<Uuid> {
        *self.guid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        self.guid().map_or_else(|| AUTO.into(), |guid| uuid::text(&guid))
    }
}

fn of(machine: &Machine) -> Option<Arc<VmGenId>> {
    machine.extension(Known::default).0.get()?.upgrade()
}

/// The number of a machine that has one, as text.
///
/// # Errors
/// `VM Generation ID device not found`
pub fn text(machine: &Machine) -> Result<String> {
    of(machine).map(|device| device.text()).ok_or_else(|| Error::generic("VM Generation ID device not found"))
}

/// What the page holds, if the guest is told of a number.
pub fn page(machine: &Machine) -> Option<Vec<u8>> {
    if machine.kind().board == Board::Microvm || !machine.properties().acpi() {
        return None;
    }
    let guid = uuid::mixed_endian(of(machine)?.guid()?);
    let mut page = vec![0; OFFSET.into()];
    page.extend(guid);
    page.resize(PAGE_SIZE as usize, 0);
    Some(page)
}

/// What the file about the place says, if there is one.
fn told(fw: &FwCfg) -> Option<u64> {
    fw.file(ADDR_FILE).and_then(|file| Some(u64::from_le_bytes(*file.first_chunk()?)))
}

/// Gives a guest that came from elsewhere this machine's number, and announces it. Nothing happens if it never said where its is.
pub(crate) fn tell(machine: &Machine) {
    let (Some(page), Some(fw)) = (page(machine), FwCfg::of(machine)) else { return };
    let Some(place) = told(&fw).filter(|place| *place != 0) else { return };
    let guid = &page[OFFSET.into()..][..size_of::<Uuid>()];
    let view = machine.system_space().view();
    // A guest that has its number nowhere cannot find it.
    let _ = view.guest_memory().write_slice(guid, GuestAddress(place));
    if let Some(board) = machine.board() {
        board.general_event(GPE);
    }
}

/// What the file about the place holds once the page is at [`PAGE`].
pub fn placed() -> [u8; 8] {
    (u64::from(PAGE) + u64::from(OFFSET)).to_le_bytes()
}

impl Device for VmGenId {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        // There QEMU has the firmware's device, and no use for it.
        let microvm = machine.kind().board == Board::Microvm;
        if !microvm && !FwCfg::of(machine).is_some_and(|fw| fw.has_dma()) {
            return Err(Error::generic(
                "vmgenid requires DMA write support in fw_cfg, which this machine type does not provide",
            ));
        }
        let known = machine.extension(Known::default);
        if known.0.get().is_some() {
            return Err(Error::generic("at most one vmgenid device is permitted"));
        }
        {
            let mut guid = self.guid.lock().unwrap_or_else(PoisonError::into_inner);
            if guid.is_none() {
                *guid = Some(uuid::random()?);
            }
        }
        known.0.get_or_init(|| Arc::downgrade(&self));
        Ok(())
    }

    fn saved(self: Arc<Self>) -> Saved {
        let fw = self.dev.machine().and_then(|machine| FwCfg::of(&machine));
        let loaded = fw.clone();
        let save = move || VmGenIdState { vmgenid_addr: fw.as_deref().and_then(told).unwrap_or_default() };
        let load = move |VmGenIdState { vmgenid_addr }| {
            let Some(fw) = loaded.as_deref().filter(|fw| told(fw).is_some()) else {
                return if vmgenid_addr == 0 { Ok(()) } else { Err(LoadError::invalid(NO_FILE)) };
            };
            let set = fw.set_file(ADDR_FILE, vmgenid_addr.to_le_bytes());
            set.map_err(|error| LoadError::invalid(error.desc()))
        };
        Saved::one(Section::new(save, load))
    }
}

#[cfg(test)]
mod tests;
