//! Whatever a driver does with its table, each signal is one interrupt: sent by the accelerator, heard by the watch, or pending.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mainloop::MainLoop;
use memory::{AddressSpace, Memory, RamSpec, RegionDesc};
use proptest::prelude::*;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::super::{Msix, MsixSource};
use super::*;

/// A chip that takes events, or does not; it is asked to look at those that are connected.
#[derive(Default)]
struct Chip {
    no_events: AtomicBool,
    sent: Mutex<Vec<u32>>,
    connected: Mutex<Vec<(Arc<EventFd>, u32)>>,
}

impl Chip {
    /// What the accelerator does by itself: delivers the signals of what is connected.
    fn work(&self) {
        for (event, data) in self.connected.lock().unwrap().iter() {
            if let Ok(count) = event.read() {
                self.sent.lock().unwrap().extend(vec![*data; count as usize]);
            }
        }
    }
}

struct ChipRoute {
    chip: Arc<Chip>,
    data: AtomicUsize,
}

impl ChipRoute {
    fn data(&self) -> u32 {
        self.data.load(Ordering::SeqCst) as u32
    }
}

impl IrqChip for Chip {
    fn set_gsi(&self, _gsi: u32, _level: bool) {}
    fn send_msi(&self, message: MsiMessage) {
        self.sent.lock().unwrap().push(message.data);
    }
    fn msi_route(self: Arc<Self>, message: MsiMessage) -> qapi::Result<Box<dyn MsiRoute>> {
        Ok(Box::new(ChipRoute { chip: self, data: AtomicUsize::new(message.data as usize) }))
    }
}

impl MsiRoute for ChipRoute {
    fn update(&self, message: MsiMessage) -> qapi::Result<()> {
        let old = self.data.swap(message.data as usize, Ordering::SeqCst) as u32;
        let mut connected = self.chip.connected.lock().unwrap();
        connected.iter_mut().filter(|(_, data)| *data == old).for_each(|(_, data)| *data = message.data);
        Ok(())
    }
    fn trigger(&self) {
        self.chip.sent.lock().unwrap().push(self.data());
    }
    fn connect(&self, event: &Arc<EventFd>) -> qapi::Result<()> {
        if self.chip.no_events.load(Ordering::SeqCst) {
            return Err(qapi::Error::generic("no such thing"));
        }
        self.chip.connected.lock().unwrap().push((Arc::clone(event), self.data()));
        Ok(())
    }
    fn disconnect(&self) {
        self.chip.connected.lock().unwrap().retain(|(_, data)| *data != self.data());
    }
}

fn space() -> Arc<AddressSpace> {
    let memory = Memory::new();
    let block = memory.create_ram(RamSpec::anonymous("ram", 4096)).unwrap();
    let mut tx = memory.transaction();
    let ram = tx.ram(RegionDesc::new("ram", 4096), block);
    tx.address_space("function", ram)
}

struct World {
    main: MainLoop,
    chip: Arc<Chip>,
    msix: Arc<Msix>,
    source: Arc<MsixSource>,
    heard: Arc<AtomicUsize>,
}

/// The vector that the source is.
const VECTOR: u16 = 1;

impl World {
    fn new(no_events: bool) -> Self {
        let main = MainLoop::new().unwrap();
        let chip = Arc::new(Chip { no_events: AtomicBool::new(no_events), ..Chip::default() });
        let msix = Msix::new(3, Arc::clone(&chip) as Arc<dyn IrqChip>, space());
        let event = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let heard = Arc::new(AtomicUsize::new(0));
        let (seen, target, count) = (Arc::clone(&event), Arc::clone(&msix), Arc::clone(&heard));
        let watched = memory::event_descriptor(&event).unwrap();
        let watch = main.handle().watch(watched, Interest::READ, move |_| {
            if let Ok(signals) = seen.read() {
                count.fetch_add(signals as usize, Ordering::SeqCst);
                target.notify(VECTOR);
            }
        });
        let source = MsixSource::new(event, watch.unwrap());
        msix.connect(VECTOR, &source);
        Self { main, chip, msix, source, heard }
    }

    fn program(&self, vector: u16, data: u32, control: u32) {
        for (word, value) in [0xfee0_0000, 0, data, control].into_iter().enumerate() {
            self.msix.write_table(u64::from(vector) * 16 + 4 * word as u64, value);
        }
    }

