#!/usr/bin/env python3
"""What a busy log costs: the CPU time of sos itself while a builder writes 10,000 lines a second, each with a write of its own.

    SOS=path/of/sos python3 tests/bench/log_lines.py [SECONDS]

One row a display. The builder and its sandbox are processes of their own and do not count. Needs a C compiler.
"""
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time

WRITER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <fcntl.h>
int main(int argc, char **argv) {
  long lines = atol(argv[1]) * 10000;
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  for (long n = 0; n < lines; n++) {
    char line[128];
    int length = snprintf(line, sizeof line, "[%6ld/100000] CC drivers/net/ethernet/intel/e1000e/part-%ld.o\n", n, n);
    if (write(1, line, length) != length) return 1;
    at.tv_nsec += 100000;
    if (at.tv_nsec >= 1000000000) { at.tv_nsec -= 1000000000; at.tv_sec++; }
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, 0);
  }
  return close(open(getenv("out"), O_WRONLY | O_CREAT, 0666));
}
"""


def drain(descriptor):
    """Reads and drops everything."""
    try:
        while os.read(descriptor, 1 << 16):
            pass
    except OSError:
        pass


def cpu_ticks(pid):
    """User and system time of a process and all its threads, without its children."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    return int(fields[11]) + int(fields[12])


def measure(command, env, terminal):
    """Runs a command; returns the share of one core that it took, and its seconds."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    start = time.monotonic()
    child = subprocess.Popen(command, env=env, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    reader = threading.Thread(target=drain, args=(ours,))
    reader.start()
    # It stays a zombie, whose books can be read, until it is waited for.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    seconds = time.monotonic() - start
    ticks = cpu_ticks(child.pid)
    if child.wait() != 0:
        sys.exit(f"failed: {' '.join(command)}")
    reader.join()
    os.close(ours)
    return ticks / os.sysconf("SC_CLK_TCK") / seconds, seconds


def main():
    sos = os.environ["SOS"]
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as work:
        writer = f"{work}/writer"
        built = subprocess.run(["cc", "-O2", "-static", "-x", "c", "-o", writer, "-"], input=WRITER.encode(), check=False)
        if built.returncode != 0:
            print("skipped: no C compiler that links statically")
            return
        print("| 10,000 log lines a second | CPU of one core |")
        print("|---|---|")
        for number, (name, terminal, more) in enumerate(
            [
                ("on a terminal", True, []),
                ("on a terminal, with `-L`", True, ["-L"]),
                ("plain", False, ["--progress", "plain"]),
                ("plain, with `-L`", False, ["--progress", "plain", "-L"]),
                ("JSON", False, ["--progress", "json"]),
            ]
        ):
            recipe = f"{work}/f{number}.nix"
            with open(recipe, "w", encoding="utf-8") as file:
                file.write(
                    f'derivation {{ name = "busy-{number}"; system = "x86_64-linux"; builder = "/writer"; args = [ "{seconds}" ]; }}'
                )
            env = {"HOME": work, "PATH": os.environ["PATH"], "TERM": "xterm-256color", "LANG": "C.UTF-8"}
            command = [sos, "--store", f"{work}/store", "--config", f'build.sandbox-paths=["/writer={writer}"]']
            command += ["build", "--no-link", *more, recipe]
            share, took = measure(command, env, terminal)
            late = "" if took < seconds * 1.2 else f" (the machine is busy: {took:.1f} s)"
            print(f"| {name} | {share * 100:.1f} %{late} |")


main()
