#!/usr/bin/env python3
"""Records what the console target answers (`src/machine.json`) from a running program.

    fuzz/record.py target/debug/pliant > fuzz/src/machine.json

Every query that takes no argument, and `qom-list` of the paths that people complete. What depends on the host or the moment is
as it was; the target compares nothing with it.
"""
import json
import socket
import subprocess
import sys
import tempfile
import time

LINE = """-machine q35 -accel qtest -m 1G,maxmem=20G,slots=2 -smp 2 -nodefaults -display none
-object memory-backend-ram,id=mem0,size=2G -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=1G
-device virtio-mem-pci,id=vm1,memdev=mem1 -object memory-backend-ram,id=mem1,size=1G
-chardev ringbuf,id=ring""".split()
# Long answers of which the console shows nothing.
SKIP = {"query-qmp-schema", "query-commands"}
PATHS = ["/", "/machine", "/machine/peripheral", "/machine/unattached", "/objects", "/chardevs", "vm0", "mem0", "vm0/virtio-backend"]


def main():
    with tempfile.TemporaryDirectory() as scratch:
        path = scratch + "/qmp"
        program = subprocess.Popen([sys.argv[1], *LINE, "-qmp", f"unix:{path},server=on,wait=off"])
        client = socket.socket(socket.AF_UNIX)
        while True:
            try:
                client.connect(path)
                break
            except OSError:
                if program.poll() is not None:
                    sys.exit("the program ended")
                time.sleep(0.01)
        stream = client.makefile("rw")
        stream.readline()

        def run(command, **arguments):
            stream.write(json.dumps({"execute": command, "arguments": arguments}))
            stream.flush()
            while True:
                reply = json.loads(stream.readline())
                if "event" not in reply:
                    return reply.get("return")

        run("qmp_capabilities")
        replies = {}
        for name in sorted(command["name"] for command in run("query-commands")):
            if "query-" in name and name not in SKIP:
                reply = run(name)
                if reply is not None:
                    replies[name] = reply
        for path in PATHS:
            replies["qom-list " + path] = run("qom-list", path=path)
        replies["qom-list"] = []
        replies["qom-list-types"] = run("qom-list-types", implements="user-creatable")
        replies["qom-get"] = run("qom-get", path="vm0", property="requested-size")
        run("quit")
        program.wait()
    print("{")
    print(",\n".join(f"{json.dumps(name)}: {json.dumps(reply)}" for name, reply in sorted(replies.items())))
    print("}")


main()
