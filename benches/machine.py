"""A running program with one QMP connection, and what can be asked of its process."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

PATIENCE = 120


def is_qemu(program):
    return "qemu" in os.path.basename(program)


class Machine:
    """A running program with one QMP connection, which it makes itself so that nobody has to poll for it."""

    def __init__(self, program, args, greet=True, serial=False, qtest=False):
        self.folder = tempfile.mkdtemp(prefix="pliant-bench-")
        path = os.path.join(self.folder, "qmp")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(PATIENCE)
        if serial:
            guest = socket.socket(socket.AF_UNIX)
            guest.bind(os.path.join(self.folder, "serial"))
            guest.listen(1)
            args = [*args, "-serial", f"unix:{self.folder}/serial"]
        if qtest:
            client = socket.socket(socket.AF_UNIX)
            client.bind(os.path.join(self.folder, "qtest"))
            client.listen(1)
            args = [*args, "-qtest", f"unix:{self.folder}/qtest", "-qtest-log", "/dev/null"]
        self.stderr = open(os.path.join(self.folder, "stderr"), "w+", encoding="utf-8", errors="replace")
        self.begin = time.perf_counter()
        self.process = subprocess.Popen(
            [program, *args, "-chardev", f"socket,id=bench,path={path}", "-mon", "chardev=bench,mode=control"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.stderr,
            cwd=self.folder,
        )
        # Whichever is first: the connection or the program's end.
        pidfd = os.pidfd_open(self.process.pid)
        ready, _, _ = select.select([listener, pidfd], [], [], PATIENCE)
        os.close(pidfd)
        if listener not in ready:
            self.fail("ended before it connected" if ready else "did not connect")
        self.socket, _ = listener.accept()
        listener.close()
        self.socket.settimeout(PATIENCE)
        self.reader = self.socket.makefile("r", encoding="utf-8")
        self.greeted = None
        self.events = []
        if serial:
            # The chardevs are all made before the machine is, so that the connection is there or is about to be.
            guest.settimeout(PATIENCE)
            self.serial = guest.accept()[0].makefile("rw", encoding="utf-8", errors="replace")
            guest.close()
        if qtest:
            client.settimeout(PATIENCE)
            self.qtest, _ = client.accept()
            client.close()
        if greet:
            self.read_greeting()
            self.execute("qmp_capabilities")

    def fail(self, what):
        self.stderr.seek(0)
        text = self.stderr.read()
        self.end()
        raise RuntimeError(f"{what}: {text.strip()}")

    def read_greeting(self):
        while True:
            line = self.reader.readline()
            if not line:
                self.fail("hung up before its greeting")
            if "QMP" in json.loads(line):
                self.greeted = time.perf_counter() - self.begin
                return

    def execute(self, command, **arguments):
        request = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            line = self.reader.readline()
            if not line:
                self.fail(f"hung up at {command}")
            message = json.loads(line)
            if "event" in message:
                self.events.append(message)
                continue
            if "error" in message:
                self.fail(f"{command}: {message['error']['desc']}")
            return message["return"]

    def wait_event(self, wanted):
        """Waits for an event that is wanted, or finds it among those that came; they stay in `events`."""
        seen = 0
        while True:
            for event in self.events[seen:]:
                if wanted(event):
                    return event
            seen = len(self.events)
            line = self.reader.readline()
            if not line:
                self.fail(f"hung up after the events {self.events}")
            message = json.loads(line)
            if "event" in message:
                self.events.append(message)

    def hmp(self, line):
        return self.execute("human-monitor-command", **{"command-line": line})

    def request(self, size, device="vm0"):
        self.execute("qom-set", path=device, property="requested-size", value=size)

    def wait_guest(self, size):
        """Waits until the guest says that it has this size and has written what it writes to new memory."""
        wanted = f"plugged {size} of {size} requested"
        for line in self.serial:
            if wanted in line:
                return
        self.fail(f"hung up before the guest had {size}")

    def guest_says(self, command, answer):
        """Types a command for the guest, if any, and waits for a line with the answer, which it gives."""
        if command:
            self.serial.write(command + "\r")
            self.serial.flush()
        for line in self.serial:
            if answer in line:
                return line
        self.fail(f"hung up at the guest's {command}")

    def memory(self):
        """Fields of /proc/PID/status in MiB."""
        figures = {}
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            for line in status:
                name, _, rest = line.partition(":")
                if rest.endswith("kB\n"):
                    figures[name] = int(rest.split()[0]) / 1024
        return figures

    def processor_time(self):
        """Seconds that its threads have run, the guest included."""
        total = 0
        for task in os.scandir(f"/proc/{self.process.pid}/task"):
            with open(f"{task.path}/schedstat", encoding="ascii") as schedstat:
                total += int(schedstat.read().split()[0])
        return total / 1e9

    def end(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)
