//! The firmware configuration device: numbered items, and files with names, that a guest reads through ports 510h and 511h or
//! has copied by DMA through 514h (QEMU `docs/specs/fw_cfg.rst`).
//!
//! The board fills it (`i386::fw_files`), `-fw_cfg` adds files, devices may have some that the guest writes. A copy that the
//! guest asks for reaches RAM only, is made in pieces while no lock is held, and ends at the first address that is not there.
//! A machine that arrives from elsewhere has the files of its own command line and board; those that the guest wrote come with the devices
//! that they belong to. A guest that was reading a file goes on in this one, which is the same unless devices were plugged meanwhile.
//! Left out: the memory-mapped variant, what SMM and option ROMs have there.

mod contents;
mod dma;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use memory::{AccessConstraints, MemTx, RegionOps};
use qapi::{Error, Result};
use qom::{Class, ObjectRef, Property, Registry, TypeInfo};
use vmstate::{LoadError, Saved, Section, vmstate};

pub use self::contents::{Contents, Source, Written};
use self::contents::{Item, directory};
use super::Ports;
use crate::core::device::{Device, DeviceClass, DeviceState, ResetKind};
use crate::core::machine::Machine;

/// Keys of items.
pub mod key {
    /// `QEMU`.
    pub const SIGNATURE: u16 = 0x00;
    /// Bit 0: the ports; bit 1: DMA.
    pub const ID: u16 = 0x01;
    /// The 16 bytes of `-uuid`.
    pub const UUID: u16 = 0x02;
    /// Bytes of RAM, 64 bits.
    pub const RAM_SIZE: u16 = 0x03;
    /// 1 with `-nographic`, 16 bits.
    pub const NOGRAPHIC: u16 = 0x04;
    /// vCPUs at the start, 16 bits.
    pub const NB_CPUS: u16 = 0x05;
    /// Where the kernel's protected-mode code goes; its size; its bytes.
    pub const KERNEL: Part = Part { address: 0x07, size: 0x08, data: 0x11 };
    /// The same of the initial RAM disk.
    pub const INITRD: Part = Part { address: 0x0a, size: 0x0b, data: 0x12 };
    /// The same of the command line.
    pub const COMMAND_LINE: Part = Part { address: 0x13, size: 0x14, data: 0x15 };
    /// The same of the kernel's setup code.
    pub const SETUP: Part = Part { address: 0x16, size: 0x17, data: 0x18 };
    /// Nodes, the node of each APIC ID, RAM of each node; 64 bits each.
    pub const NUMA: u16 = 0x0d;
    /// Whether there is a boot menu, 16 bits.
    pub const BOOT_MENU: u16 = 0x0e;
    /// APIC IDs there may be, 16 bits.
    pub const MAX_CPUS: u16 = 0x0f;
    /// Where an ELF kernel is entered.
    pub const KERNEL_ENTRY: u16 = 0x10;
    /// The list of files.
    pub const FILE_DIR: u16 = 0x19;
    /// The first file.
    pub const FILE_FIRST: u16 = 0x20;
    /// Items of one architecture.
    pub const ARCH_LOCAL: u16 = 0x8000;
    /// Interrupt 0 is input 2 of the I/O APIC, 32 bits.
    pub const IRQ0_OVERRIDE: u16 = ARCH_LOCAL + 2;

    /// Three items about a part of a kernel.
    #[derive(Debug, Clone, Copy)]
    pub struct Part {
        /// Physical address, 32 bits.
        pub address: u16,
        /// Bytes, 32 bits.
        pub size: u16,
        /// The bytes.
        pub data: u16,
    }
}

const PORT: u64 = 0x510;
const DMA_PORT: u64 = 0x514;
/// Bits of a key that choose an item; the others are the architecture and a channel that nobody uses.
const ITEM: u16 = 0x3fff;
const CHANNEL: u16 = 0x4000;
const SLOTS: u32 = 32;
const SLOTS_MIN: u32 = 0x10;
const SLOTS_MAX: u32 = (ITEM - key::FILE_FIRST + 1) as u32;
/// Bytes of a file's name, without the terminator.
const NAME_MAX: usize = 55;
const HAS_DMA: u32 = 2;

