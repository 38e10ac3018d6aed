use migration::Machine as _;
use qom::Input;

use super::*;
use crate::testing::Rig;

/// Sections of devices in slot 2.
fn in_slot_2(movable: &Movable) -> usize {
    movable.sections().list.iter().filter(|placed| placed.id.starts_with("0000:00:02.0/")).count()
}

#[test]
fn what_is_saved_are_the_devices_that_there_are_when_it_is_saved() {
    let rig = Rig::ready("pc");
    rig.machine.start();
    let device = rig.add("virtio-rng-pci,id=rng0").unwrap();
    let movable = Movable::new(Arc::clone(&rig.machine));
    let some = in_slot_2(&movable);
    assert!(some > 0);
    let realize =
        |on: bool| (Arc::clone(&device) as qom::ObjectRef).set("realized", Input::Json(&on.into())).unwrap();
    // As the guest ejects it while it is stopped, and one is plugged while it is.
    for (now, sections) in [(false, 0), (true, some)] {
        assert_eq!(movable.stop(), Some(RunState::Running));
        realize(now);
        assert_eq!(in_slot_2(&movable), sections);
        movable.go_on();
    }
    assert_eq!(movable.stop(), Some(RunState::Running));
    assert_eq!(in_slot_2(&movable), some, "nothing changed");
    assert_eq!(in_slot_2(&movable), some, "and again");
    movable.go_on();
}
