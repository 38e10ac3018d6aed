//! Trace events of this crate: virtio, memory devices, PCI, resets and the run state. `vdev` is a virtio device, `vq` one of its queues.

trace::events! {
    // Run state.

    /// The run state changes; numbers and names are the schema's.
    runstate_set(current: usize, current_name: &str, new: usize, new_name: &str)
        "current_run_state {current} ({current_name}) new_state {new} ({new_name})";
    /// Devices hear that the guest runs, or that it stopped and why.
    vm_state_notify(running: u8, reason: usize, reason_str: &str) "running {running} reason {reason} ({reason_str})";
    /// Somebody asks for the end; `reason` as a number of the schema's `ShutdownCause`.
    qemu_system_shutdown_request(reason: usize) "reason={reason}";
    /// Somebody presses the power button.
    qemu_system_powerdown_request() "";
    /// Somebody asks for a reset; `reason` as of `qemu_system_shutdown_request`.
    pliant_system_reset_request(reason: usize) "reason={reason}";
    /// A reset begins; `cold` is 0 for one from power-on.
    resettable_reset(obj: trace::Id, cold: u8) "obj={obj} cold={cold}";
    /// A device is reset.
    resettable_phase_hold_exec(obj: trace::Id, objtype: &str) "obj={obj}({objtype}) method=1";
    /// A vCPU is reset.
    cpu_reset(cpu_index: u32) "{cpu_index}";
    /// The guest stays stopped behind a dump.
    pliant_dump_left_stopped(error: &qapi::Error) "{error}";

    // Devices.

    /// A device begins to be realized.
    pliant_device_realize(obj: trace::Id, objtype: &str, id: &str) "obj={obj}({objtype}) id={id}";
    /// A device begins to go.
    pliant_device_unrealize(obj: trace::Id, objtype: &str, id: &str) "obj={obj}({objtype}) id={id}";

    // Memory devices.

    /// A memory device may come, to `addr`.
    memory_device_pre_plug(id: &str, addr: u64) "id={id} addr={addr:#x}";
    /// It is there.
    memory_device_plug(id: &str, addr: u64) "id={id} addr={addr:#x}";
    /// It goes.
    memory_device_unplug(id: &str, addr: u64) "id={id} addr={addr:#x}";
    /// A request was answered: 0 done, 1 refused, 2 not now, 3 it makes no sense.
    virtio_mem_send_response(response: u16) "type={response}";
    /// The guest asks for `nb_blocks` blocks from the guest address `addr` on.
    virtio_mem_plug_request(addr: u64, nb_blocks: u16) "addr={addr:#x} nb_blocks={nb_blocks}";
    /// The guest gives blocks back.
    virtio_mem_unplug_request(addr: u64, nb_blocks: u16) "addr={addr:#x} nb_blocks={nb_blocks}";
    /// Nothing is plugged any more, as the guest or a reset wanted.
    virtio_mem_unplugged_all() "";
    /// The guest gives everything back.
    virtio_mem_unplug_all_request() "";
    /// The guest may use more, or less, of the region. That there is no blank between the numbers is QEMU's line.
    virtio_mem_resized_usable_region(old_size: u64, new_size: u64) "old_size={old_size:#x}new_size={new_size:#x}";
    /// The guest asks what is plugged.
    virtio_mem_state_request(addr: u64, nb_blocks: u16) "addr={addr:#x} nb_blocks={nb_blocks}";
    /// Its answer: 0 all, 1 nothing, 2 some.
    virtio_mem_state_response(state: u16) "state={state}";
    /// The requested size was set.
    pliant_virtio_mem_requested_size(vdev: trace::Id, size: u64) "vdev {vdev} size {size:#x}";
    /// Blocks cannot be plugged: bytes of the region, and why.
    pliant_virtio_mem_plug_refused(offset: u64, len: u64, error: &memory::Error) "offset {offset:#x} len {len:#x}: {error}";
    /// A request is prepared in the background; its buffer waits.
    pliant_virtio_mem_prepare(addr: u64, nb_blocks: u16) "addr={addr:#x} nb_blocks={nb_blocks}";
    /// A vCPU touched memory of a device that is not plugged; `count` times since the last line.
    pliant_unplugged_access(name: &str, cpu_index: u32, addr: u64, write: u8, count: u64)
        "{name} cpu_index {cpu_index} addr={addr:#x} write {write} count {count}";

    /// The guest asks for a flush.
    virtio_pmem_flush_request() "flush request";
    /// A flush was done (0), or failed.
    virtio_pmem_flush_done(status: u8) "fsync return={status}";
    /// The guest is told.
    virtio_pmem_response() "flush response";
    /// Why a flush failed.
    pliant_virtio_pmem_flush_failed(vdev: trace::Id, error: &std::io::Error) "vdev {vdev}: {error}";

    // Virtio.

    /// The driver writes the status register, or it is reset.
    virtio_set_status(vdev: trace::Id, val: u8) "vdev {vdev} val {val}";
    /// The driver says that there is something in queue `n`.
    virtio_queue_notify(vdev: trace::Id, n: u16, vq: trace::Id) "vdev {vdev} n {n} vq {vq}";
    /// The driver is to be interrupted for a queue.
    virtio_notify(vdev: trace::Id, vq: trace::Id) "vdev {vdev} vq {vq}";
    /// An interrupt by message, or (0xffff) by the pin.
    virtio_pci_notify(vector: u16) "virtio_pci_notify vec {vector:#x}";
    /// A write to the notification registers that came to us.
    virtio_pci_notify_write(addr: u64, val: u64, size: u8) "{addr:#x} = {val:#x} ({size})";
    /// A write to the notification port that came to us.
    virtio_pci_notify_write_pio(addr: u64, val: u64, size: u8) "{addr:#x} = {val:#x} ({size})";
    /// A buffer is taken from a queue: `elem` is its descriptor, and what can be written and read is counted in pieces.
    virtqueue_pop(vq: trace::Id, elem: u16, in_num: usize, out_num: usize) "vq {vq} elem {elem} in_num {in_num} out_num {out_num}";
    /// A buffer goes back with `len` bytes, as entry `idx` of the used ring.
    virtqueue_fill(vq: trace::Id, elem: u16, len: u32, idx: u16) "vq {vq} elem {elem} len {len} idx {idx}";
    /// Another process that serves a queue has heard of more notifications than it took.
    pliant_virtio_kick_full(queue: u16, error: &std::io::Error) "queue {queue}: {error}";

    /// A buffer for `size` bytes of entropy, of which the guest may have `quota` now.
    virtio_rng_request(rng: trace::Id, size: usize, quota: u64) "rng {rng}: {size} bytes requested, {quota} bytes quota left";
    /// It got `len`.
    virtio_rng_pushed(rng: trace::Id, len: usize) "rng {rng}: {len} bytes pushed";

    /// The guest is to be told something about a port of a serial device.
    virtio_serial_send_control_event(port: u32, event: u16, value: u16) "port {port}, event {event}, value {value}";
    /// The host takes no more from a port, or takes it again.
    virtio_serial_throttle_port(port: u32, throttle: u8) "port {port}, throttle {throttle}";
    /// The guest tells something,
    virtio_serial_handle_control_message(event: u16, value: u16) "event {event}, value {value}";
    /// namely about this port.
    virtio_serial_handle_control_message_port(port: u32) "port {port}";
    /// The guest's data, and how much of it the host took.
    virtio_console_flush_buf(port: u32, len: usize, ret: usize) "port {port}, in_len {len}, out_len {ret}";
    /// The host's data for a port.
    virtio_console_chr_read(port: u32, size: usize) "port {port}, size {size}";

    /// The guest shall keep `target` bytes, and so do without so many pages.
    virtio_balloon_to_target(target: u64, num_pages: u64) "balloon target: {target:#x} num_pages: {num_pages}";
    /// The guest has so many bytes now.
    virtio_balloon_set_config(actual: i64, pages: u64) "actual: {actual} pages: {pages}";

    // PCI.

    /// Configuration space is read.
    pci_cfg_read(dev: &str, bus: u8, slot: u8, func: u8, offs: u16, val: u32)
        "{dev} {bus:02x}:{slot:02x}.{func:x} @{offs:#x} -> {val:#x}";
    /// It is written.
    pci_cfg_write(dev: &str, bus: u8, slot: u8, func: u8, offs: u16, val: u32)
        "{dev} {bus:02x}:{slot:02x}.{func:x} @{offs:#x} <- {val:#x}";
    /// A base address register maps its region.
    pci_update_mappings_add(dev: &str, slot: u8, func: u8, bar: u8, addr: u64, size: u64)
        "{dev} 00:{slot:02x}.{func:x} {bar},{addr:#x}+{size:#x}";
    /// It does not any more.
    pci_update_mappings_del(dev: &str, slot: u8, func: u8, bar: u8, addr: u64, size: u64)
        "{dev} 00:{slot:02x}.{func:x} {bar},{addr:#x}+{size:#x}";
    /// MSI-X is switched.
    msix_write_config(name: &str, enabled: u8, masked: u8) "dev {name} enabled {enabled} masked {masked}";
    /// Signals of another process reach the guest through this one.
    pliant_msix_detour(error: &qapi::Error) "{error}";
    /// A CPU is selected whose number is too high.
    cpuhp_acpi_invalid_idx_selected(idx: u32) "{idx:#x}";
    /// The guest reads what there is to know of a CPU.
    cpuhp_acpi_read_flags(idx: u32, flags: u8) "idx[{idx:#x}] flags: {flags:#x}";
    /// It selects one.
    cpuhp_acpi_write_idx(idx: u32) "set active cpu idx: {idx:#x}";
    /// It says what the data are about.
    cpuhp_acpi_write_cmd(idx: u32, cmd: u8) "idx[{idx:#x}] cmd: {cmd:#x}";
    /// It reads them.
    cpuhp_acpi_read_cmd_data(idx: u32, data: u32) "idx[{idx:#x}] data: {data:#x}";
    /// The guest took the event of a CPU that came.
    cpuhp_acpi_clear_inserting_evt(idx: u32) "idx[{idx:#x}]";
    /// The guest took the event of a CPU that is to go.
    cpuhp_acpi_clear_remove_evt(idx: u32) "idx[{idx:#x}]";
    /// The guest lets go of a CPU that is not there, or cannot go.
    cpuhp_acpi_ejecting_invalid_cpu(idx: u32) "{idx:#x}";
    /// The guest lets go of a CPU.
    cpuhp_acpi_ejecting_cpu(idx: u32) "{idx:#x}";
    /// The guest leaves a CPU to its firmware that is not there, or cannot go.
    cpuhp_acpi_fw_remove_invalid_cpu(idx: u32) "{idx:#x}";
    /// The guest leaves it to its firmware to let go of a CPU.
    cpuhp_acpi_fw_remove_cpu(idx: u32) "{idx:#x}";
    /// What is written to the registers of CPU hot-plug: the event and the status that the guest speaks of.
    cpuhp_acpi_write_ost_ev(slot: u32, ev: u32) "idx[{slot:#x}] OST EVENT: {ev:#x}";
    /// See above.
    cpuhp_acpi_write_ost_status(slot: u32, st: u32) "idx[{slot:#x}] OST STATUS: {st:#x}";
    /// A slot is selected whose number is too high.
    mhp_acpi_invalid_slot_selected(slot: u32) "{slot:#x}";
    /// What is written to the registers of memory hot-plug: the event and the status that the guest speaks of.
    mhp_acpi_write_ost_ev(slot: u32, ev: u32) "slot[{slot:#x}] OST EVENT: {ev:#x}";
    /// See above.
    mhp_acpi_write_ost_status(slot: u32, st: u32) "slot[{slot:#x}] OST STATUS: {st:#x}";
    /// The guest took the event of a DIMM that came.
    mhp_acpi_clear_insert_evt(slot: u32) "slot[{slot:#x}] clear insert event";
    /// The guest took the event of a DIMM that is to go.
    mhp_acpi_clear_remove_evt(slot: u32) "slot[{slot:#x}] clear remove event";
    /// A DIMM is gone.
    mhp_acpi_pc_dimm_deleted(slot: u32) "slot[{slot:#x}] pc-dimm deleted";
    /// The slots in which the guest finds something new, a bit each.
    acpi_pci_up_read(val: u32) "{val}";
    /// Those that are to go.
    acpi_pci_down_read(val: u32) "{val}";
    /// Those that may go.
    acpi_pci_rmv_read(val: u32) "{val}";
    /// Which bus is looked at.
    acpi_pci_sel_read(val: u32) "{val}";
    /// The guest lets go of slots.
    acpi_pci_ej_write(addr: u64, data: u64) "{addr:#x} <== {data}";
    /// The guest chooses a bus.
    acpi_pci_sel_write(addr: u64, data: u64) "{addr:#x} <== {data}";
    /// The guest is asked to let go of a slot.
    acpi_pci_unplug_request(bsel: u32, slot: u8) "bsel: {bsel} slot: {slot}";
    /// A slot is empty.
    acpi_pci_unplug(bsel: u32, slot: u8) "bsel: {bsel} slot: {slot}";

    // Serial ports.

    /// A register is read.
    serial_read(addr: u8, value: u8) "read addr 0x{addr:02x} val 0x{value:02x}";
    /// A register is written.
    serial_write(addr: u8, value: u8) "write addr 0x{addr:02x} val 0x{value:02x}";

    // Back ends in other processes.

    /// A request goes to a back end; the number is the protocol's.
    vhost_user_write(req: u32, flags: u32) "req:{req} flags:{flags:#x}";
    /// An answer came.
    vhost_user_read(req: u32, flags: u32) "req:{req} flags:{flags:#x}";
    /// Memory that a back end may see.
    vhost_region_add_section(name: &str, gpa: u64, size: u64, offset: u64) "{name}: {gpa:#x}+{size:#x} @ {offset:#x}";
    /// Memory that it may not.
    vhost_reject_section(name: &str, d: i32) "{name}:{d}";
    /// Changes of the memory are over: whether rings run, and whether the back end is told.
    vhost_commit(started: u8, changed: u8) "Started: {started} Changed: {changed}";
    /// A back end begins to serve rings.
    vhost_dev_start(dev: trace::Id, rings: usize) "{dev} rings:{rings}";
    /// It ends.
    vhost_dev_stop(dev: trace::Id, rings: usize) "{dev} rings:{rings}";
    /// A back end that had gone is there again.
    pliant_vhost_user_back(name: &str) "{name}";
    /// A back end did not introduce itself.
    pliant_vhost_user_no_introduction(fault: impl std::fmt::Display) "{fault}";
}
