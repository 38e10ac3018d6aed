//! The promises, on machines where slots are few, against a naive model, and how a refusal reads.

use std::sync::atomic::{AtomicU64, Ordering};

use memory::RegionId;
use proptest::prelude::*;
use qapi::types::MemoryDeviceInfo;

use super::*;
use crate::mem::placement::Wanted;
use crate::mem::unplugged::OnAccess;

/// A device of which only the parts matter.
struct Parts {
    parts: u64,
    mapped: AtomicU64,
    decided: bool,
}

impl MemoryDevice for Parts {
    fn id(&self) -> Option<String> {
        None
    }
    fn qom_path(&self) -> String {
        "/machine/parts".into()
    }
    fn wanted(&self) -> Result<Wanted> {
        unreachable!("it is there already")
    }
    fn set_addr(&self, _addr: u64) {}
    fn decide_memslots(&self, _budget: &Budget) -> Result<u64> {
        Ok(self.parts)
    }
    fn addr(&self) -> u64 {
        0
    }
    fn region_size(&self) -> u64 {
        self.parts
    }
    fn region(&self) -> Option<RegionId> {
        None
    }
    fn memslots(&self) -> SlotUse {
        let mapped = self.mapped.load(Ordering::SeqCst);
        SlotUse { parts: self.parts, mapped, part_size: 1, decided: self.decided }
    }
    fn plugged_size(&self) -> u64 {
        0
    }
    fn node(&self) -> u32 {
        0
    }
    fn on_unplugged_access(&self) -> Option<OnAccess> {
        None
    }
    fn info(&self) -> MemoryDeviceInfo {
        unreachable!("nobody asks")
    }
    fn may_unplug(&self) -> Result<()> {
        Ok(())
    }
}

fn device(parts: u64, mapped: u64) -> Arc<Parts> {
    Arc::new(Parts { parts, mapped: AtomicU64::new(mapped), decided: false })
}

/// Somebody with slots, some of which are in use for other memory; mapped parts of `devices` take one each.
struct Fake {
    name: &'static str,
    limit: u64,
    others: u64,
    devices: Arc<MemoryDevices>,
}

impl SlotUser for Fake {
    fn name(&self) -> String {
        self.name.into()
    }
    fn limit(&self) -> u64 {
        self.limit
    }
    fn used(&self) -> u64 {
        self.others + self.devices.devices().iter().map(|d| d.memslots().mapped).sum::<u64>()
    }
}

/// A plan, and a way to make users for it.
struct World {
    devices: Arc<MemoryDevices>,
    plan: SlotPlan,
}

impl World {
    /// With a hypervisor that has so many slots, some of them in use.
    fn new(hypervisor: Option<(u64, u64)>) -> Self {
        let devices = Arc::new(MemoryDevices::default());
        let fake = |(limit, others)| Self::fake(&devices, "kvm", limit, others);
        let plan = SlotPlan::new(Arc::clone(&devices), hypervisor.map(fake));
        Self { devices, plan }
    }

    fn fake(devices: &Arc<MemoryDevices>, name: &'static str, limit: u64, others: u64) -> Arc<dyn SlotUser> {
        Arc::new(Fake { name, limit, others, devices: Arc::clone(devices) })
    }

    fn user(&self, name: &'static str, limit: u64, others: u64) -> Arc<dyn SlotUser> {
        Self::fake(&self.devices, name, limit, others)
    }

    /// What plugging a device does.
    fn add(&self, device: &Arc<Parts>) -> Result<()> {
        self.plan.check(device.parts)?;
        self.devices.add(Arc::clone(device) as _);
        Ok(())
    }
}

fn text<T>(result: Result<T>) -> String {
    result.err().expect("refused").desc().to_owned()
}

#[test]
fn a_device_is_refused_when_the_hypervisor_cannot_map_all_of_everybody() {
    let world = World::new(Some((32, 5)));
    world.add(&device(20, 3)).unwrap();
    assert_eq!(
        text(world.add(&device(8, 0))),
        "hypervisor has not enough free memory slots left: 'kvm' has 32, of which 8 are used and 17 reserved for memory \
         devices, 8 more are required"
    );
    world.add(&device(7, 0)).expect("a refused device reserves nothing");
    assert_eq!(
        text(world.add(&device(1, 0))),
        "hypervisor has not enough free memory slots left: 'kvm' has 32, of which 8 are used and 24 reserved for memory \
         devices, 1 more are required"
    );
}

