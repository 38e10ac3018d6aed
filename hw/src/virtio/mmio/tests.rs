//! A driver that reaches a slot of a microvm through the physical address space.

use memory::DirtyClient;
use proptest::prelude::*;
use vmstate::vmstate;

use super::*;
use crate::core::{Global, bus, qdev};
use crate::testing::{Rig, carry, config};
use crate::virtio::features::{RING_EVENT_IDX, RING_PACKED, VERSION_1};
use crate::virtio::migration::{BackendState, section};
use crate::virtio::ring::Chain;
use crate::virtio::testing::{Echo, NEEDED};
use crate::virtio::{Outcome, Violation, VirtioCommon, VirtioDevice};

const BASE: u64 = 0xfeb0_0000;
const GSI: u32 = 16;
const DESC: u64 = 0x10_0000;
const BUFFER: u64 = 0x20_0000;

/// The echo device as a back end that plugs into buses.
struct Backend {
    common: VirtioCommon,
    echo: Echo,
}
crate::device_object!(Backend, common.dev);

impl Device for Backend {
    fn dev(&self) -> &DeviceState {
        &self.common.dev
    }
    fn realize(self: Arc<Self>, _machine: &Arc<Machine>) -> Result<()> {
        Ok(())
    }
    fn saved(self: Arc<Self>) -> Saved {
        Saved::Nothing
    }
}

vmstate! {
    /// There is nothing.
    struct EchoState: "virtio-echo-device", version 1 {}
}

impl BackendState for EchoState {
    const SECTION: &'static str = "virtio-echo";
}

impl VirtioDevice for Backend {
    fn name(&self) -> &'static str {
        self.echo.name()
    }
    fn device_id(&self) -> u16 {
        self.echo.device_id()
    }
    fn queue_sizes(&self) -> &[u16] {
        self.echo.queue_sizes()
    }
    fn features(&self) -> u64 {
        self.echo.features()
    }
    fn config(&self) -> Vec<u8> {
        self.echo.config()
    }
    fn serve(&self, queue: u16, buffer: &mut Chain<'_>) -> std::result::Result<Outcome, Violation> {
        self.echo.serve(queue, buffer)
    }
    fn driver_reset(&self) {
        self.echo.driver_reset();
    }
}

impl VirtioBackend for Backend {
    fn common(&self) -> &VirtioCommon {
        &self.common
    }
    fn saved_behind(self: Arc<Self>, carrier: Carrier) -> Saved {
        Saved::one(section(carrier, || EchoState {}, |_| Ok(())))
    }
}

struct Dut {
    rig: Rig,
    backend: Arc<Backend>,
}

