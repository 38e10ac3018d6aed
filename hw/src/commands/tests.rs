//! Claims about the machine's monitor commands.

use qapi::commands::MachineCommands;
use qapi::{ToValue, json};

use super::*;
use crate::core::{NumaNodeOptions, SmpConfig};
use crate::testing::{Rig, config};

fn handlers(rig: &Rig) -> MachineHandlers {
    MachineHandlers::new(Arc::clone(&rig.machine))
}

fn json(value: &impl ToValue) -> String {
    json::to_string(&value.to_value())
}

fn with_nodes() -> Rig {
    let smp = SmpConfig { sockets: Some(2), cores: Some(2), ..SmpConfig::default() };
    let config = crate::core::MachineConfig { smp, name: Some("guest".into()), ..config("q35") };
    let nodes = |machine: &Arc<Machine>| {
        for cpus in [vec![0, 1], vec![2, 3]] {
            machine.add_numa_node(NumaNodeOptions { cpus, ..NumaNodeOptions::default() })?;
        }
        Ok(())
    };
    let rig = Rig::build_with(config, nodes).unwrap();
    rig.machine.finish().unwrap();
    rig
}

#[test]
fn an_even_split_shows_in_info_numa() {
    let rig = with_nodes();
    let text = handlers(&rig).x_query_numa().unwrap().human_readable_text;
    assert_eq!(
        text,
        "2 nodes\nnode 0 cpus: 0 1\nnode 0 size: 512 MB\nnode 0 plugged: 0 MB\nnode 1 cpus: 2 3\nnode 1 size: 512 MB\nnode 1 plugged: 0 MB\n"
    );
}

#[test]
fn room_for_memory_devices_makes_one_node_on_a_pc_only() {
    let numa = |machine| {
        let rig = Rig::ready(machine);
        handlers(&rig).x_query_numa().unwrap().human_readable_text
    };
    assert_eq!(numa("pc"), "1 nodes\nnode 0 cpus: 0\nnode 0 size: 1024 MB\nnode 0 plugged: 0 MB\n");
    assert_eq!(numa("none"), "0 nodes\n");
}

#[test]
fn vcpus_are_listed_with_their_places() {
    let rig = with_nodes();
    let cpus = handlers(&rig).query_hotpluggable_cpus().unwrap();
    let first = &cpus[0];
    assert_eq!(first.qom_path.as_deref(), Some("/machine/unattached/device[3]"));
    let props = &first.props;
    assert_eq!(
        (props.node_id, props.socket_id, props.core_id, props.thread_id, props.die_id),
        (Some(1), Some(1), Some(1), Some(0), None)
    );
    assert_eq!(handlers(&rig).query_cpus_fast().unwrap().len(), 4);
}

#[test]
fn names_and_states_are_told() {
    let rig = with_nodes();
    let h = handlers(&rig);
    assert_eq!(json(&h.query_name().unwrap()), "{\"name\": \"guest\"}");
    assert_eq!(json(&h.query_uuid().unwrap()), "{\"UUID\": \"00000000-0000-0000-0000-000000000000\"}");
    assert_eq!(json(&h.query_status().unwrap()), "{\"status\": \"prelaunch\", \"running\": false}");
    h.cont().unwrap();
    assert_eq!(json(&h.query_status().unwrap()), "{\"status\": \"running\", \"running\": true}");
    assert!(!h.query_kvm().unwrap().enabled);
    assert_eq!(h.query_memory_size_summary().unwrap().base_memory, 1 << 30);
}

#[test]
fn memory_backends_are_listed() {
    let rig = Rig::ready("pc");
    let list = handlers(&rig).query_memdev().unwrap();
    let ids: Vec<_> = list.iter().map(|m| (m.id.as_deref(), m.size)).collect();
    assert_eq!(ids, [(Some("pc.ram"), 1 << 30)]);
}

#[test]
fn pci_functions_are_listed_by_slot() {
    let rig = Rig::ready("pc");
    let buses = handlers(&rig).query_pci().unwrap();
    let ids: Vec<_> = buses[0]
        .devices
        .iter()
        .map(|d| (d.slot, d.function, d.id.device, d.class_info.desc.clone()))
        .collect();
    let desc = |text: &str| Some(text.to_owned());
    assert_eq!(
        ids,
        [
            (0, 0, 0x1237, desc("Host bridge")),
            (1, 0, 0x7000, desc("ISA bridge")),
            (1, 3, 0x7113, desc("Bridge"))
        ]
    );
    assert!(handlers(&Rig::ready_none()).query_pci().unwrap().is_empty());
}

#[test]
fn machine_types_tell_their_defaults() {
    let rig = Rig::ready("pc");
    let list = handlers(&rig).query_machines(Some(true)).unwrap();
    let find = |name: &str| list.iter().find(|m| m.name == name).unwrap();
    assert_eq!(find("pc-i440fx-10.0").is_default, Some(true));
    assert_eq!(find("pc-q35-10.0").alias.as_deref(), Some("q35"));
    assert!(find("pc-q35-7.0").deprecated && !find("pc-q35-7.1").deprecated);
    let props = find("pc-q35-9.2").compat_props.as_ref().unwrap();
    assert!(
        props
            .iter()
            .any(|prop| prop.qom_type == "virtio-mem-pci" && prop.property == "vectors" && prop.value == "0")
    );
}

#[test]
fn the_memory_tree_shows_vcpus_views_and_nothing_that_is_switched_off() {
    let rig = with_nodes();
    let tree = |disabled| {
        let options = memory::MtreeOptions { disabled, ..memory::MtreeOptions::default() };
        rig.machine.memory().mtree_text(options)
    };
    let names = "address-space: cpu-memory-0\naddress-space: cpu-memory-1\naddress-space: cpu-memory-2\n\
                 address-space: cpu-memory-3\naddress-space: memory\n  0000000000000000-ffffffffffffffff";
    assert!(tree(false).contains(names), "{}", tree(false));
    assert!(tree(false).contains("\n      0000000000000070-0000000000000070 (prio 0, i/o): rtc-index\n"));
    assert!(!tree(true).contains("mmcfg"), "its window is nowhere until it is opened");
}

#[test]
fn the_machines_ram_has_its_name_in_info_ramblock() {
    let rig = Rig::ready("pc");
    let text = handlers(&rig).x_query_ramblock().unwrap().human_readable_text;
    assert!(text.contains("\n                  pc.ram    4 KiB  0x0000000000000000 "), "{text}");
}
