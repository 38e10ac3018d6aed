//! The device from end to end, in one process: a machine whose driver is the test, and a back end that does what a script says.

mod lifecycle;
mod looking;
mod memory;
mod realize;
mod trouble;

use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use ::memory::{Backing, FileBacking, MemfdSpec, RamSpec, RegionDesc, RegionId, create_memfd};
use chardev::ChardevOptions;
use qapi::Result;
use qom::Input;

use super::testing::{BackEnd, LONG, Misdeed, Script, State};
use crate::core::{Device, qdev};
use crate::testing::{Rig, config};

/// Where the disk's registers are.
const BAR4: u64 = 0xc0 << 32;
const COMMON: u64 = BAR4;
const ISR: u64 = BAR4 + 0x1000;
const CONFIG: u64 = BAR4 + 0x2000;
const NOTIFY: u64 = BAR4 + 0x3000;
/// Where its first ring is; the others follow in steps of 64 KiB.
const RING: u64 = 0x10_0000;
const SLOT: u32 = 5;
const RUNNING: u64 = 15;
/// A back end is waited for so short that tests of stalls are over soon, and longer than a busy host may keep one waiting that does not stall.
const IMPATIENT: &str = ",x-pliant-timeout-ms=3000";

/// A machine with shared memory and a disk whose back end is the script's.
struct World {
    rig: Rig,
    back_end: BackEnd,
    _dir: tempfile::TempDir,
}

impl World {
    /// Without the disk; `chardev` is what is added to the options of the character device.
    fn without_disk(script: Script, chardev: &str) -> Self {
        let mut config = config("pc");
        config.options = vec![("memory-backend".into(), "ram0".into())];
        let rig = Rig::build_with(config, |machine| {
            let options = [("size", Input::Keyval("1G")), ("share", Input::Keyval("on"))];
            machine.tree().create_user_object("memory-backend-memfd", "ram0", options).map(drop)
        });
        let rig = rig.unwrap();
        let back_end = BackEnd::new(script);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        back_end.listen(&path);
        let path = path.display().to_string();
        let mut pairs = vec![("backend", "socket"), ("id", "c0"), ("path", path.as_str())];
        pairs.extend(chardev.split_once('='));
        let pairs: Vec<_> = pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        rig.machine.chardevs().add(&ChardevOptions::parse(&pairs).unwrap(), &mut |_| ()).unwrap();
        Self { rig, back_end, _dir: dir }
    }

    /// The back end is waited for longer than a test takes, unless `more` says how long.
    fn try_add(&self, more: &str) -> Result<Arc<dyn Device>> {
        let timeout = if more.contains("timeout-ms") { "" } else { ",x-pliant-timeout-ms=20000" };
        self.rig.add(&format!("vhost-user-blk-pci,id=d0,chardev=c0,addr=5,num-queues=2{timeout}{more}"))
    }

    /// With the disk, the machine running, its registers mapped and bus mastering on.
    fn with(script: Script, chardev: &str) -> Self {
        Self::with_disk("", script, chardev)
    }

    fn with_disk(more: &str, script: Script, chardev: &str) -> Self {
        let world = Self::without_disk(script, chardev);
        world.try_add(more).unwrap();
        world.rig.machine.finish().unwrap();
        world.rig.machine.start();
        world.map();
        world
    }

    fn new() -> Self {
        Self::with(Script::default(), "")
    }

    fn impatient() -> Self {
        Self::with_disk(IMPATIENT, Script::default(), "")
    }

    fn map(&self) {
        for (offset, value) in [(0x14, 0xfebf_0000), (0x20, 0), (0x24, 0xc0), (4, 7)] {
            self.rig.config_write(SLOT, 0, offset, value);
        }
    }

    fn read(&self, addr: u64, size: u8) -> u64 {
        self.rig.machine.system_space().read_uint(addr, size).0
    }

