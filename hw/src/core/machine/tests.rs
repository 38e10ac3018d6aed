//! Claims about machines as a whole, on the qtest accelerator.

use super::*;
use qapi::types::{RebootAction, ShutdownAction};

use crate::core::{Actions, NumaNodeOptions, SmpConfig};
use crate::testing::{Rig, config};

const GIB: u64 = 1 << 30;

fn desc<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.desc().to_owned(),
    }
}

fn object(machine: &Machine, id: &str, size: u64) -> Result<()> {
    let size = qapi::Value::from(size);
    let properties = [("size", Input::Json(&size))];
    machine.tree().create_user_object("memory-backend-ram", id, properties).map(drop)
}

fn seed() -> MachineConfig {
    let memory = crate::core::MemoryConfig { size: Some(4 * GIB), maxmem: Some(20 * GIB), slots: None };
    let smp = SmpConfig { sockets: Some(2), cores: Some(2), ..SmpConfig::default() };
    MachineConfig { memory, smp, ..config("q35") }
}

fn two_nodes(machine: &Arc<Machine>) -> Result<()> {
    for (i, cpus) in [vec![0, 1], vec![2, 3]].into_iter().enumerate() {
        let id = format!("ram{i}");
        object(machine, &id, 2 * GIB)?;
        machine.add_numa_node(NumaNodeOptions { cpus, memdev: Some(id), ..NumaNodeOptions::default() })?;
    }
    Ok(())
}

#[test]
fn the_seeds_memory_tree_is_qemus() {
    let rig = Rig::build_with(seed(), two_nodes).unwrap();
    let text = rig.machine.memory().mtree_text(memory::MtreeOptions::default());
    for line in [
        "address-space: device-memory\n  0000000180000000-000000057fffffff (prio 0, i/o): device-memory\n",
        "    0000000000000000-000000007fffffff (prio 0, i/o): alias ram-below-4g @pc.ram 0000000000000000-000000007fffffff\n",
        "    0000000100000000-000000017fffffff (prio 0, i/o): alias ram-above-4g @pc.ram 0000000080000000-00000000ffffffff\n",
        "    0000000000000000-ffffffffffffffff (prio -1, i/o): pci\n",
        "    00000000000a0000-00000000000bffff (prio 1, i/o): alias smram-region @pci 00000000000a0000-00000000000bffff\n",
        "    0000000000000cf8-0000000000000cfb (prio 0, i/o): pci-conf-idx\n    0000000000000cf9-0000000000000cf9 (prio 1, i/o): lpc-reset-control\n",
        "memory-region: pc.ram\n  0000000000000000-00000000ffffffff (prio 0, i/o): pc.ram\n    0000000000000000-000000007fffffff (prio 0, ram): ram0\n    0000000080000000-00000000ffffffff (prio 0, ram): ram1\n",
    ] {
        assert!(text.contains(line), "{line}\nin\n{text}");
    }
    let area = rig.machine.device_memory().unwrap();
    assert_eq!((area.base, area.size), (0x1_8000_0000, 16 * GIB));
}

#[test]
fn the_object_tree_has_the_machine_its_bridges_and_vcpus() {
    let rig = Rig::build_with(seed(), two_nodes).unwrap();
    let tree = rig.machine.tree();
    for (path, class) in [
        ("/machine", "pc-q35-10.0-machine"),
        ("/machine/unattached/sysbus", "System"),
        ("/machine/unattached/device[0]", "qemu64-x86_64-cpu"),
        ("/machine/unattached/device[3]", "qemu64-x86_64-cpu"),
        ("/machine/unattached/device[4]", "ICH9-LPC"),
        ("/machine/unattached/system[0]", "memory-region"),
        ("/machine/pc.ram[0]", "memory-region"),
        ("/machine/device-memory[0]", "memory-region"),
        ("/machine/q35", "q35-pcihost"),
        ("/machine/q35/pcie.0", "PCIE"),
        ("/machine/q35/mch", "mch"),
        ("/machine/q35/mch/bus master container[0]", "memory-region"),
    ] {
        let object = tree.absolute(path).unwrap_or_else(|| panic!("no {path}"));
        assert_eq!(object.core().class().name(), class, "{path}");
    }
}