#[test]
fn a_device_is_refused_when_a_back_end_cannot_map_all_of_everybody() {
    let world = World::new(Some((32_764, 5)));
    let disk = world.user("disk0", 509, 6);
    world.plan.admit(Arc::clone(&disk)).unwrap();
    world.add(&device(500, 0)).unwrap();
    assert_eq!(
        text(world.add(&device(4, 0))),
        "a used vhost backend has not enough free memory slots left: 'disk0' has 509, of which 6 are used and 500 reserved \
         for memory devices, 4 more are required"
    );
    world.add(&device(3, 0)).unwrap();
    world.plan.remove(&disk);
    world.add(&device(1000, 0)).expect("a back end that is gone limits nobody");
}

#[test]
fn all_devices_together_have_2048_parts_at_most() {
    for world in [World::new(None), World::new(Some((32_764, 5)))] {
        world.add(&device(1024, 1000)).unwrap();
        world.add(&device(1000, 0)).unwrap();
        assert_eq!(
            text(world.add(&device(25, 0))),
            "memory devices have not enough free memory slots left: they may have 2048, of which 2024 are used or \
             reserved, 25 more are required"
        );
        let last = device(24, 0);
        world.add(&last).unwrap();
        assert_eq!(
            text(world.add(&device(1, 0))),
            "memory devices have not enough free memory slots left: they may have 2048, of which 2048 are used or \
             reserved, 1 more are required"
        );
        world.devices.remove(&(last as Arc<dyn MemoryDevice>));
        world.add(&device(24, 0)).expect("a device that is gone gives its reservation back");
    }
}

#[test]
fn a_back_end_is_refused_when_it_cannot_map_all_of_everybody() {
    let world = World::new(None);
    world.add(&device(100, 30)).unwrap();
    let small = world.user("small", 104, 5);
    let error = world.plan.admit(Arc::clone(&small)).unwrap_err();
    assert_eq!(
        error.desc(),
        "vhost backend memory slots limit (104) is less than current number of used (35) and reserved (70) memory slots \
         for memory devices."
    );
    world.add(&device(1000, 0)).expect("a back end that was refused limits nobody");
    let large = world.user("large", 1105, 5);
    world.plan.admit(Arc::clone(&large)).unwrap();
    world.plan.admit(large).expect("one that comes again is counted once");
    assert_eq!(world.plan.users().len(), 1);
}

#[test]
fn a_back_end_that_would_have_changed_a_decision_is_refused() {
    let world = World::new(None);
    let dynamic = Arc::new(Parts { parts: 4, mapped: AtomicU64::new(0), decided: true });
    world.add(&dynamic).unwrap();
    let error = world.plan.admit(world.user("disk0", 508, 3)).unwrap_err();
    assert_eq!(
        error.desc(),
        "some memory device (like virtio-mem) decided how many memory slots to use based on the overall number of memory \
         slots; this vhost backend would further restricts the overall number of memory slots"
    );
    assert_eq!(error.hint(), ["Try plugging this vhost backend before plugging such memory devices."]);
    world.plan.admit(world.user("disk0", 509, 3)).unwrap();
    world.devices.remove(&(dynamic as Arc<dyn MemoryDevice>));
    world.plan.admit(world.user("disk1", 8, 3)).unwrap();
}

#[test]
fn a_budget_is_that_of_the_user_with_the_least() {
    let world = World::new(Some((32_764, 64)));
    world.add(&device(100, 30)).unwrap();
    let budget = world.plan.budget(1 << 30);
    assert_eq!(
        budget,
        Budget { max: Some(32_764), free: Some(32_600), required: 100, limit: 1 << 30, used: 100 }
    );
    world.plan.admit(world.user("disk0", 509, 9)).unwrap();
    let budget = world.plan.budget(1 << 30);
    assert_eq!((budget.max, budget.free), (Some(509), Some(400)));
    assert_eq!(World::new(None).plan.budget(0).max, None);
}