/// The device.
pub struct FwCfg {
    dev: DeviceState,
    ports: Ports,
    dma: AtomicBool,
    slots: AtomicU32,
    /// Remembered; tables never change in size while a machine runs.
    acpi_restore: AtomicBool,
    machine: OnceLock<Weak<Machine>>,
    state: Mutex<State>,
}
crate::device_object!(FwCfg, dev);

#[derive(Default)]
struct State {
    /// The item chosen, if there can be such a one.
    selected: Option<u16>,
    /// The next byte of it.
    offset: u64,
    /// Upper half of the address of a DMA request.
    dma_high: u32,
    items: BTreeMap<u16, Item>,
    files: BTreeMap<String, Item>,
}

impl State {
    fn item(&mut self, key: u16) -> Option<&mut Item> {
        if key & key::ARCH_LOCAL == 0
            && let Some(index) = key.checked_sub(key::FILE_FIRST)
        {
            return self.files.values_mut().nth(index.into());
        }
        self.items.get_mut(&key)
    }

    fn current(&mut self) -> Option<&mut Item> {
        let key = self.selected?;
        self.item(key)
    }

    fn list_files(&mut self) {
        let list = directory(self.files.iter());
        self.items.insert(key::FILE_DIR, Item::of(list.into()));
    }
}

/// In [`FwCfgState`]: nothing is chosen.
const NO_ENTRY: u16 = 0xffff;

vmstate! {
    /// What a migration takes along.
    pub struct FwCfgState: "fw_cfg", version 1 {
        /// The key of the chosen item, or ffffh.
        cur_entry: u16,
        /// The next byte of it.
        cur_offset: u64,
        /// Upper half of the address of a DMA request.
        dma_addr_high: u32,
    }
}

/// Where a machine keeps its device.
#[derive(Default)]
struct Known(OnceLock<Weak<FwCfg>>);

pub(super) fn register(registry: &mut Registry) {
    let flag = |name: &'static str, field: fn(&FwCfg) -> &AtomicBool| {
        Property::new(name, "bool")
            .default(true)
            .description("on/off")
            .get(move |d: &FwCfg| Ok(field(d).load(Relaxed).into()))
            .set(move |d: &FwCfg, v, name| {
                field(d).store(v.to_bool(name)?, Relaxed);
                Ok(())
            })
    };
    registry.register(
        TypeInfo::new("fw_cfg_io")
            .parent("device")
            .extension(DeviceClass::internal_on("System"))
            .instance(|class: &Arc<Class>| {
                Arc::new(FwCfg {
                    dev: DeviceState::new(class),
                    ports: Ports::default(),
                    dma: AtomicBool::new(true),
                    slots: AtomicU32::new(SLOTS),
                    acpi_restore: AtomicBool::new(true),
                    machine: OnceLock::new(),
                    state: Mutex::default(),
                })
            })
            .cast::<FwCfg, dyn Device>(|d| d)
            .property(flag("dma_enabled", |d| &d.dma))
            .property(
                Property::new("x-file-slots", "uint16")
                    .default(SLOTS)
                    .get(|d: &FwCfg| Ok(d.slots.load(Relaxed).into()))
                    .set(|d: &FwCfg, v, name| {
                        d.slots.store(v.to_uint(name, 16)? as u32, Relaxed);
                        Ok(())
                    }),
            )
            .property(flag("acpi-mr-restore", |d| &d.acpi_restore)),
    );
}

impl Device for FwCfg {
    fn dev(&self) -> &DeviceState {
        &self.dev
    }

