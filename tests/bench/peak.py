"""Peak memory of a command and of the processes that it starts from its own program, in KiB: of all at once, and of the first alone.

    peak.py COMMAND ARGUMENT..

What is counted is the proportional share of each page (`Pss`), so that pages which a fork shares are counted once. A child between
`vfork` and its program has the address space of its parent, which is no share of it: such a one is left out. It is looked at all the
time, so a peak of a few milliseconds may be missed; the first process's own peak is told by the kernel (`VmHWM`) and exact.
"""

import ctypes
import os
import platform
import subprocess
import sys


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def field(text, name):
    for line in text.splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0


def tasks(pid):
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def descendants(top):
    found, open_ = [], [top]
    while open_:
        pid = open_.pop()
        found.append(pid)
        for task in tasks(pid):
            children = [int(child) for child in read(f"/proc/{pid}/task/{task}/children").split()]
            open_ += [child for child in children if not borrows(child, pid)]
    return found


def program(pid):
    try:
        return os.stat(f"/proc/{pid}/exe")
    except OSError:
        return None


KCMP = {"x86_64": 312, "aarch64": 272}.get(platform.machine())
KCMP_VM = 1
libc = ctypes.CDLL(None)


def borrows(pid, parent):
    """Whether a process uses the address space of another one."""
    return KCMP is not None and libc.syscall(KCMP, pid, parent, KCMP_VM, 0, 0) == 0


def main():
    child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
    own, all_, alone = None, 0, 0
    while child.poll() is None:
        own = own or program(child.pid)
        at_once = 0
        for pid in descendants(child.pid):
            exe = program(pid)
            if exe and own and os.path.samestat(exe, own):
                at_once += field(read(f"/proc/{pid}/smaps_rollup"), "Pss")
        all_ = max(all_, at_once)
        alone = max(alone, field(read(f"/proc/{child.pid}/status"), "VmHWM"))
    if child.returncode:
        sys.exit(f"failed: {' '.join(sys.argv[1:])}")
    print(max(all_, alone), alone)


main()
