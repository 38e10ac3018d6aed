"""A virtio-mem driver of a few lines that drives a stopped machine through its qtest socket.

Guest RAM is a file that both sides map, so that a request costs one line of the protocol: the write to the notify register.
Without ioeventfd the device serves it before that line is answered, and the answer's time is the request's time.
"""

import mmap
import struct
import time

# Where the driver maps BAR 4, and where in guest RAM its ring and buffers are.
BAR = 0xFE000000
RING = 0x20000000
AVAILABLE, USED, REQUEST, RESPONSE = 0x1000, 0x2000, 0x3000, 0x4000

VERSION_1 = 1 << 32
UNPLUGGED_INACCESSIBLE = 1 << 1

PLUG, UNPLUG, UNPLUG_ALL = range(3)


class Driver:
    """The first virtio-mem function on bus 0. `ram` is an open file: guest RAM from address 0 on."""

    def __init__(self, machine, ram):
        self.socket = machine.qtest
        self.reader = self.socket.makefile("r", encoding="ascii")
        self.ram = mmap.mmap(ram.fileno(), RING + 0x10000)
        self.next = 0
        self.function = next(d for d in range(32) if self.config(d, 0) == 0x10581AF4)
        self.structures = self.map()
        common = self.structures[1]
        for status in (0, 1, 3):
            self.command(f"writeb {common + 20:#x} {status}")
        for half in range(2):
            features = (VERSION_1 | UNPLUGGED_INACCESSIBLE) >> (32 * half) & 0xFFFFFFFF
            self.command(f"writel {common + 8:#x} {half}")
            self.command(f"writel {common + 12:#x} {features:#x}")
        self.command(f"writeb {common + 20:#x} 11")
        self.ram[RING : RING + 0x5000] = bytes(0x5000)
        # Two descriptors that stay: the request, and the response it chains to.
        struct.pack_into("<QIHH", self.ram, RING, RING + REQUEST, 24, 1, 1)
        struct.pack_into("<QIHH", self.ram, RING + 16, RING + RESPONSE, 10, 2, 0)
        self.command(f"writew {common + 22:#x} 0")
        for offset, address in ((32, RING), (40, RING + AVAILABLE), (48, RING + USED)):
            self.command(f"writel {common + offset:#x} {address:#x}")
            self.command(f"writel {common + offset + 4:#x} 0")
        self.command(f"writew {common + 28:#x} 1")
        self.command(f"writeb {common + 20:#x} 15")
        self.block = self.read(self.structures[4], "q")
        self.addr = self.read(self.structures[4] + 16, "q")

    def command(self, line):
        self.socket.sendall(line.encode() + b"\n")
        answer = self.reader.readline().split()
        if not answer or answer[0] != "OK":
            raise RuntimeError(f"qtest: {line}: {answer}")
        return answer[1:]

    def read(self, addr, size):
        return int(self.command(f"read{size} {addr:#x}")[0], 16)

    def config(self, device, offset, value=None):
        self.command(f"outl 0xcf8 {0x80000000 | device << 11 | offset & 0xFC:#x}")
        if value is not None:
            return self.command(f"outl 0xcfc {value:#x}")
        return int(self.command("inl 0xcfc")[0], 16)

    def map(self):
        """Maps BAR 4 and finds the structures in it, by the type of their capability."""
        self.config(self.function, 0x20, BAR)
        self.config(self.function, 0x24, 0)
        self.config(self.function, 0x04, 0x6)
        structures, at = {}, self.config(self.function, 0x34) & 0xFF
        while at:
            head = self.config(self.function, at)
            if head & 0xFF == 9 and self.config(self.function, at + 4) & 0xFF == 4:
                structures.setdefault(head >> 24, BAR + self.config(self.function, at + 8))
            at = head >> 8 & 0xFF
        return structures

    def request(self, kind, block=0, count=0):
        """Makes a request of blocks from the start of the region on; the seconds it took."""
        addr = self.addr + block * self.block if count else 0
        struct.pack_into("<HHHHQH", self.ram, RING + REQUEST, kind, 0, 0, 0, addr, count)
        self.ram[RING + RESPONSE : RING + RESPONSE + 10] = b"\xff" * 10
        self.next = self.next + 1 & 0xFFFF
        struct.pack_into("<H", self.ram, RING + AVAILABLE + 2, self.next)
        line = f"writew {self.structures[2]:#x} 0"
        begin = time.perf_counter()
        self.command(line)
        took = time.perf_counter() - begin
        (used,) = struct.unpack_from("<H", self.ram, RING + USED + 2)
        (answer,) = struct.unpack_from("<H", self.ram, RING + RESPONSE)
        if used != self.next or answer != 0:
            raise RuntimeError(f"request {kind} of {count} blocks at {block}: {answer}, used {used} of {self.next}")
        return took
