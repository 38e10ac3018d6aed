"""Moves machines from process to process, ours and QEMU's by turns, beside a plain copy of as many bytes through the same kind of socket.

Times are those of the programs' own events, of which both take the moment with the same clock: a move lasts from the source's `setup` to
the last `completed` of the two.
"""

import contextlib
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from machine import Machine, is_qemu

MIB, GIB = 1 << 20, 1 << 30
# What each move of memory is about, 64 MiB or more. The guest has a quarter more, which nobody touches.
SIZE = int(os.environ.get("MIB", "1024")) * MIB
RAM = SIZE + SIZE // 4

# Name, kind of socket, channels of multifd.
WAYS = (
    ("unix", "unix", 0),
    ("unix, multifd 1", "unix", 1),
    ("unix, multifd 4", "unix", 4),
    ("tcp", "tcp", 0),
    ("tcp, multifd 4", "tcp", 4),
)
# What issue 6 asks for: so many times QEMU's, and so much of the plain copy.
BARS = (1.5, 0.8)

PROGRAMS = {"pliant": os.environ.get("PLIANT_BIN"), "QEMU": shutil.which("qemu-system-x86_64")}


def options(program, accel, size, backend="", more=()):
    """A machine with `size` bytes of RAM in one block, which is called the same in both programs."""
    args = ["-accel", accel, "-machine", "q35,memory-backend=ram0", "-nodefaults", "-display", "none"]
    args += ["-object", f"memory-backend-ram,id=ram0,size={size}{backend}", *more]
    if not any(word.startswith("maxmem=") or ",maxmem=" in word for word in more):
        args += ["-m", f"size={size // MIB}M"]
    return args + (["-kernel", os.environ["BENCH_GUEST"]] if is_qemu(program) else [])


def started(program, args):
    """A machine whose guest is up and waits."""
    machine = Machine(program, args, serial=True)
    machine.guest_says("", "ready:")
    return machine


def write_ram(machine, size):
    """Has the guest write a pattern into each word of `size` bytes of RAM."""
    told = machine.guest_says(f"dirty {size} {1 << 40}", "bytes a second")
    if f"({size} of base ram)" not in told:
        machine.fail(f"the guest has not so much RAM: {told.strip()}")
    written = 0
    while written < size:
        line = machine.guest_says("check", "check: ")
        if "dirtied ram" in line:
            written = int(line.split("check: ")[1].split()[0])
            machine.guest_says("", "never written")
    machine.guest_says("dirty 0 0", "dirty: off")


def set_up(machine, **capabilities):
    """Switches capabilities on or off; `channels` is how many of multifd there are, if any."""
    channels = capabilities.pop("channels", 0)
    capabilities |= {"events": True, "multifd": channels > 0}
    states = [{"capability": name.replace("_", "-"), "state": state} for name, state in capabilities.items()]
    machine.execute("migrate-set-capabilities", capabilities=states)
    parameters = {"max-bandwidth": 0} | ({"multifd-channels": channels} if channels else {})
    machine.execute("migrate-set-parameters", **parameters)
    machine.events.clear()


def listen(machine, kind):
    """Has a machine wait for another; where."""
    if kind == "unix":
        uri = f"unix:{machine.folder}/incoming"
        machine.execute("migrate-incoming", uri=uri)
        return uri
    machine.execute("migrate-incoming", uri="tcp:127.0.0.1:0")
    address = machine.execute("query-migrate")["socket-address"][0]
    return f"tcp:{address['host']}:{address['port']}"


def moment(event):
    return event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6


def when(machine, status):
    """The moment in which its migration came to a status."""

    def wanted(event):
        return event["event"] == "MIGRATION" and event["data"]["status"] in (status, "failed")

    event = machine.wait_event(wanted)
    if event["data"]["status"] != status:
        machine.fail(machine.execute("query-migrate").get("error-desc", "the migration failed"))
    return moment(event)


def warm():
    """Has the host give us twice the memory of a machine, and gives it back: where the host is a guest itself, and takes what lies idle,
    the first who needs memory again would pay for all who do."""
    one = b"\1" * MIB
    with mmap.mmap(-1, 2 * RAM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, 2 * RAM, MIB):
            memory[at : at + MIB] = one


def work_done(machine):
    """Nanoseconds of processor time of all threads of a process."""
    tasks = f"/proc/{machine.process.pid}/task"
    done = 0
    for task in os.listdir(tasks):
        # A thread may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(f"{tasks}/{task}/schedstat", encoding="ascii") as stat:
                done += int(stat.read().split()[0])
    return done


def settle(machine):
    """Waits until a machine that waits does nothing else: who has just started may still be getting ready, in a thread of its own."""
    before = None
    while before != (before := work_done(machine)):
        time.sleep(0.05)


