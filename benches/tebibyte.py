"""What a device of 1 TiB costs while nothing of it is plugged, and how fast a guest plugs 64 GiB of it."""

import os
import statistics
import time

from machine import Machine, is_qemu

GIB = 1 << 30

BARE = "-machine q35 -m 1G,maxmem=1025G -cpu qemu64,phys-bits=46 -nodefaults -display none".split()
DEVICE = "-object memory-backend-ram,id=mem0,size=1T,reserve=off -device virtio-mem-pci,id=vm0,memdev=mem0".split()

# Each at its best for a device that is mostly empty.
PARTS = {False: ",memslots=1024", True: ",dynamic-memslots=on"}


def run(program, accel, device):
    args = ["-accel", accel, *BARE, *device]
    if is_qemu(program):
        args += ["-kernel", os.environ["BENCH_GUEST"]]
    return Machine(program, [*args, "-append", "touch=none"], serial=True)


def with_parts(program):
    *rest, device = DEVICE
    return [*rest, device + PARTS[is_qemu(program)]]


def kernel():
    """MiB: memory that can be had, and what the kernel allocated in ways that memory slots use."""
    fields = {}
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        for line in meminfo:
            name, _, rest = line.partition(":")
            fields[name] = int(rest.split()[0]) / 1024
    return fields["MemAvailable"], fields["VmallocUsed"] + fields["PageTables"] + fields.get("SecPageTables", 0)


def at_rest(program, accel, device):
    """Resident memory once the guest waits, and what the host has less since before."""
    before = kernel()
    machine = run(program, accel, device)
    ready = next(line for line in machine.serial if "ready:" in line)
    assert ("1 virtio-mem" in ready) == bool(device), ready
    after = kernel()
    resident = machine.memory()["VmRSS"]
    return machine, resident, before[0] - after[0], after[1] - before[1]


def tebibyte(program, accel):
    """The device's own cost is the difference to the same machine without it."""
    machine, bare, bare_available, bare_kernel = at_rest(program, accel, [])
    machine.end()
    figures = {}
    for name, device in (("static", DEVICE), ("in parts", with_parts(program))):
        machine, resident, available, of_kernel = at_rest(program, accel, device)
        figures[f"{name}: resident, MiB"] = resident - bare
        figures[f"{name}: MemAvailable, MiB"] = available - bare_available
        figures[f"{name}: kernel, MiB"] = of_kernel - bare_kernel
        times = {"plug": [], "again": [], "unplug": []}
        for step, size in [("plug", 64 * GIB), ("unplug", 0)] + [("again", 64 * GIB), ("unplug", 0)] * 3:
            begin = time.perf_counter()
            machine.request(size)
            machine.wait_guest(size)
            times[step].append((time.perf_counter() - begin) * 1e3)
        for step, values in times.items():
            figures[f"{name}: {step} 64 GiB, ms"] = statistics.median(values)
        machine.end()
    return figures