    fn realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let slots = self.slots.load(Relaxed);
        if slots < SLOTS_MIN {
            return Err(Error::generic(format!("\"file_slots\" must be at least {SLOTS_MIN:#x}")));
        }
        if slots > SLOTS_MAX {
            return Err(Error::generic(format!("\"file_slots\" must not exceed {SLOTS_MAX:#x}")));
        }
        self.machine.get_or_init(|| Arc::downgrade(machine));
        let owner: ObjectRef = Arc::<Self>::clone(&self);
        let ops = Arc::new(Selector(Arc::downgrade(&self)));
        self.ports.map(machine, &owner, "fwcfg", PORT, 2, ops);
        let mut id = 1;
        if self.has_dma() {
            let ops = Arc::new(DmaAddress(Arc::downgrade(&self)));
            self.ports.map(machine, &owner, "fwcfg.dma", DMA_PORT, 8, ops);
            id |= HAS_DMA;
        }
        self.set(key::SIGNATURE, *b"QEMU");
        self.set(key::ID, id.to_le_bytes());
        self.lock().list_files();
        machine.extension(Known::default).0.get_or_init(|| Arc::downgrade(&self));
        Ok(())
    }

    fn unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        self.ports.unmap(machine);
    }

    fn saved(self: Arc<Self>) -> Saved {
        let loaded = Arc::clone(&self);
        let save = move || {
            let State { selected, offset, dma_high, items: _, files: _ } = &*self.lock();
            FwCfgState {
                cur_entry: selected.unwrap_or(NO_ENTRY),
                cur_offset: *offset,
                dma_addr_high: *dma_high,
            }
        };
        Saved::one(Section::new(save, move |state| loaded.load(state)))
    }

    fn reset(&self, _kind: ResetKind) {
        self.select(key::SIGNATURE);
        self.lock().dma_high = 0;
    }
}