#[test]
fn the_bus_tree_prints_as_qtree() {
    let rig = Rig::ready("q35");
    let text = crate::core::qtree::text(&rig.machine, false);
    let mch = "      dev: mch, id \"\"\n        addr = 00.0\n        romfile = \"\"\n        romsize = 4294967295 (0xffffffff)\n        rombar = -1 (0xffffffffffffffff)\n        multifunction = false\n        x-pcie-lnksta-dllla = true\n        x-pcie-extcap-init = true\n        failover_pair_id = \"\"\n        acpi-index = 0 (0x0)\n        x-pcie-err-unc-mask = true\n        x-pcie-ari-nextfn-1 = false\n        x-max-bounce-buffer-size = 4096 (4 KiB)\n        x-pcie-ext-tag = true\n        busnr = 0 (0x0)\n        class Host bridge, addr 00:00.0, pci id 8086:29c0 (sub 1af4:1100)\n";
    assert!(text.contains(mch), "{text}");
    assert!(text.starts_with("bus: main-system-bus\n  type System\n  dev: ps2-mouse, id \"\"\n"), "{text}");
    assert!(text.contains("  dev: q35-pcihost, id \"\"\n"), "{text}");
    assert!(
        text.contains("    MCFG = -1 (0xffffffffffffffff)\n    pci-hole64-size = 34359738368 (32 GiB)\n")
    );
    let brief = crate::core::qtree::text(&rig.machine, true);
    assert!(brief.contains("    bus: pcie.0\n      type PCIE\n      dev: ICH9-LPC, id \"\"\n        bus: isa.0\n          type ISA\n"));
}

#[test]
fn bad_machines_are_refused_in_qemus_words() {
    let build = |config| desc(Rig::build(config));
    assert_eq!(build(config("foo")), "unsupported machine type: \"foo\"");
    let with = |name: &str, value: &str| MachineConfig {
        options: vec![(name.into(), value.into())],
        ..config("pc")
    };
    assert_eq!(build(with("foo", "on")), "Property 'pc-i440fx-10.0-machine.foo' not found");
    assert_eq!(build(with("smm", "2")), "Parameter 'smm' does not accept value '2'");
    assert_eq!(build(with("memory-backend", "nope")), "Memory backend 'nope' not found");
}

#[test]
fn a_backend_of_the_wrong_size_is_refused() {
    let config = MachineConfig { options: vec![("memory-backend".into(), "mem0".into())], ..config("pc") };
    let result = Rig::build_with(config, |m| object(m, "mem0", 2 * GIB));
    assert_eq!(desc(result), "Machine memory size does not match the size of the memory backend");
}

#[test]
fn a_backend_gives_the_machine_its_size() {
    let config = MachineConfig {
        options: vec![("memory-backend".into(), "mem0".into())],
        memory: crate::core::MemoryConfig::default(),
        ..config("pc")
    };
    let rig = Rig::build_with(config, |m| object(m, "mem0", 2 * GIB)).unwrap();
    assert_eq!(rig.machine.sizes().ram, 2 * GIB);
    let path = rig.machine.object().get("memory-backend").unwrap();
    assert_eq!(path, "/objects/mem0".into());
}

#[test]
fn the_empty_machine_has_two_empty_spaces() {
    let rig = Rig::ready_none();
    let text = rig.machine.memory().mtree_text(memory::MtreeOptions::default());
    assert_eq!(
        text,
        "address-space: memory\n  0000000000000000-ffffffffffffffff (prio 0, i/o): system\n\naddress-space: I/O\n  0000000000000000-000000000000ffff (prio 0, i/o): io\n\n"
    );
    assert_eq!(crate::core::qtree::text(&rig.machine, false), "bus: main-system-bus\n  type System\n");
    let node = rig.machine.add_numa_node(NumaNodeOptions::default());
    assert_eq!(desc(node), "NUMA is not supported by this machine-type");
}

#[test]
fn reset_and_end_send_qemus_events() {
    use qapi::types::ShutdownCause;
    let mut rig = Rig::ready("pc");
    rig.machine.start();
    rig.machine.stop();
    rig.machine.stop();
    rig.machine.cont().unwrap();
    rig.machine.cont().unwrap();
    assert_eq!(rig.events(), ["RESUME", "STOP", "RESUME"]);
    rig.machine.request_reset(ShutdownCause::HostQmpSystemReset);
    rig.machine.request_reset(ShutdownCause::HostQmpSystemReset);
    rig.machine.request_powerdown();
    rig.turn();
    assert_eq!(
        rig.events(),
        ["RESET {\"guest\": false, \"reason\": \"host-qmp-system-reset\"}", "POWERDOWN"]
    );
    rig.outb(0xcf9, 2);
    rig.outb(0xcf9, 6);
    rig.outb(0x64, 0xfe);
    rig.turn();
    assert_eq!(rig.events(), ["RESET {\"guest\": true, \"reason\": \"guest-reset\"}"]);
    rig.machine.quit();
    assert_eq!(rig.events(), ["SHUTDOWN {\"guest\": false, \"reason\": \"host-qmp-quit\"}"]);
    assert_eq!(rig.main.run(), 0);
}

