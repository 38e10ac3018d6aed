//! A machine without vCPUs, a main loop that is turned by hand, and the guest's driver on top.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use accel::AccelSpec;
use guest::bus::Bus;
use guest::pci::Function;
use guest::virtio::Transport;
use mainloop::MainLoop;
use memory::Memory;
use qapi::events::Event;
use qapi::{Result, Value};
use qom::{Input, ObjectRef, Registry, Tree};

use crate::core::machine::Host;
use crate::core::qdev;
use crate::core::{Device, Machine, MachineConfig, MemoryConfig};
use crate::mem::MemoryDevices;

pub(super) const M: u64 = 1 << 20;
pub(super) const G: u64 = 1 << 30;

/// Guest RAM the rings are in.
const RINGS: u64 = 0x40_0000;

pub(super) struct Rig {
    pub(super) machine: Arc<Machine>,
    main: MainLoop,
    events: Arc<Mutex<Vec<Event>>>,
}

/// What holds the machine in a circle lets go of it: thousands of random cases give their memory and descriptors back.
impl Drop for Rig {
    fn drop(&mut self) {
        self.machine.shut_down();
    }
}

impl Rig {
    /// `-machine KIND -m 1G,maxmem=8G` and nothing else yet.
    pub(super) fn new(kind: &str) -> Self {
        Self::with_memory(kind, Some(8 * G))
    }

    pub(super) fn with_memory(kind: &str, maxmem: Option<u64>) -> Self {
        let memory = Memory::new();
        let mut registry = Registry::new();
        Tree::register(&mut registry);
        memory::register(&mut registry, &memory);
        crate::register(&mut registry);
        let main = MainLoop::new().unwrap();
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let sink = Arc::clone(&events);
        let accel = accel::open(&[AccelSpec::option("qtest")]).unwrap().accel;
        let host = Host {
            tree: Arc::new(Tree::new(registry)),
            memory,
            accel,
            mainloop: main.handle(),
            chardevs: Arc::new(chardev::ChardevSet::new(main.handle())),
            net: net::NetSet::new(main.handle(), Arc::default()),
            events: Arc::new(move |event, _| sink.lock().unwrap().push(event)),
        };
        let config = MachineConfig {
            machine: Some(kind.into()),
            memory: MemoryConfig { size: Some(G), maxmem, slots: None },
            ..MachineConfig::default()
        };
        let machine = Machine::new(config, host).unwrap();
        machine.init().unwrap();
        Self { machine, main, events }
    }

    /// The usual device: `-object memory-backend-ram,id=mem0,size=1G -device virtio-mem-pci,id=vm0,memdev=mem0,…`.
    pub(super) fn with_device(kind: &str, requested: &str) -> Self {
        let rig = Self::new(kind);
        rig.backend("memory-backend-ram", "mem0", "1G", &[]).unwrap();
        rig.device(&[("id", "vm0"), ("memdev", "mem0"), ("requested-size", requested)]).unwrap();
        rig.machine.finish().unwrap();
        rig
    }

    pub(super) fn backend(
        &self,
        kind: &str,
        id: &str,
        size: &str,
        more: &[(&str, &str)],
    ) -> Result<ObjectRef> {
        let all = [("size", size)].into_iter().chain(more.iter().copied());
        self.machine.tree().create_user_object(kind, id, all.map(|(k, v)| (k, Input::Keyval(v))))
    }

    /// `-device virtio-mem-pci,…`.
    pub(super) fn device(&self, options: &[(&str, &str)]) -> Result<Arc<dyn Device>> {
        let mut all = vec![("driver", Input::Option("virtio-mem-pci"))];
        all.extend(options.iter().map(|(k, v)| (*k, Input::Option(v))));
        qdev::device_add(&self.machine, &all)
    }

    /// The error of a `-device`.
    pub(super) fn refused(&self, options: &[(&str, &str)]) -> String {
        self.device(options).err().expect("refused").desc().to_owned()
    }

    pub(super) fn vm0(&self) -> ObjectRef {
        self.machine.tree().absolute("/machine/peripheral/vm0").expect("there is a vm0")
    }

    pub(super) fn set(&self, name: &str, value: &str) -> Result<()> {
        self.vm0().set(name, Input::Text(value))
    }

    pub(super) fn get(&self, name: &str) -> Value {
        self.vm0().get(name).unwrap()
    }

    pub(super) fn size(&self) -> u64 {
        self.get("size").as_u64().unwrap()
    }

    pub(super) fn devices(&self) -> Arc<MemoryDevices> {
        MemoryDevices::of(&self.machine)
    }

    /// Runs what is posted and ready.
    pub(super) fn turn(&mut self) {
        for _ in 0..3 {
            self.main.turn(Some(Duration::ZERO)).unwrap();
        }
    }

