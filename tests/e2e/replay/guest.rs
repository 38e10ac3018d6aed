//! Whoever drives the virtio-mem devices while a session is played: nobody, the test itself through qtest, or a real guest.

use serde_json::Value;
use tests::WireError;
use tests::pci::{Function, open_bridge};
use tests::virtio_mem::{IDS, Kind};

use super::Player;

/// The driver of the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    /// The transcript says itself what the driver did.
    Absent,
    /// The test does what a Linux guest did: it follows the requested size, from the start of the region on.
    InTest,
    /// A guest on a vCPU.
    Real,
}

impl Player {
    /// Lets the guest follow the requested sizes; whether another look may show something new.
    pub(super) fn settle(&mut self) -> bool {
        match self.guest {
            Guest::Absent => false,
            Guest::InTest => {
                let count = self.devices();
                let moved: Vec<bool> = (0..count).map(|nth| self.follow(nth)).collect();
                moved.contains(&true)
            }
            // An event tells of each change sooner or later. Patience ends at the same time for all steps.
            Guest::Real => match self.vm.qmp().recv() {
                Ok(_) => true,
                Err(WireError::Deadline { .. }) => {
                    self.guest = Guest::Absent;
                    false
                }
                Err(e) => panic!("waiting for the guest: {e}"),
            },
        }
    }

    /// How many virtio-mem devices there are.
    fn devices(&mut self) -> u64 {
        let qtest = self.vm.qtest();
        let mut count = Function::find(qtest, 0, IDS.0, IDS.1).len();
        for port in Function::find(qtest, 0, 0x1b36, 0x000c) {
            open_bridge(qtest, port, 1);
            count += Function::find(qtest, 1, IDS.0, IDS.1).len();
        }
        count as u64
    }

    /// Plugs or unplugs until the plugged size is the requested size; whether that changed anything.
    fn follow(&mut self, nth: u64) -> bool {
        let config = self.drive(nth, |driver, qtest| driver.config(qtest));
        let (have, want) = (config.plugged_size, config.requested_size);
        let (kind, from, to) =
            if have < want { (Kind::Plug, have, want) } else { (Kind::Unplug, want, have) };
        let mut at = from;
        while at < to {
            let blocks = ((to - at) / config.block_size).min(u16::MAX.into()) as u16;
            let answer =
                self.drive(nth, |driver, qtest| driver.request(qtest, kind, config.addr + at, blocks));
            assert_eq!(answer, "ACK", "{kind:?} {blocks} blocks at {at:#x}");
            at += u64::from(blocks) * config.block_size;
        }
        // A Linux driver that has unplugged everything says so once more, and the usable region shrinks.
        have != want
    }

    /// An unplug request that the program accepts, and the guest's part in it.
    pub(super) fn unplug(&mut self, id: &str, command: &str) {
        // The plugged memory must be gone before.
        self.settle();
        let got = self.vm.hmp().run(command);
        self.report.text(id, &format!("(qemu) {command}"), "", got.trim_end());
        if got.is_empty() {
            self.eject();
        }
    }

    /// Ejects the device that waits for it, through the ports that ACPI's code would use, and waits for the end.
    pub(super) fn eject(&mut self) {
        if self.guest == Guest::InTest {
            let device = *self.drivers.get(&0).map(|driver| &driver.function).expect("it was driven before");
            let pc = self.vm.command_line().iter().any(|arg| arg == "pc");
            let base = if pc { 0xae00 } else { 0xcc0 };
            let qtest = self.vm.qtest();
            qtest.out(base + 0x10, 4, 0);
            qtest.out(base + 8, 4, 1 << device.device);
            self.drivers.remove(&0);
        }
        self.vm.qmp().wait_event("DEVICE_DELETED", |event: &Value| event["data"].get("device").is_some());
    }
}