impl FwCfg {
    /// The device of a machine that has one.
    pub fn of(machine: &Machine) -> Option<Arc<Self>> {
        machine.extension(Known::default).0.get()?.upgrade()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Items are put in whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether guests may write files.
    pub fn has_dma(&self) -> bool {
        self.dma.load(Relaxed)
    }

    /// Sets an item that has no name.
    pub fn set(&self, key: u16, contents: impl Into<Contents>) {
        self.lock().items.insert(key, Item::of(contents.into()));
    }

    /// Whether a file can have that name.
    ///
    /// # Errors
    /// `name too long (max. 55 char)`
    pub fn check_name(name: &str) -> Result<()> {
        if name.len() > NAME_MAX {
            return Err(Error::generic(format!("name too long (max. {NAME_MAX} char)")));
        }
        Ok(())
    }

    /// Adds a file.
    ///
    /// # Errors
    /// `duplicate fw_cfg file name: x`; the name is too long; there are `x-file-slots` already.
    pub fn add_file(&self, name: &str, contents: impl Into<Contents>) -> Result<()> {
        self.insert(name, Item::of(contents.into()))
    }

    /// Adds a file that the guest may write; `written` gets all of it then, on the thread of a vCPU.
    ///
    /// # Errors
    /// As [`FwCfg::add_file`].
    pub fn add_writable(
        &self,
        name: &str,
        contents: Vec<u8>,
        written: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> Result<()> {
        self.insert(name, Item { contents: contents.into(), written: Some(Arc::new(written)) })
    }

    fn insert(&self, name: &str, item: Item) -> Result<()> {
        Self::check_name(name)?;
        let mut state = self.lock();
        if state.files.contains_key(name) {
            return Err(Error::generic(format!("duplicate fw_cfg file name: {name}")));
        }
        if state.files.len() >= self.slots.load(Relaxed) as usize {
            return Err(Error::generic(format!(
                "no room for fw_cfg file {name}: see fw_cfg_io.x-file-slots"
            )));
        }
        state.files.insert(name.to_owned(), item);
        state.list_files();
        Ok(())
    }

    /// Replaces what is in a file, or adds it.
    ///
    /// # Errors
    /// As [`FwCfg::add_file`] for a new one.
    pub fn set_file(&self, name: &str, contents: impl Into<Contents>) -> Result<()> {
        {
            let mut state = self.lock();
            if let Some(item) = state.files.get_mut(name) {
                item.contents = contents.into();
                state.list_files();
                return Ok(());
            }
        }
        self.add_file(name, contents)
    }

    /// What a file holds that is in memory.
    pub fn file(&self, name: &str) -> Option<Arc<Vec<u8>>> {
        match &self.lock().files.get(name)?.contents {
            Contents::Bytes(bytes) => Some(Arc::clone(bytes)),
            Contents::Source(_) => None,
        }
    }

    fn load(&self, FwCfgState { cur_entry, cur_offset, dma_addr_high }: FwCfgState) -> vmstate::Result<()> {
        if cur_entry != NO_ENTRY && self.entry(cur_entry) != Some(cur_entry) {
            return Err(LoadError::invalid(format!("fw_cfg: there is no item {cur_entry:#x}")));
        }
        self.select(cur_entry);
        let mut state = self.lock();
        (state.offset, state.dma_high) = (cur_offset, dma_addr_high);
        Ok(())
    }

    /// The item that `key` chooses, if there can be such a one.
    fn entry(&self, key: u16) -> Option<u16> {
        let past = u32::from(key::FILE_FIRST) + self.slots.load(Relaxed);
        (u32::from(key & ITEM) < past).then_some(key & !CHANNEL)
    }

    fn select(&self, key: u16) {
        let selected = self.entry(key);
        let mut state = self.lock();
        state.selected = selected;
        state.offset = 0;
    }

    /// The next byte of the item; 0 after its end.
    fn next_byte(&self) -> u8 {
        let mut state = self.lock();
        let offset = state.offset;
        let Some(item) = state.current().filter(|item| offset < item.contents.len()) else { return 0 };
        let contents = item.contents.clone();
        state.offset += 1;
        drop(state);
        let mut byte = [0];
        // A file that has become shorter ends.
        if contents.read(offset, &mut byte) { byte[0] } else { 0 }
    }

    fn set_dma_high(&self, high: u32) {
        self.lock().dma_high = high;
    }

    fn run_dma(&self, low: u32) {
        let high = std::mem::take(&mut self.lock().dma_high);
        let Some(machine) = self.machine.get().and_then(Weak::upgrade) else { return };
        dma::run(self, machine.system_space(), u64::from(high) << 32 | u64::from(low));
    }
}

/// Ports 510h and 511h: two bytes written choose an item, each byte read is its next one, bytes written are lost.
struct Selector(Weak<FwCfg>);

impl RegionOps for Selector {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        self.0.upgrade().map_or(0, |device| device.next_byte().into())
    }

    fn write(&self, _offset: u64, size: u8, value: u64) {
        if let Some(device) = self.0.upgrade().filter(|_| size == 2) {
            device.select(value as u16);
        }
    }

    fn try_read(&self, offset: u64, size: u8) -> (u64, MemTx) {
        if size == 1 { (self.read(offset, size), MemTx::Ok) } else { (0, MemTx::DecodeError) }
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 2).implemented(1, 2)
    }
}

/// Ports 514h to 51Bh: the address of a DMA request, big-endian; the lower half starts it.
struct DmaAddress(Weak<FwCfg>);

impl RegionOps for DmaAddress {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let bytes = u64::from_le_bytes(*b"QEMU CFG") >> (8 * (offset & 7));
        if size < 8 { bytes & ((1 << (8 * size)) - 1) } else { bytes }
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        let Some(device) = self.0.upgrade() else { return };
        match (offset, size) {
            (0, 4) => device.set_dma_high((value as u32).swap_bytes()),
            (4, 4) => device.run_dma((value as u32).swap_bytes()),
            (0, 8) => {
                let address = value.swap_bytes();
                device.set_dma_high((address >> 32) as u32);
                device.run_dma(address as u32);
            }
            _ => {}
        }
    }

    fn try_write(&self, offset: u64, size: u8, value: u64) -> MemTx {
        if !matches!((offset, size), (0 | 4, 4) | (0, 8)) {
            return MemTx::DecodeError;
        }
        self.write(offset, size, value);
        MemTx::Ok
    }

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 8).implemented(1, 8)
    }
}

#[cfg(test)]
mod tests;