def move(source, program, args, kind, channels=0, needs_memory=True):
    """Moves a machine to a new process, which has it then; how many seconds it took."""
    if needs_memory:
        warm()
    there = Machine(program, [*args, "-incoming", "defer"], serial=True)
    try:
        for machine in (source, there):
            set_up(machine, channels=channels)
        uri = listen(there, kind)
        settle(there)
        source.execute("migrate", uri=uri)
        ended = max(when(source, "completed"), when(there, "completed"))
        return there, ended - when(source, "setup")
    except (RuntimeError, OSError):
        there.end()
        raise


def go_on(source):
    """A source that was left may be so again."""
    source.execute("cont")


def copy(*words):
    """Runs the plain copy; its seconds by name."""
    said = subprocess.run(
        [os.environ["SOCKET_COPY_BIN"], *map(str, words)], stdout=subprocess.PIPE, text=True, check=True, timeout=600
    )
    return {name: float(value) for name, value in (line.split("\t") for line in said.stdout.splitlines())}


class Table:
    """Figures of rounds, by name and by who has them."""

    def __init__(self, title, runs):
        self.figures, self.failed = {}, []
        print(f"\n{title} (medians of {runs})", flush=True)

    def note(self, name, who, value):
        self.figures.setdefault(name, {}).setdefault(who, []).append(value)

    def failure(self, name, who, error):
        self.failed.append(f"  {name}: {who} failed: {error}")

    def of(self, name, who):
        values = self.figures.get(name, {}).get(who)
        return statistics.median(values) if values else float("nan")

    def spread(self, name, over):
        """The lowest and the highest ratio of one round."""
        rounds = zip(self.figures[name].get("pliant", []), self.figures[name].get(over, []))
        ratios = sorted(ours / theirs for ours, theirs in rounds if theirs)
        return f"{ratios[0]:.2f}-{ratios[-1]:.2f}" if ratios else ""

    def print(self, others, bars=()):
        head = "".join(f"{who:>14}{'pliant/' + who:>14}{'a round':>14}" for who in others)
        print(f"  {'':30}{'pliant':>10}{head}" + ("   bars" if bars else ""))
        for name in self.figures:
            ours = self.of(name, "pliant")
            row = f"  {name:30}{ours:10.2f}"
            for who in others:
                theirs = self.of(name, who)
                ratio = ours / theirs if theirs else float("nan")
                row += f"{theirs:14.2f}{ratio:14.2f}{self.spread(name, who):>14}"
            if bars:
                row += "   " + ", ".join(f"{bar:.2f}" for bar in bars)
            print(row)
        for line in dict.fromkeys(self.failed):
            print(line)
        sys.stdout.flush()


def precopy(accel, runs):
    """GiB a second of memory with something in each page, of pages that hold zeroes, and of pages that nobody ever touched."""
    contents = (
        (f"{SIZE // MIB} MiB with a pattern", "", SIZE),
        # The kernel wrote the zeroes: somebody has to look at them.
        (f"{RAM // MIB} MiB of zeroes", ",prealloc=on", RAM),
        (f"{RAM // MIB} MiB that nobody touched", "", RAM),
    )
    for content, backend, size in contents:
        table = Table(f"{content}, GiB/s", runs)
        sources = {}
        for who, program in PROGRAMS.items():
            sources[who] = started(program, options(program, accel, RAM, backend))
            if size == SIZE:
                write_ram(sources[who], SIZE)
        for name, kind, channels in WAYS:
            for _ in range(runs):
                for who in list(sources):
                    program = PROGRAMS[who]
                    try:
                        there, seconds = move(sources[who], program, options(program, accel, RAM), kind, channels)
                        there.end()
                        go_on(sources[who])
                        table.note(name, who, size / GIB / seconds)
                    except (RuntimeError, OSError) as error:
                        table.failure(name, who, error)
                        sources.pop(who).end()
                warm()
                table.note(name, "plain copy", SIZE / GIB / copy(kind, max(1, channels), SIZE)["seconds"])
        for source in sources.values():
            source.end()
        table.print(("QEMU", "plain copy"), BARS)


