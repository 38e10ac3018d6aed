//! Trace events of this crate: memory slots, vCPUs and interrupt routes of KVM.

trace::events! {
    /// The kernel was given a memory slot, or took one (size 0): `ret` is 0 or the negative error number. There is one address space.
    kvm_set_user_memory(slot: u32, flags: u32, gpa: u64, size: u64, ua: u64, ret: i32)
        "AddrSpace#0 Slot#{slot} flags={flags:#x} gpa={gpa:#x} size={size:#x} ua={ua:#x} guest_memfd=-1 guest_memfd_offset=0x0 ret={ret}";
    /// Rings of vCPUs were read: `count` pages had been written.
    kvm_dirty_ring_reap(count: u64, time_us: u64) "reaped {count} pages (took {time_us} us)";
    /// Pages of a slot were to be watched again: `size` of them, of which those count that had been reported.
    kvm_clear_dirty_log(slot: u32, start: u64, size: u64) "slot#{slot} start {start:#x} size {size:#x}";
    /// The guest at `gpa` is where a slot is left to be made later.
    pliant_kvm_slot_put_off(gpa: u64) "gpa={gpa:#x}";
    /// The section at `addr` has slots for its `runs` plugged runs alone: a vCPU touched what is unplugged. `gone` and `new` changed.
    pliant_kvm_slots_of_runs(addr: u64, runs: usize, gone: usize, new: usize) "addr={addr:#x} runs={runs} gone={gone} new={new}";
    /// Slots cannot be left to be made later.
    pliant_kvm_put_off_unsupported(error: &std::io::Error) "{error}";
    /// Every vCPU is out of the guest and stays out: it took `ns` to get there.
    pliant_kvm_gate_close(ns: u128) "ns={ns}";
    /// vCPUs may enter again, if nobody else forbids it.
    pliant_kvm_gate_open() "";
    /// A vCPU left the guest. `reason` is the kernel's number (`KVM_EXIT_…`): 2 for a port, 6 for memory.
    kvm_run_exit(cpu_index: u32, reason: u32) "cpu_index {cpu_index}, reason {reason}";
    /// The guest asked for an end or a reset through the hypervisor; QEMU's spelling.
    kvm_run_exit_system_event(cpu_index: u32, event_type: u32) "cpu_index {cpu_index}, system_even_type {event_type}";
    /// A vCPU touched memory that a slot has and the host mapping has not.
    pliant_kvm_fault(cpu_index: u32, resolution: impl std::fmt::Debug) "cpu_index {cpu_index} {resolution:?}";
    /// A vCPU was made.
    kvm_create_vcpu(cpu_index: u32, arch_cpu_id: u32, kvm_fd: i32) "index: {cpu_index}, id: {arch_cpu_id}, kvm fd: {kvm_fd}";
    /// vCPUs run from now on, or do not.
    pliant_accel_run(running: u8) "running {running}";
    /// An MSR that the kernel does not have is left out of a reset.
    pliant_kvm_msr_skipped(index: u32) "index {index:#x}";
    /// The kernel was given all interrupt routes anew.
    kvm_irqchip_commit_routes() "";
    /// A message has a number now, to be triggered by an event descriptor.
    kvm_irqchip_add_msi_route(address: u64, data: u32, virq: u32) "dev address {address:#x} data {data:#x} virq {virq}";
    /// The message behind a number is another one.
    kvm_irqchip_update_msi_route(virq: u32) "Updating MSI route virq={virq}";
    /// A number is free again.
    kvm_irqchip_release_virq(virq: u32) "virq {virq}";
    /// Nobody took a message.
    pliant_kvm_msi_lost(address: u64, data: u32, error: impl std::fmt::Display) "address {address:#x} data {data:#x}: {error}";
    /// Writes to an address signal an event descriptor, or (`assign` 0) do not any more.
    kvm_set_ioeventfd_mmio(fd: i32, addr: u64, val: u64, assign: u8, size: u8, datamatch: u8)
        "fd: {fd} @{addr:#x} val={val:#x} assign: {assign} size: {size} match: {datamatch}";
    /// As `kvm_set_ioeventfd_mmio`, for a port.
    kvm_set_ioeventfd_pio(fd: i32, addr: u64, val: u64, assign: u8, size: u8, datamatch: u8)
        "fd: {fd} @{addr:#x} val={val:#x} assign: {assign} size: {size} match: {datamatch}";
    /// The kernel had no such event descriptor to let go of.
    pliant_kvm_ioeventfd_lost(addr: u64, error: &std::io::Error) "addr {addr:#x}: {error}";
}
