"""What mapping and unmapping costs while up to 256 memory slots are mapped, and what looking at them costs."""

import os
import statistics
import tempfile
import time

from machine import Machine, is_qemu
from qtest import PLUG, UNPLUG, UNPLUG_ALL, Driver

SLOTS = 256
GIB = 1 << 30

DEVICE = (
    f"-machine q35,memory-backend=ram -m 1G,maxmem={SLOTS + 1}G -nodefaults -display none "
    f"-object memory-backend-ram,id=mem0,size={SLOTS}G,reserve=off "
    "-device virtio-mem-pci,id=vm0,memdev=mem0,dynamic-memslots=on,ioeventfd=off"
).split()


def timed(step):
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def memslots(program, accel):
    """A guest has run, so that KVM has the slots; then the machine is stopped and the driver is here.

    Each figure is the median of all slots. What a line of the qtest protocol costs alone is in each of them.
    """
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="pliant-bench-") as ram:
        ram.truncate(GIB)
        backend = f"memory-backend-file,id=ram,size=1G,mem-path={ram.name},share=on"
        args = ["-accel", accel, *DEVICE, "-object", backend]
        if is_qemu(program):
            args += ["-kernel", os.environ["BENCH_GUEST"]]
        machine = Machine(program, args, serial=True, qtest=True)
        try:
            return drive(machine, ram)
        finally:
            machine.end()


def drive(machine, ram):
    for size in (2 << 20, 0):
        machine.request(size)
        machine.wait_guest(size)
    machine.execute("stop")
    driver = Driver(machine, ram)
    per_slot = GIB // driver.block
    machine.request(SLOTS * GIB)
    times = {}

    def note(name, seconds):
        times.setdefault(name, []).append(seconds)

    for _ in range(SLOTS):
        note("qtest line alone, us", timed(lambda: driver.read(driver.structures[4], "q")) * 1e6)
    for slot in range(SLOTS):
        note("plug that maps, us", driver.request(PLUG, slot * per_slot, 1) * 1e6)
        note("plug in a mapped slot, us", driver.request(PLUG, slot * per_slot + 1, 1) * 1e6)
    for _ in range(20):
        for line in ("info mtree", "info mtree -f", "info mtree -f -d"):
            note(f"{line}, ms", timed(lambda: machine.hmp(line)) * 1e3)
        note("query-memory-devices, ms", timed(lambda: machine.execute("query-memory-devices")) * 1e3)
    for slot in range(SLOTS):
        note("unplug in a mapped slot, us", driver.request(UNPLUG, slot * per_slot + 1, 1) * 1e6)
        note("unplug that unmaps, us", driver.request(UNPLUG, slot * per_slot, 1) * 1e6)
    for _ in range(3):
        for slot in range(SLOTS):
            driver.request(PLUG, slot * per_slot, 1)
        note("unplug all 256, ms", driver.request(UNPLUG_ALL) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


# Two devices of 1024 parts, the most that a machine gives out. QEMU has 256 slots for all devices.
MANY = "-machine q35 -m 1G,maxmem=257G -nodefaults -display none".split()
for _n in range(2):
    MANY += ["-object", f"memory-backend-ram,id=mem{_n},size=128G,reserve=off"]
    MANY += ["-device", f"virtio-mem-pci,id=vm{_n},memdev=mem{_n},memslots=1024,requested-size=128G"]


def sections(program):
    """Looking at 2048 mapped sections; nothing runs."""
    machine = Machine(program, ["-accel", "qtest", *MANY])
    mapped = machine.hmp("info mtree").count("virtio-mem-memslot-1023 ")
    figures = {}
    for line in ("info mtree", "info mtree -f", "info mtree -f -d", "info mtree -o"):
        times = [timed(lambda: machine.hmp(line)) * 1e3 for _ in range(20)]
        figures[f"{line}, ms"] = statistics.median(times)
    times = [timed(lambda: machine.execute("query-memory-devices")) * 1e3 for _ in range(20)]
    figures["query-memory-devices, ms"] = statistics.median(times)
    machine.end()
    if mapped < 2:
        raise RuntimeError("not all parts are mapped")
    return figures