    /// Names of the events since the last call.
    pub(super) fn event_names(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.events.lock().unwrap()).iter().map(Event::name).collect()
    }

    /// Sizes of `MEMORY_DEVICE_SIZE_CHANGE` since the last call.
    pub(super) fn sizes(&self) -> Vec<u64> {
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        let size = |event: Event| match event {
            Event::MemoryDeviceSizeChange { id, size, qom_path } => {
                assert_eq!((id.as_deref(), &*qom_path), (Some("vm0"), "/machine/peripheral/vm0"));
                Some(size)
            }
            _ => None,
        };
        events.into_iter().filter_map(size).collect()
    }

    /// `system_reset`.
    pub(super) fn system_reset(&mut self) {
        self.machine.request_reset(qapi::types::ShutdownCause::HostQmpSystemReset);
        self.turn();
    }

    pub(super) fn function(&mut self) -> Function {
        let mut found = None;
        guest::pci::scan(self, |_, function, vendor, device| {
            if (vendor, device) == (0x1af4, 0x1058) && found.is_none() {
                found = Some(function);
            }
        });
        found.expect("a virtio-mem function")
    }

    /// Gives the function's BARs addresses, as firmware does; there is none here.
    pub(super) fn assign_bars(&mut self) -> Function {
        let function = self.function();
        for (register, value) in [(0x14, 0xfebf_0000), (0x20, 0), (0x24, 0xc0)] {
            function.write32(self, register, value);
        }
        function
    }

    pub(super) fn transport(&mut self) -> Transport {
        let function = self.assign_bars();
        Transport::open(self, function).unwrap()
    }
}

impl Bus for Rig {
    fn in8(&mut self, port: u16) -> u8 {
        self.machine.io_space().read_uint(port.into(), 1).0 as u8
    }
    fn in16(&mut self, port: u16) -> u16 {
        self.machine.io_space().read_uint(port.into(), 2).0 as u16
    }
    fn in32(&mut self, port: u16) -> u32 {
        self.machine.io_space().read_uint(port.into(), 4).0 as u32
    }
    fn out8(&mut self, port: u16, value: u8) {
        let _ = self.machine.io_space().write_uint(port.into(), 1, value.into());
    }
    fn out16(&mut self, port: u16, value: u16) {
        let _ = self.machine.io_space().write_uint(port.into(), 2, value.into());
    }
    fn out32(&mut self, port: u16, value: u32) {
        let _ = self.machine.io_space().write_uint(port.into(), 4, value.into());
    }
    fn mmio_read8(&mut self, addr: u64) -> u8 {
        self.machine.system_space().read_uint(addr, 1).0 as u8
    }
    fn mmio_read16(&mut self, addr: u64) -> u16 {
        self.machine.system_space().read_uint(addr, 2).0 as u16
    }
    fn mmio_read32(&mut self, addr: u64) -> u32 {
        self.machine.system_space().read_uint(addr, 4).0 as u32
    }
    fn mmio_read64(&mut self, addr: u64) -> u64 {
        self.machine.system_space().read_uint(addr, 8).0
    }
    fn mmio_write8(&mut self, addr: u64, value: u8) {
        let _ = self.machine.system_space().write_uint(addr, 1, value.into());
    }
    fn mmio_write16(&mut self, addr: u64, value: u16) {
        let _ = self.machine.system_space().write_uint(addr, 2, value.into());
    }
    fn mmio_write32(&mut self, addr: u64, value: u32) {
        let _ = self.machine.system_space().write_uint(addr, 4, value.into());
    }
    fn mmio_write64(&mut self, addr: u64, value: u64) {
        let _ = self.machine.system_space().write_uint(addr, 8, value);
    }
    fn ram_read(&mut self, addr: u64, buf: &mut [u8]) {
        let _ = self.machine.system_space().read(addr, buf);
    }
    fn ram_write(&mut self, addr: u64, buf: &[u8]) {
        let _ = self.machine.system_space().write(addr, buf);
    }
    fn idle(&mut self) {
        self.turn();
    }
    fn relax(&mut self) {
        self.turn();
    }
    fn now_ns(&mut self) -> u64 {
        0
    }
}

/// The bytes of a request.
pub(super) fn request(kind: u16, addr: u64, blocks: u16) -> [u8; 24] {
    let mut request = [0; 24];
    request[0..2].copy_from_slice(&kind.to_le_bytes());
    request[8..16].copy_from_slice(&addr.to_le_bytes());
    request[16..18].copy_from_slice(&blocks.to_le_bytes());
    request
}

/// A driver that sends whatever bytes it is told to.
pub(super) struct Raw {
    pub(super) rig: Rig,
    pub(super) common: u64,
    sent: u16,
}

impl Raw {
    /// Negotiates `features` and sets the queue up; panics if the device refuses.
    pub(super) fn new(rig: Rig, features: u64) -> Self {
        let mut raw = Self { rig, common: 0, sent: 0 };
        let function = raw.rig.function();
        raw.rig.transport();
        raw.common = function.bar(&mut raw.rig, 4).unwrap();
        raw.start(features);
        raw
    }