    /// A signal, and whatever follows from it.
    fn signal(&mut self) {
        self.source.event().write(1).unwrap();
        self.chip.work();
        self.main.turn(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// What was sent since the last call, and how many signals took the long way.
    fn outcome(&self) -> (Vec<u32>, usize) {
        (std::mem::take(&mut *self.chip.sent.lock().unwrap()), self.heard.swap(0, Ordering::SeqCst))
    }
}

#[test]
fn a_signal_goes_the_short_way_while_nothing_is_masked() {
    let mut world = World::new(false);
    world.program(VECTOR, 0x41, 0);
    world.msix.set_control(true, false);
    world.signal();
    assert_eq!(world.outcome(), (vec![0x41], 0));
    world.program(VECTOR, 0x42, 0);
    world.signal();
    assert_eq!(world.outcome(), (vec![0x42], 0));
}

#[test]
fn a_signal_while_the_vector_is_masked_is_pending() {
    let mut world = World::new(false);
    world.program(VECTOR, 0x41, 1);
    world.msix.set_control(true, false);
    world.signal();
    assert_eq!((world.outcome(), world.msix.read_pending(0)), ((vec![], 1), 2));
    world.program(VECTOR, 0x41, 0);
    assert_eq!((world.outcome(), world.msix.read_pending(0)), ((vec![0x41], 0), 0));
}

#[test]
fn without_an_accelerator_that_takes_events_all_go_the_long_way() {
    let mut world = World::new(true);
    world.program(VECTOR, 0x41, 0);
    world.msix.set_control(true, false);
    world.signal();
    assert_eq!(world.outcome(), (vec![0x41], 1));
}

#[test]
fn a_source_that_is_disconnected_is_no_vector() {
    let mut world = World::new(false);
    world.program(VECTOR, 0x41, 0);
    world.msix.set_control(true, false);
    world.msix.disconnect(&world.source);
    assert!(world.chip.connected.lock().unwrap().is_empty());
    world.signal();
    assert_eq!(world.outcome().1, 1, "whoever watches decides");
    world.msix.connect(9, &world.source);
    assert!(world.chip.connected.lock().unwrap().is_empty(), "there is no such vector");
}

#[derive(Debug, Clone)]
enum Step {
    Control { enabled: bool, masked: bool },
    Program { data: u32, masked: bool },
    Elsewhere,
    Reset,
    Signal,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => any::<(bool, bool)>().prop_map(|(enabled, masked)| Step::Control { enabled, masked }),
        1 => (1..200u32, any::<bool>()).prop_map(|(data, masked)| Step::Program { data, masked }),
        1 => Just(Step::Elsewhere),
        1 => Just(Step::Reset),
        3 => Just(Step::Signal),
    ]
}

proptest! {
    #[test]
    fn no_signal_is_lost_and_none_is_doubled(steps in prop::collection::vec(step(), 1..60), no_events in any::<bool>()) {
        let mut world = World::new(no_events);
        // The naive model: one table entry and its pending bit.
        let (mut enabled, mut all_masked, mut masked, mut data, mut pending) = (false, false, true, None, false);
        let mut expected = Vec::new();
        for step in steps {
            match step {
                Step::Control { enabled: on, masked: all } => {
                    (enabled, all_masked) = (on, all);
                    world.msix.set_control(on, all);
                }
                Step::Program { data: new, masked: mask } => {
                    // Masked while it is changed, as drivers do.
                    world.msix.write_table(16 + 12, 1);
                    world.program(VECTOR, new, u32::from(mask));
                    (data, masked) = (Some(new), mask);
                }
                Step::Elsewhere => {
                    world.msix.connect(2, &world.source);
                    world.msix.connect(VECTOR, &world.source);
                }
                Step::Reset => {
                    world.msix.reset();
                    (enabled, all_masked, masked, data, pending) = (false, false, true, None, false);
                }
                Step::Signal => {
                    if enabled {
                        pending = true;
                    }
                    world.signal();
                }
            }
            if enabled && !all_masked && !masked && std::mem::take(&mut pending) {
                expected.extend(data);
            }
            prop_assert_eq!(&*world.chip.sent.lock().unwrap(), &expected);
            prop_assert_eq!(world.msix.read_pending(0) & 2 != 0, pending);
        }
    }
}
