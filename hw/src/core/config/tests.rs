//! Claims about sizes and topologies.

use super::*;

const GIB: u64 = 1 << 30;

fn memory(size: u64, maxmem: Option<u64>, slots: Option<u64>) -> Result<MemorySizes> {
    MemoryConfig { size: Some(size), maxmem, slots }.check(DEFAULT_RAM)
}

#[test]
fn sizes_are_refused_in_qemus_words() {
    let text = |r: Result<MemorySizes>| r.unwrap_err().desc().to_owned();
    assert_eq!(
        text(memory(4 * GIB, Some(2 * GIB), None)),
        "invalid value of maxmem: maximum memory size (0x80000000) must be at least the initial memory size (0x100000000)"
    );
    assert_eq!(
        text(memory(4 * GIB, Some(4 * GIB), Some(2))),
        "invalid value of maxmem: memory slots were specified but maximum memory size (0x100000000) is equal to the initial memory size (0x100000000)"
    );
    assert_eq!(text(memory(4 * GIB, None, Some(2))), "slots specified but no max-size");
}

#[test]
fn ram_is_rounded_up_and_zero_is_the_default() {
    assert_eq!(memory(1, None, None).unwrap(), MemorySizes { ram: 8192, max: 8192, slots: 0 });
    assert_eq!(memory(0, None, None).unwrap().ram, DEFAULT_RAM);
    assert_eq!(memory(4 * GIB, Some(4 * GIB), None).unwrap().max, 4 * GIB);
}

#[test]
fn topology_is_completed_and_checked() {
    let smp = SmpConfig { sockets: Some(2), cores: Some(2), ..SmpConfig::default() }
        .check("pc", 255, false, true)
        .unwrap();
    assert_eq!((smp.cpus, smp.maxcpus, smp.threads), (4, 4, 1));
    let smp = SmpConfig { cpus: Some(6), ..SmpConfig::default() }.check("pc", 255, false, true).unwrap();
    assert_eq!((smp.sockets, smp.cores), (1, 6));
    let old = SmpConfig { cpus: Some(6), threads: Some(2), ..SmpConfig::default() }
        .check("pc", 255, true, true)
        .unwrap();
    assert_eq!((old.sockets, old.cores, old.threads), (3, 1, 2));
    let text = |c: SmpConfig| c.check("pc-i440fx-10.0", 255, false, true).unwrap_err().desc().to_owned();
    let given = |n| SmpConfig { cpus: Some(n), ..SmpConfig::default() };
    assert_eq!(text(given(0)), "Invalid CPU topology: CPU topology parameters must be greater than zero");
    assert_eq!(
        text(given(256)),
        "Invalid SMP CPUs 256. The max CPUs supported by machine 'pc-i440fx-10.0' is 255"
    );
    assert_eq!(
        text(SmpConfig { sockets: Some(2), cores: Some(1), threads: Some(1), ..given(4) }),
        "Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (2) * dies (1) * modules (1) * cores (1) * threads (1) != maxcpus (4)"
    );
}

#[test]
fn sockets_without_dies_and_modules_are_made_of_cores() {
    let text = |c: SmpConfig| c.check("microvm", 288, false, false).unwrap_err().desc().to_owned();
    let two = SmpConfig { sockets: Some(2), cpus: Some(4), ..SmpConfig::default() };
    assert_eq!(
        text(SmpConfig { dies: Some(2), ..two }),
        "dies > 1 not supported by this machine's CPU topology"
    );
    assert_eq!(
        text(SmpConfig { modules: Some(2), ..two }),
        "modules > 1 not supported by this machine's CPU topology"
    );
    assert_eq!(
        text(SmpConfig { cores: Some(1), threads: Some(1), ..two }),
        "Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (2) * cores (1) * threads (1) != maxcpus (4)"
    );
    let smp =
        SmpConfig { dies: Some(1), modules: Some(1), ..two }.check("microvm", 288, false, false).unwrap();
    assert_eq!((smp.dies, smp.modules, smp.cores), (1, 1, 2));
}

#[test]
fn apic_ids_leave_room_for_odd_counts() {
    let smp = Smp { cpus: 6, sockets: 2, dies: 1, modules: 1, cores: 3, threads: 1, maxcpus: 6 };
    let ids: Vec<u32> = (0..6).map(|i| smp.apic_id(i)).collect();
    assert_eq!(ids, [0, 1, 2, 4, 5, 6]);
    assert_eq!(smp.position(4), [1, 0, 0, 1, 0]);
}

#[test]
fn places_apic_ids_and_indices_are_told_from_each_other() {
    let smp = Smp { cpus: 1, sockets: 3, dies: 2, modules: 1, cores: 3, threads: 2, maxcpus: 36 };
    for index in 0..36 {
        let position = smp.position(index);
        assert_eq!(smp.position_of(smp.apic_id(index)), position);
        assert_eq!((smp.index_at(position), smp.apic_id_at(position)), (Some(index), smp.apic_id(index)));
    }
    // Three cores take two bits: the fourth is none.
    assert_eq!(smp.position_of(6), [0, 0, 0, 3, 0]);
    assert_eq!([smp.index_at([0, 0, 0, 3, 0]), smp.index_at([3, 0, 0, 0, 0])], [None; 2]);
}