    pub(super) fn negotiate(&mut self, features: u64) -> u8 {
        let rig = &mut self.rig;
        rig.mmio_write8(self.common + 20, 0);
        rig.mmio_write8(self.common + 20, 3);
        for half in 0..2 {
            rig.mmio_write32(self.common + 8, half);
            rig.mmio_write32(self.common + 12, (features >> (32 * half)) as u32);
        }
        rig.mmio_write8(self.common + 20, 0xb);
        rig.mmio_read8(self.common + 20)
    }

    pub(super) fn start(&mut self, features: u64) {
        assert_eq!(self.negotiate(features), 0xb);
        self.sent = 0;
        let rig = &mut self.rig;
        rig.ram_write(RINGS, &[0; 0x4000]);
        for (register, part) in [(32, 0), (40, 0x1000), (48, 0x2000)] {
            rig.mmio_write32(self.common + register, (RINGS + part) as u32);
            rig.mmio_write32(self.common + register + 4, 0);
        }
        rig.mmio_write16(self.common + 28, 1);
        rig.mmio_write8(self.common + 20, 0xf);
    }

    pub(super) fn status(&mut self) -> u8 {
        self.rig.mmio_read8(self.common + 20)
    }

    pub(super) fn isr(&mut self) -> u8 {
        self.rig.mmio_read8(self.common + 0x1000)
    }

    pub(super) fn generation(&mut self) -> u8 {
        self.rig.mmio_read8(self.common + 21)
    }

    pub(super) fn config(&mut self, offset: u64) -> u64 {
        self.rig.mmio_read64(self.common + 0x2000 + offset)
    }

    /// (usable, plugged, requested)
    pub(super) fn sizes(&mut self) -> (u64, u64, u64) {
        (self.config(32), self.config(40), self.config(48))
    }

    /// Sends `request` with room for `room` bytes; what came back, `None` without an answer.
    pub(super) fn send(&mut self, request: &[u8], room: u32) -> Option<Vec<u8>> {
        let before = self.used();
        self.put(request, room);
        self.rig.turn();
        self.answer(before)
    }

    /// The answer that follows `before` others, if it is there.
    pub(super) fn answer(&mut self, before: u16) -> Option<Vec<u8>> {
        if self.used() == before {
            return None;
        }
        let mut len = [0; 4];
        self.rig.ram_read(RINGS + 0x2000 + 4 + 8 * u64::from(before % 128) + 4, &mut len);
        let mut bytes = vec![0; u32::from_le_bytes(len) as usize];
        self.rig.ram_read(RINGS + 0x3800, &mut bytes);
        Some(bytes)
    }

    /// Makes `request` available and notifies; the main loop does not turn.
    pub(super) fn put(&mut self, request: &[u8], room: u32) {
        let (out, answer) = (RINGS + 0x3000, RINGS + 0x3800);
        self.rig.ram_write(out, request);
        let next = if room > 0 { 1 } else { 0 };
        let mut table = Vec::new();
        for (addr, len, flags) in [(out, request.len() as u32, next), (answer, room, 2u16)] {
            table.extend(addr.to_le_bytes());
            table.extend(len.to_le_bytes());
            table.extend(flags.to_le_bytes());
            table.extend(next.to_le_bytes());
        }
        self.rig.ram_write(RINGS, &table);
        self.rig.ram_write(RINGS + 0x1000 + 4 + 2 * u64::from(self.sent % 128), &[0, 0]);
        self.sent = self.sent.wrapping_add(1);
        let sent = self.sent;
        self.rig.ram_write16(RINGS + 0x1002, sent);
        self.rig.mmio_write16(self.common + 0x3000, 0);
    }

    pub(super) fn used(&mut self) -> u16 {
        self.rig.ram_read16(RINGS + 0x2002)
    }

    /// Sends a well-formed request; (response type, state).
    pub(super) fn ask(&mut self, kind: u16, addr: u64, blocks: u16) -> (u16, u16) {
        let answer = self.send(&request(kind, addr, blocks), 10).expect("an answer");
        assert_eq!(answer.len(), 10);
        (u16::from_le_bytes([answer[0], answer[1]]), u16::from_le_bytes([answer[8], answer[9]]))
    }

    pub(super) fn plug(&mut self, addr: u64, blocks: u16) -> u16 {
        self.ask(0, addr, blocks).0
    }
    pub(super) fn unplug(&mut self, addr: u64, blocks: u16) -> u16 {
        self.ask(1, addr, blocks).0
    }
    pub(super) fn unplug_all(&mut self) -> u16 {
        self.ask(2, 0x1234, 77).0
    }
    pub(super) fn state(&mut self, addr: u64, blocks: u16) -> (u16, u16) {
        self.ask(3, addr, blocks)
    }
}