def downtime(accel, runs):
    """How long an idle machine of 1 GiB stands still, from the source's STOP to the destination's RESUME; from process to process."""
    table = Table("an idle machine, ms", runs)
    machines = {who: started(program, options(program, accel, GIB)) for who, program in PROGRAMS.items()}
    for _ in range(runs):
        for who in list(machines):
            program, source = PROGRAMS[who], machines[who]
            try:
                there, seconds = move(source, program, options(program, accel, GIB), "unix", needs_memory=False)
                stop = source.wait_event(lambda event: event["event"] == "STOP")
                resume = there.wait_event(lambda event: event["event"] == "RESUME")
                table.note("from STOP to RESUME", who, (moment(resume) - moment(stop)) * 1e3)
                table.note("query-migrate's downtime", who, source.execute("query-migrate")["downtime"])
                table.note("all of it", who, seconds * 1e3)
                machines[who] = there
            except (RuntimeError, OSError) as error:
                table.failure("a move", who, error)
                machines.pop(who)
            source.end()
    for machine in machines.values():
        machine.end()
    table.print(("QEMU",), (0.25,))


def plugged(accel, runs):
    """A device of 64 GiB of which 64 MiB are plugged, against a machine that has just those as RAM."""
    full, base = 64 * MIB, 256 * MIB
    device = (
        f"-m {base // MIB}M,maxmem=66G -object memory-backend-ram,id=mem0,size=64G,reserve=off "
        f"-device virtio-mem-pci,id=vm0,memdev=mem0,requested-size={full // MIB}M -append touch=all"
    ).split()
    shapes = {"64 MiB of a device of 64 GiB": (base, device), "64 MiB of RAM": (base + full, [])}
    table = Table("total time, ms", runs)
    sources = {}
    for who, program in PROGRAMS.items():
        for name, (size, more) in shapes.items():
            args = options(program, accel, size, more=more)
            source = started(program, args)
            if more:
                source.wait_guest(full)
            else:
                write_ram(source, full)
            sources[who, name] = source, args
    for _ in range(runs):
        for who, name in list(sources):
            source, args = sources[who, name]
            try:
                there, seconds = move(source, PROGRAMS[who], args, "unix")
                there.end()
                go_on(source)
                table.note(name, who, seconds * 1e3)
            except (RuntimeError, OSError) as error:
                table.failure(name, who, error)
                sources.pop((who, name))[0].end()
    for source, _ in sources.values():
        source.end()
    table.print(("QEMU",))
    for who in PROGRAMS:
        many, few = (table.of(name, who) for name in shapes)
        print(f"  {who}: the device takes {many / few:.2f} times as long as RAM" + (" (bar: 1.20)" if who == "pliant" else ""))
    sys.stdout.flush()


def mapped_ram(accel, runs):
    """GiB a second into a file where each page has its place, and out of it; in /dev/shm, as disks are not what is measured."""
    table = Table(f"{SIZE // MIB} MiB with a pattern, a file with mapped-ram, GiB/s", runs)
    sources = {}
    for who, program in PROGRAMS.items():
        sources[who] = started(program, options(program, accel, RAM))
        write_ram(sources[who], SIZE)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="pliant-bench-") as folder:
        path = os.path.join(folder, "file")
        for name, channels in (("one thread", 0), ("multifd 4", 4)):
            for _ in range(runs):
                for who in list(sources):
                    try:
                        save, load = through_file(sources[who], PROGRAMS[who], accel, path, channels)
                        table.note(f"save, {name}", who, SIZE / GIB / save)
                        table.note(f"load, {name}", who, SIZE / GIB / load)
                    except (RuntimeError, OSError) as error:
                        table.failure(name, who, error)
                        sources.pop(who).end()
                    if os.path.exists(path):
                        os.remove(path)
                warm()
                seconds = copy("file", path, SIZE)
                os.remove(path)
                table.note(f"save, {name}", "plain copy", SIZE / GIB / seconds["write"])
                table.note(f"load, {name}", "plain copy", SIZE / GIB / seconds["read"])
    for source in sources.values():
        source.end()
    table.print(("QEMU", "plain copy"))


def through_file(source, program, accel, path, channels):
    """Saves a machine and loads it into another process; how many seconds each took."""
    set_up(source, channels=channels, mapped_ram=True)
    warm()
    source.execute("migrate", uri=f"file:{path}")
    save = when(source, "completed") - when(source, "setup")
    there = Machine(program, [*options(program, accel, RAM), "-incoming", "defer"], serial=True)
    try:
        set_up(there, channels=channels, mapped_ram=True)
        there.execute("migrate-incoming", uri=f"file:{path}")
        load = when(there, "completed") - when(there, "setup")
    finally:
        there.end()
    go_on(source)
    return save, load


PARTS = {"precopy": precopy, "downtime": downtime, "plugged": plugged, "mapped-ram": mapped_ram}


def migration(parts, accel, runs):
    """The parts that were asked for, or all; more moves where they are short."""
    for name, part in PARTS.items():
        if name in parts or "migration" in parts:
            part(accel, max(1, runs if name == "downtime" else runs // 4))