#[test]
fn a_guest_reset_ends_the_program_if_asked_and_a_shutdown_pauses_if_asked() {
    let actions =
        Actions { reboot: RebootAction::Shutdown, shutdown: ShutdownAction::Pause, ..Actions::default() };
    let config = MachineConfig { actions, ..config("q35") };
    let mut rig = Rig::build(config).unwrap();
    rig.machine.finish().unwrap();
    rig.machine.start();
    rig.events();
    rig.outb(0x92, 1);
    rig.turn();
    assert_eq!(rig.events(), ["SHUTDOWN {\"guest\": true, \"reason\": \"guest-reset\"}", "STOP"]);
    assert_eq!(desc(rig.machine.cont()), "Resetting the Virtual Machine is required");
    rig.machine.set_actions(|a| a.reboot = RebootAction::Reset);
    rig.machine.request_reset(qapi::types::ShutdownCause::HostQmpSystemReset);
    rig.turn();
    rig.machine.cont().unwrap();
    assert!(rig.machine.is_running());
}

#[test]
fn power_management_is_where_firmware_puts_it() {
    for (kind, slot, function) in [("q35", 31, 0), ("pc", 1, 3)] {
        let mut rig = Rig::ready(kind);
        rig.config_write(slot, function, 0x40, 0x601);
        let enable = if kind == "q35" { (0x44, 0x80) } else { (0x80, 1) };
        rig.config_write(slot, function, enable.0, enable.1);
        rig.machine.start();
        rig.events();
        rig.machine.request_powerdown();
        rig.turn();
        assert_eq!(rig.read(0x600, 2) & 0x100, 0x100, "{kind}");
        let _ = rig.machine.io_space().write_uint(0x600, 2, 0x100);
        assert_eq!(rig.read(0x600, 2) & 0x100, 0);
        let _ = rig.machine.io_space().write_uint(0x604, 2, 0x2000);
        rig.turn();
        assert_eq!(rig.events(), ["POWERDOWN", "SHUTDOWN {\"guest\": true, \"reason\": \"guest-shutdown\"}"]);
    }
}

#[test]
fn configuration_space_is_reached_both_ways() {
    let rig = Rig::ready("q35");
    assert_eq!(rig.config_read(0, 0, 0), 0x29c0_8086);
    assert_eq!(rig.config_read(31, 0, 8), 0x0601_0002);
    assert_eq!(rig.config_read(5, 0, 0), u32::MAX);
    rig.config_write(0, 0, 0x60, 0xb000_0001);
    let space = rig.machine.system_space();
    assert_eq!(space.read_uint(0xb000_0000 + (31 << 15), 4).0, 0x2918_8086);
    assert_eq!(space.read_uint(0xb000_0000 + (1 << 20), 4).0, 0xffff_ffff);
}

#[test]
fn the_guest_is_loaded_again_at_every_reset() {
    let config = MachineConfig {
        boot_guest: true,
        options: vec![("append".into(), "touch=none".into())],
        ..config("q35")
    };
    let mut rig = Rig::build(config).unwrap();
    rig.machine.finish().unwrap();
    let space = Arc::clone(rig.machine.system_space());
    let magic = || space.read_uint(0x6000, 4).0;
    assert_eq!(magic(), 0x336e_c578);
    let mut line = [0; 11];
    assert!(space.read(0x8000, &mut line).is_ok());
    assert_eq!(&line, b"touch=none\0");
    assert!(space.write_uint(0x6000, 4, 0).is_ok());
    assert_eq!(rig.config_read(0, 0, 0x60), 0, "nothing is programmed before the guest runs");
    rig.machine.start();
    assert_eq!(rig.config_read(0, 0, 0x60), 0xb000_0001);
    rig.machine.request_reset(qapi::types::ShutdownCause::GuestReset);
    rig.turn();
    assert_eq!(magic(), 0x336e_c578);
}