    fn write(&self, addr: u64, size: u8, value: u64) {
        let _ = self.rig.machine.system_space().write_uint(addr, size, value);
    }

    fn status(&self) -> u64 {
        self.read(COMMON + 20, 1)
    }

    fn set_status(&self, status: u64) {
        self.write(COMMON + 20, 1, status);
    }

    /// Addresses of a queue's descriptors, available and used ring.
    fn ring(queue: u64) -> [u64; 3] {
        [0, 0x1000, 0x2000].map(|part| RING + 0x1_0000 * queue + part)
    }

    /// Initialises the device with these queues, up to and including DRIVER_OK.
    fn start_with(&self, queues: &[u64], rings: impl Fn(u64) -> [u64; 3]) {
        self.set_status(3);
        for (select, features) in [(0, 1 << 28), (1, 1)] {
            self.write(COMMON + 8, 4, select);
            self.write(COMMON + 12, 4, features);
        }
        self.set_status(11);
        for &queue in queues {
            self.write(COMMON + 22, 2, queue);
            for (offset, address) in [32, 40, 48].into_iter().zip(rings(queue)) {
                self.write(COMMON + offset, 4, address & 0xffff_ffff);
                self.write(COMMON + offset + 4, 4, address >> 32);
            }
            self.write(COMMON + 28, 2, 1);
        }
        self.set_status(RUNNING);
    }

    /// Starts the device with queue 0 and waits until the back end serves it.
    fn start(&self) {
        self.start_with(&[0], Self::ring);
        drop(self.served());
    }

    /// Waits until the back end serves queue 0.
    #[track_caller]
    fn served(&self) -> MutexGuard<'_, State> {
        self.back_end.wait(|state| state.rings.get(&0).is_some_and(|ring| ring.enabled))
    }

    /// Resets the device as a driver does.
    fn reset(&self) {
        self.set_status(0);
        let begin = Instant::now();
        while self.status() != 0 {
            assert!(begin.elapsed() < LONG, "the reset does not end");
            std::thread::yield_now();
        }
    }

    /// Turns the main loop until `done`.
    #[track_caller]
    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(begin.elapsed() < LONG, "nothing happened; requests: {:?}", self.back_end.state().log);
            // A short limit, because another thread may be what makes it true.
            self.rig.main.turn(Some(std::time::Duration::from_millis(5))).unwrap();
        }
    }

    /// Maps a page of shared memory at a guest address, and gives what unmaps it.
    fn map_page(&self, addr: u64) -> RegionId {
        let file = create_memfd(&MemfdSpec { name: "page", ..Default::default() }, 4096).unwrap();
        let backing = Backing::File(FileBacking { file, offset: 0, shared: true, readonly_fd: false });
        let memory = self.rig.machine.memory();
        let block = memory.create_ram(RamSpec::anonymous("page", 4096).backing(backing)).unwrap();
        let mut tx = memory.transaction();
        let region = tx.ram(RegionDesc::new("page", 4096), block);
        tx.add_subregion(self.rig.machine.system_region(), addr, region, 0);
        region
    }

    fn unmap(&self, region: RegionId) {
        self.rig.machine.memory().transaction().destroy(region).unwrap();
    }

    fn is_served(&self) -> bool {
        let devices = crate::virtio::query::devices(self.rig.machine.tree());
        let status = crate::virtio::query::device_status(&self.rig.machine, &devices[0].path).unwrap();
        status.vhost_started
    }

    /// Whether the machine answers: its other devices work.
    fn is_alive(&self) -> bool {
        self.rig.config_read(0, 0, 0) == 0x1237_8086
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Threads of the device end with it, not with the process of the test.
        if let Some(device) = self.rig.machine.tree().container("/machine/peripheral").core().child("d0") {
            let device = qom::cast::<dyn Device>(&device).unwrap();
            qdev::complete_unplug(&self.rig.machine, &device);
        }
    }
}