impl Dut {
    fn new(legacy: bool) -> Self {
        let rig = Rig::build_with(config("microvm"), |machine| {
            machine.globals().add_user(Global {
                driver: "virtio-mmio".into(),
                property: "force-legacy".into(),
                value: legacy.to_string(),
            });
            Ok(())
        })
        .unwrap();
        let machine = &rig.machine;
        let mut registry = Registry::new();
        registry.register(
            TypeInfo::new("virtio-echo-device")
                .instance(|class: &Arc<Class>| {
                    Arc::new(Backend { common: VirtioCommon::new(class), echo: Echo::default() })
                })
                .cast::<Backend, dyn Device>(|device| device)
                .cast::<Backend, dyn VirtioBackend>(|device| device),
        );
        let backend = registry.create("virtio-echo-device").unwrap().downcast::<Backend>().unwrap();
        backend.common.set_packed(true);
        let find = |name: &str| {
            bus::find(&machine.main_bus(), &mut |bus| (bus.bus().name() == name).then(|| Arc::clone(bus)))
        };
        let bus = find("virtio-mmio-bus.0").unwrap();
        let device: Arc<dyn Device> = Arc::<Backend>::clone(&backend);
        qdev::realize_on(machine, &device, Some(&bus)).unwrap();
        rig.machine.finish().unwrap();
        Self { rig, backend }
    }
    fn get(&self, offset: u64) -> u32 {
        self.rig.machine.system_space().read_uint(BASE + offset, 4).0 as u32
    }
    fn set(&self, offset: u64, value: u32) {
        let _ = self.rig.machine.system_space().write_uint(BASE + offset, 4, value.into());
    }
    fn put(&self, at: u64, bytes: &[u8]) {
        let _ = self.rig.machine.system_space().write(at, bytes);
    }
    fn line(&self) -> bool {
        self.rig.machine.accel().user_chip().unwrap().level(GSI)
    }
    /// Writes a descriptor with its last two fields.
    fn descriptor(&self, index: u64, addr: u64, len: u32, fields: [u16; 2]) {
        let at = DESC + 16 * index;
        self.put(at, &addr.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put(at + 12, &fields[0].to_le_bytes());
        self.put(at + 14, &fields[1].to_le_bytes());
    }
    /// Sends `ping` through a split ring whose available ring is at `avail`; what came back.
    fn echo(&mut self, avail: u64, index: u16) -> [u8; 4] {
        self.put(BUFFER, b"ping");
        self.descriptor(0, BUFFER, 4, [1, 1]);
        self.descriptor(1, BUFFER + 0x100, 16, [2, 0]);
        self.put(avail + 2, &index.to_le_bytes());
        self.notify()
    }
    fn notify(&mut self) -> [u8; 4] {
        assert!(!self.line());
        self.set(0x50, 0);
        self.rig.turn();
        let mut answer = [0; 4];
        let _ = self.rig.machine.system_space().read(BUFFER + 0x100, &mut answer);
        answer
    }
    fn status(&self, value: u32) -> u32 {
        self.set(0x70, value);
        self.get(0x70)
    }
    fn modern(&self, features: u64) {
        assert_eq!([0, 1, 3].map(|status| self.status(status)), [0, 1, 3]);
        for half in 0..2 {
            self.set(0x24, half);
            self.set(0x20, (features >> (32 * half)) as u32);
        }
        assert_eq!(self.status(0xb), 0xb);
        self.set(0x30, 0);
        self.set(0x38, 8);
        for (offset, address) in [(0x80, DESC), (0x90, DESC + 0x1000), (0xa0, DESC + 0x2000)] {
            self.set(offset, address as u32);
            self.set(offset + 4, 0);
        }
        self.set(0x44, 1);
        assert_eq!((self.get(0x44), self.status(0xf)), (1, 0xf));
    }
}

#[test]
fn a_modern_driver_has_its_buffers_served() {
    let mut d = Dut::new(false);
    assert_eq!([0, 4, 8, 0xc].map(|offset| d.get(offset)), [0x7472_6976, 2, 63, 0x554d_4551]);
    d.set(0x14, 1);
    assert_eq!(d.get(0x10) & 0x5, 5, "version 1, packed rings");
    assert_eq!((d.get(0x34), d.get(0xb0)), (8, u32::MAX));
    d.modern(VERSION_1 | NEEDED);
    assert_eq!(&d.echo(DESC + 0x1000, 1), b"ping");
    assert!(d.line());
    assert_eq!(d.get(0x60), 1);
    d.set(0x64, 1);
    assert!(!d.line() && d.get(0x60) == 0);
    assert_eq!(d.rig.machine.system_space().read_uint(BASE + 0x101, 1).0, 2, "a byte of the configuration");
    d.backend.common.notifier.config_changed();
    assert_eq!((d.get(0x60), d.get(0xfc), d.line()), (3, 1, true));
    d.set(0x64, 3);
    // A queue alone, and then all of it.
    d.set(0xc0, 1);
    assert_eq!((d.get(0xc0), d.get(0x44)), (0, 0));
    assert_eq!((d.status(0), *d.backend.echo.resets.lock().unwrap() > 0), (0, true));
}

#[test]
fn a_packed_ring_is_served_too() {
    let mut d = Dut::new(false);
    d.modern(VERSION_1 | NEEDED | RING_PACKED);
    d.put(BUFFER, b"pong");
    d.descriptor(1, BUFFER + 0x100, 16, [5, 2 | 1 << 7]);
    d.descriptor(0, BUFFER, 4, [0, 1 | 1 << 7]);
    assert_eq!(&d.notify(), b"pong");
    assert!(d.line());
}

#[test]
fn a_legacy_driver_has_its_buffers_served() {
    let mut d = Dut::new(true);
    assert_eq!(d.get(4), 1);
    assert_eq!(d.get(0x10) & (1 << 24 | 1 << 27 | 3), 1 << 24 | 1 << 27 | 3);
    d.set(0x14, 1);
    assert_eq!(d.get(0x10), 0, "there are 32 of them");
    // As Linux does it: the size of pages comes before the reset.
    d.set(0x28, 4096);
    assert_eq!([0, 1, 3].map(|status| d.status(status)), [0, 1, 3]);
    d.set(0x20, NEEDED as u32);
    d.set(0x30, 0);
    d.set(0x38, 8);
    d.set(0x3c, 4096);
    d.set(0x40, (DESC >> 12) as u32);
    assert_eq!((d.get(0x40), d.status(7)), ((DESC >> 12) as u32, 7));
    assert_eq!(&d.echo(DESC + 16 * 8, 1), b"ping");
    assert!(d.line());
    assert_eq!(d.rig.machine.system_space().read_uint(DESC + 0x1002, 2).0, 1, "the used ring is on its page");
    d.set(0x40, 0);
    assert_eq!((d.status(0), d.get(0x40), d.line()), (0, 0, false), "page 0 ends it");
}

/// The same slot in another machine, which runs then.
fn carried(from: &Dut, legacy: bool) -> Dut {
    let to = Dut::new(legacy);
    carry::copy_ram(&from.rig.machine, &to.rig.machine, DESC, 0x20_0000);
    carry::carry(&from.rig.machine, &to.rig.machine);
    to.rig.machine.start();
    to
}

#[test]
fn a_driver_goes_on_in_another_machine() {
    for (legacy, features) in [(true, 0), (false, 0), (false, RING_EVENT_IDX)] {
        let mut d = Dut::new(legacy);
        let avail = if legacy { DESC + 16 * 8 } else { DESC + 0x1000 };
        if legacy {
            d.set(0x28, 4096);
            assert_eq!([1, 3].map(|status| d.status(status)), [1, 3]);
            d.set(0x20, NEEDED as u32);
            d.set(0x38, 8);
            d.set(0x3c, 4096);
            d.set(0x40, (DESC >> 12) as u32);
            d.status(7);
        } else {
            d.modern(VERSION_1 | NEEDED | features);
        }
        d.echo(avail, 1);
        assert!(d.line(), "the interrupt that nobody took yet");
        // Offered, and nobody was told: that came too late.
        d.put(BUFFER, b"late");
        d.put(avail + 2, &2u16.to_le_bytes());
        let mut to = carried(&d, legacy);
        assert!(to.line());
        assert_eq!(to.get(0x60), 1);
        to.rig.turn();
        let mut answer = [0; 4];
        let _ = to.rig.machine.system_space().read(BUFFER + 0x100, &mut answer);
        assert_eq!(&answer, b"late");
        to.set(0x64, 1);
        assert_eq!(&to.echo(avail, 3), b"ping");
        assert_eq!(to.line(), features == 0, "no interrupt was wanted for it");
        if legacy {
            assert_eq!(to.get(0x40), (DESC >> 12) as u32, "the size of a page");
        }
    }
}

#[test]
fn a_packed_ring_goes_on_in_another_machine() {
    for features in [0, RING_EVENT_IDX] {
        let mut d = Dut::new(false);
        d.modern(VERSION_1 | NEEDED | RING_PACKED | features);
        let memory = Arc::clone(d.rig.machine.memory());
        memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
        let range = d.rig.machine.system_space().ram_range(DESC, 0x11_0000).unwrap();
        let log = range.block().dirty_log(DirtyClient::Migration).unwrap();
        // Three rounds and a half of a ring of eight entries.
        for round in 0..14u64 {
            let at = 2 * (round % 4);
            let avail = if round / 4 % 2 == 0 { 1 << 7 } else { 1 << 15 };
            let text = format!("p{round:03}");
            d.put(BUFFER, text.as_bytes());
            d.descriptor(at + 1, BUFFER + 0x100, 16, [5, 2 | avail]);
            d.descriptor(at, BUFFER, 4, [0, 1 | avail]);
            if round % 3 == 2 {
                // Nobody was told of it before the machine stopped.
                d = carried(&d, false);
                d.rig.turn();
                let mut answer = [0; 4];
                let _ = d.rig.machine.system_space().read(BUFFER + 0x100, &mut answer);
                assert_eq!(answer, text.as_bytes());
            } else {
                log.clean(range.offset(), range.len());
                assert_eq!(d.notify(), text.as_bytes());
                let dirty = [DESC, DESC + 0x1000, BUFFER].map(|at| log.is_dirty(range.offset() + at - DESC));
                // Of the first machine; the bench writes to the buffer's page only before.
                assert!(round > 2 || dirty == [true, false, true], "{dirty:?}");
            }
            d.set(0x64, 1);
        }
    }
}

#[test]
fn another_kind_of_slot_is_refused() {
    let d = Dut::new(true);
    let state = carry::save(&d.rig.machine);
    let to = Dut::new(false);
    let error = carry::load(&to.rig.machine, &state).unwrap_err();
    assert_eq!(error.lines, ["'force-legacy' differs", "Failed to load virtio-echo:virtio"]);
    carry::spoil(&d.rig.machine, "virtio-echo");
}

#[test]
fn an_empty_slot_has_magic_version_and_vendor() {
    let d = Dut::new(false);
    let read = |offset| d.rig.machine.system_space().read_uint(BASE + SIZE + offset, 4).0;
    assert_eq!([0, 4, 8, 0xc, 0x34, 0x60, 0x100].map(read), [0x7472_6976, 2, 0, 0x554d_4551, 0, 0, 0]);
    assert_eq!(d.rig.machine.system_space().read_uint(BASE, 2).0, 0, "registers are 32 bits wide");
    let _ = d.rig.machine.system_space().write_uint(BASE + SIZE + 0x70, 4, 7);
    assert_eq!(read(0x70), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn random_accesses_end(legacy: bool, writes in proptest::collection::vec((0u64..0x120, any::<u32>(), 0u32..12), 0..200)) {
        let mut d = Dut::new(legacy);
        for (offset, wide, small) in writes {
            d.set(offset & !3, if offset & 1 == 0 { wide } else { small });
            d.get(offset);
            d.rig.turn();
        }
        prop_assert_eq!(d.status(0), 0);
    }
}
