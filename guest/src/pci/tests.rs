//! Bridges, capability lists and BARs, honest and not.

use super::*;
use crate::testing::{Device, Machine};
use std::vec;
use std::vec::Vec;

fn bridge(secondary: u8) -> [u8; 256] {
    let mut space = [0; 256];
    space[..4].copy_from_slice(&[0x36, 0x1b, 0x0c, 0]);
    (space[0x0e], space[0x19]) = (1, secondary);
    space
}

#[test]
fn functions_behind_bridges_are_found_and_bridges_in_a_circle_end() {
    let mut behind = Device::new(3, 4, 0);
    behind.pci.bus = 5;
    let mut machine = Machine::new(vec![Device::new(1, 4, 0), behind]);
    machine.bridges.insert((0, 2, 0), bridge(5));
    machine.bridges.insert((5, 0, 0), bridge(0));
    machine.bridges.insert((5, 1, 0), bridge(5));
    let mut found = Vec::new();
    scan(&mut machine, |_, function, vendor, device| {
        if (vendor, device) == (0x1af4, 0x1058) {
            found.push((function.bus, function.device));
        }
    });
    assert_eq!(found, [(0, 1), (5, 3)]);
}

#[test]
fn a_capability_list_in_a_circle_ends() {
    let mut machine = Machine::new(vec![Device::new(1, 4, 0)]);
    machine.devices[0].pci.config[0x41] = 0x98;
    let mut seen = 0;
    let function = Function { bus: 0, device: 1, function: 0 };
    function.capabilities(&mut machine, |_, _, _| {
        seen += 1;
        false
    });
    assert_eq!(seen, MAX_CAPS);
}

#[test]
fn bars_are_read_as_they_were_assigned() {
    let mut machine = Machine::new(vec![Device::new(1, 4, 0)]);
    let function = Function { bus: 0, device: 1, function: 0 };
    assert_eq!(function.bar(&mut machine, 4), Ok(0xc0_0000_8000));
    assert_eq!(function.bar(&mut machine, 1), Ok(0xc000));
    for bar in [0, 6, 7] {
        assert_eq!(function.bar(&mut machine, bar), Err(PciError::BarUnassigned(bar)));
    }
    machine.devices[0].pci.config[0x24] = 4;
    assert_eq!(function.bar(&mut machine, 5), Err(PciError::BarUnassigned(5)), "64 bits do not fit there");
    machine.devices[0].pci.config[0x24] = 0xe1;
    assert_eq!(function.bar(&mut machine, 5), Err(PciError::BarUnassigned(5)), "an I/O BAR");
}