#[test]
fn the_numbers_can_be_asked_for() {
    let world = World::new(Some((509, 5)));
    world.add(&device(100, 30)).unwrap();
    world.add(&device(1, 1)).unwrap();
    world.plan.admit(world.user("disk0", 200, 3)).unwrap();
    let user = |name: &str, limit, used, free| PliantMemslotUser {
        name: name.into(),
        limit,
        used,
        reserved: 70,
        free,
    };
    let part = |parts, used| PliantMemslotDevice {
        id: None,
        qom_path: "/machine/parts".into(),
        parts,
        used,
        reserved: parts - used,
        part_size: 1,
    };
    let expected = PliantMemslots {
        limit: 2048,
        used: 31,
        reserved: 70,
        free: 1947,
        devices: vec![part(100, 30), part(1, 1)],
        users: vec![user("kvm", 509, 36, 403), user("disk0", 200, 34, 96)],
    };
    assert_eq!(world.plan.info(), expected);
}

/// A guest that maps a part whenever somebody counts.
struct Racer {
    device: Arc<Parts>,
    limit: u64,
}

impl SlotUser for Racer {
    fn name(&self) -> String {
        "racer".into()
    }
    fn limit(&self) -> u64 {
        self.limit
    }
    fn used(&self) -> u64 {
        self.device.mapped.fetch_add(1, Ordering::SeqCst) + 1
    }
}

#[test]
fn a_part_that_is_mapped_while_it_is_counted_is_not_lost() {
    let world = World::new(None);
    let racing = device(10, 0);
    world.add(&racing).unwrap();
    world.plan.admit(Arc::new(Racer { device: Arc::clone(&racing), limit: 16 })).unwrap();
    assert!(world.plan.check(6).is_err(), "one is counted twice at the worst");
    assert!(world.plan.check(5).is_ok());
}

#[derive(Debug, Clone)]
enum Step {
    Add(u64),
    RemoveDevice(usize),
    Map(usize, u64),
    Admit { limit: u64, others: u64 },
    RemoveUser(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1u64..400).prop_map(Step::Add),
        1 => (0usize..8).prop_map(Step::RemoveDevice),
        3 => (0usize..8, 0u64..400).prop_map(|(at, n)| Step::Map(at, n)),
        2 => (0u64..1500, 0u64..100).prop_map(|(limit, others)| Step::Admit { limit, others }),
        1 => (0usize..4).prop_map(Step::RemoveUser),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    /// Whatever comes and goes: what is let in is exactly what leaves both promises true.
    #[test]
    fn what_is_let_in_keeps_the_promises(hypervisor in proptest::option::of((10u64..3000, 0u64..10)), steps in steps()) {
        let world = World::new(hypervisor);
        let mut devices: Vec<Arc<Parts>> = Vec::new();
        let mut users: Vec<(u64, u64, Arc<dyn SlotUser>)> = Vec::new();
        // Slots that a user needs at the very worst, with `more` parts added.
        let fits = |limit: u64, others: u64, parts: u64| others + parts <= limit;
        for step in steps {
            let parts: u64 = devices.iter().map(|d| d.parts).sum();
            match step {
                Step::Add(more) => {
                    let all = parts + more;
                    let expected = all <= LIMIT
                        && hypervisor.is_none_or(|(limit, others)| fits(limit, others, all))
                        && users.iter().all(|(limit, others, _)| fits(*limit, *others, all));
                    let new = device(more, 0);
                    prop_assert_eq!(world.add(&new).is_ok(), expected);
                    devices.extend(expected.then_some(new));
                }
                Step::RemoveDevice(at) if at < devices.len() => {
                    world.devices.remove(&(devices.remove(at) as Arc<dyn MemoryDevice>));
                }
                Step::Map(at, n) if at < devices.len() => {
                    devices[at].mapped.store(n.min(devices[at].parts), Ordering::SeqCst);
                }
                Step::Admit { limit, others } => {
                    let user = world.user("disk", limit, others);
                    let expected = fits(limit, others, parts);
                    prop_assert_eq!(world.plan.admit(Arc::clone(&user)).is_ok(), expected);
                    users.extend(expected.then_some((limit, others, user)));
                }
                Step::RemoveUser(at) if at < users.len() => world.plan.remove(&users.remove(at).2),
                Step::RemoveDevice(_) | Step::Map(..) | Step::RemoveUser(_) => {}
            }
            for user in world.plan.users() {
                let slots = world.plan.slots_of(&user);
                prop_assert_eq!(slots.used + slots.reserved + slots.free(), slots.limit);
            }
            prop_assert!(world.devices.memslots() <= LIMIT);
        }
    }
}
