"""Measures pliant and QEMU side by side: start, memory of an idle machine, QMP commands, plugging, memory slots.

Only the standard library is used. Each figure is the median of several runs, taken in turn (one of pliant, one of QEMU, ...), so that
what the machine does meanwhile meets both alike. The last columns are QEMU's figure over pliant's: of the medians, and the lowest and the
highest of one round.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time

from machine import Machine, is_qemu
from memslots import memslots, sections
from migration import migration
from tebibyte import tebibyte

RUNS = int(os.environ.get("RUNS", "20"))

# The command line of the first session, without accelerator and monitors.
SESSION = (
    "-machine q35 -m 4G,maxmem=20G -smp sockets=2,cores=2 -nodefaults -display none "
    "-object memory-backend-ram,id=ram0,size=2G -object memory-backend-ram,id=ram1,size=2G "
    "-numa node,nodeid=0,cpus=0-1,memdev=ram0 -numa node,nodeid=1,cpus=2-3,memdev=ram1 "
    "-object memory-backend-ram,id=mem0,size=8G "
    "-device virtio-mem-pci,id=vm0,memdev=mem0,node=0,requested-size=0M "
    "-object memory-backend-ram,id=mem1,size=8G "
    "-device virtio-mem-pci,id=vm1,memdev=mem1,node=1,requested-size=1G"
).split()

IDLE = "-machine q35 -m 1G -nodefaults -display none".split()

PLUG = (
    "-machine q35 -m 1G,maxmem=20G -nodefaults -display none "
    "-object memory-backend-ram,id=mem0,size=8G -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=0"
).split()


def start(program, accel):
    """Seconds from the start of the process to the greeting, and to the answer to the first command."""
    machine = Machine(program, ["-accel", accel, *SESSION], greet=False)
    machine.read_greeting()
    greeting = machine.greeted
    machine.execute("qmp_capabilities")
    machine.execute("query-status")
    answered = time.perf_counter() - machine.begin
    machine.end()
    return {"to the greeting, ms": greeting * 1e3, "to the first answer, ms": answered * 1e3}


def memory(program, accel):
    """Memory of an idle machine whose guest, if it has one, has come to rest."""
    machine = Machine(program, ["-accel", accel, *IDLE])
    machine.execute("query-status")
    fields = machine.memory()
    figures = {f"{name}, MiB": fields[name] for name in ("VmRSS", "RssAnon")}
    with open(f"/proc/{machine.process.pid}/smaps_rollup", encoding="ascii") as smaps:
        for line in smaps:
            name, _, rest = line.partition(":")
            if name == "Private_Dirty":
                figures["Private_Dirty, MiB"] = int(rest.split()[0]) / 1024
    machine.end()
    return figures


def qmp(program, accel, *more):
    """Commands a second, each sent when the one before was answered, what one costs, and a long request.

    The client is a program of its own (src/qmp_load.rs) on the connection that was made here: Python would be what is measured.
    """
    machine = Machine(program, ["-accel", accel, *PLUG])
    fd = machine.socket.fileno()
    load = subprocess.run(
        [os.environ["QMP_LOAD_BIN"], str(fd), str(machine.process.pid), *more],
        pass_fds=[fd],
        stdout=subprocess.PIPE,
        timeout=600,
        text=True,
        check=False,
    )
    machine.end()
    if load.returncode:
        raise RuntimeError(f"the client ended with {load.returncode}")
    rows = (line.split("\t") for line in load.stdout.splitlines())
    return {name: float(value) for name, value in rows}


def garbage(program, accel):
    """Megabytes of random bytes: time, and memory, with a client that reads the replies and one that does not."""
    figures = qmp(program, accel, "garbage")
    return {name: value for name, value in figures.items() if "garbage" in name or "unread" in name}


def plug(program, accel):
    """Seconds for the built-in guest to plug and to unplug 8 GiB in blocks of 2 MiB, one page of each touched.

    QEMU boots the guest's program by -kernel; BENCH_GUEST names its file (see benches/README.md).
    """
    args = ["-accel", accel, *PLUG]
    if is_qemu(program):
        args += ["-kernel", os.environ["BENCH_GUEST"]]
    machine = Machine(program, args, serial=True)
    size = 8 << 30
    # The first block tells that the guest is up.
    machine.request(2 << 20)
    machine.wait_guest(2 << 20)
    figures = {}
    for name, wanted in (("plug 8 GiB, s", size), ("unplug 8 GiB, s", 0)):
        begin = time.perf_counter()
        machine.request(wanted)
        machine.wait_guest(wanted)
        figures[name] = time.perf_counter() - begin
    machine.end()
    return figures


def doorbell(program, accel):
    """Round trips a second through one queue: the built-in guest asks an entropy device for 64 bytes, again and again.

    Each is a doorbell, a chain served and an answer. Sleeping, the guest halts until the device's interrupt comes; polling, it looks
    at the used ring, and the interrupt that comes all the same costs it an exit.
    """
    args = ["-accel", accel, *IDLE, "-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0"]
    if is_qemu(program):
        args += ["-kernel", os.environ["BENCH_GUEST"]]
    machine = Machine(program, args, serial=True)
    machine.guest_says("", "ready:")
    figures = {}
    for wait in ("sleep", "poll"):
        # The first run warms up.
        for count in (1000, 20000):
            begin = machine.processor_time()
            line = machine.guest_says(f"rng {count} 64 {wait}", "rng: ")
            if "rng: ok:" not in line:
                machine.fail(f"the guest says: {line.strip()}")
            cost = (machine.processor_time() - begin) / count
        figures[f"round trips a second, {wait}"] = int(line.rsplit(",", 1)[1].split()[0])
        # Of the whole process: vCPU, main loop, and what the kernel does for them.
        figures[f"processor time for one, us, {wait}"] = cost * 1e6
    machine.end()
    return figures


def protection(level):
    """What `unplugged-protection` costs a guest that keeps its promise, and one that touches what is not plugged."""
    program, size = os.environ["PLIANT_BIN"], 8 << 30
    # Nothing is written to plugged memory: zeroing it would be all that is seen.
    args = ["-accel", "kvm", *PLUG[:-1], f"{PLUG[-1]},unplugged-protection={level}", "-append", "touch=none"]
    machine = Machine(program, args, serial=True)
    machine.request(2 << 20)
    machine.wait_guest(2 << 20)
    figures = {}

    def timed(name, what, *arguments, **named):
        begin = time.perf_counter()
        what(*arguments, **named)
        figures[name] = (time.perf_counter() - begin) * 1e3

    def resize(wanted):
        machine.request(wanted)
        machine.wait_guest(wanted)

    timed("plug 8 GiB, ms", resize, size)
    timed("unplug half of it, ms", resize, size // 2)
    # The guest's device memory begins behind its RAM, at 4 GiB.
    hole = (4 << 30) + size - (2 << 20)
    timed("first touch of a hole, ms", machine.guest_says, f"poke {hole} 1", "poke 0x")
    timed("next touch, ms", machine.guest_says, f"poke {hole} 1", "poke 0x")
    timed("touch 2048 blocks twice, ms", machine.guest_says, "trespass", "blocks touched")
    timed("unplug the other half, ms", resize, 0)
    machine.end()
    return figures


def protections(runs):
    """The levels of protection in turn, then what the mechanisms cost."""
    levels = ("off", "block")
    collected = {level: {} for level in levels}
    for _ in range(runs):
        for level in levels:
            for figure, value in protection(level).items():
                collected[level].setdefault(figure, []).append(value)
    print(f"\nprotection (pliant, median of {runs})")
    print(f"  {'unplugged-protection=':28}{levels[0]:>12}{levels[1]:>12}")
    for figure in collected[levels[0]]:
        values = [statistics.median(collected[level][figure]) for level in levels]
        print(f"  {figure:28}{values[0]:12.2f}{values[1]:12.2f}", flush=True)
    subprocess.run([os.environ["PROTECTION_BIN"]], check=True)


def compare(name, measure, accel, runs):
    """Runs a measurement of both programs in turn and prints the medians."""
    programs = {"pliant": os.environ["PLIANT_BIN"], "QEMU": shutil.which("qemu-system-x86_64")}
    collected = {who: {} for who in programs}
    for _ in range(runs):
        for who, program in programs.items():
            try:
                for figure, value in measure(program, accel).items():
                    collected[who].setdefault(figure, []).append(value)
            except (RuntimeError, OSError, KeyError) as error:
                collected[who].setdefault("failed", []).append(str(error))
    print(f"\n{name} (-accel {accel}, median of {runs})")
    print(f"  {'':34}{'pliant':>12}{'QEMU':>12}{'QEMU/pliant':>14}{'a round':>16}")
    figures = dict.fromkeys(figure for who in collected.values() for figure in who if figure != "failed")
    for figure in figures:
        values = [statistics.median(collected[who].get(figure, [float("nan")])) for who in programs]
        ratio = values[1] / values[0] if values[0] else float("nan")
        rounds = zip(*(collected[who].get(figure, []) for who in programs))
        ratios = sorted(theirs / ours for ours, theirs in rounds if ours)
        spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}" if ratios else ""
        print(f"  {figure:34}{values[0]:12.2f}{values[1]:12.2f}{ratio:14.2f}{spread:>16}")
    for who, of_who in collected.items():
        for error in dict.fromkeys(of_who.get("failed", [])):
            print(f"  {who} failed: {error}")


def main():
    kvm = os.access("/dev/kvm", os.R_OK | os.W_OK)
    parts = sys.argv[1:] or ["start", "memory", "qmp", "garbage", "plug", "doorbell", "memslots", "tebibyte", "sections"]
    # Each program's own way of running without KVM.
    accel = "kvm"
    if not kvm:
        print("no /dev/kvm: nothing here can be compared")
        return
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs, {time.strftime('%Y-%m-%d %H:%M')}")
    for part, measure, runs in (
        ("start", start, RUNS),
        ("memory", memory, max(1, RUNS // 4)),
        ("qmp", qmp, max(1, RUNS // 4)),
        ("plug", plug, max(1, RUNS // 6)),
        ("doorbell", doorbell, max(1, RUNS // 2)),
        ("memslots", memslots, max(1, RUNS // 6)),
        ("tebibyte", tebibyte, max(1, RUNS // 6)),
    ):
        if part in parts:
            compare(part, measure, accel, runs)
    if "garbage" in parts:
        print("\ngarbage (pliant)")
        for figure, value in garbage(os.environ["PLIANT_BIN"], accel).items():
            print(f"  {figure:32}{value:12.2f}")
    if "sections" in parts:
        print("\nsections (pliant, 2048 mapped, -accel qtest)")
        for figure, value in sections(os.environ["PLIANT_BIN"]).items():
            print(f"  {figure:28}{value:12.2f}")
    # Minutes, and gigabytes of memory: only when asked for.
    migration(parts, accel, RUNS)
    # Minutes, and no comparison with QEMU: only when asked for.
    if "protection" in parts:
        protections(max(1, RUNS // 4))


main()
