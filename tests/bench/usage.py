#!/usr/bin/env python3
"""Runs a command and prints what it cost: CPU microseconds (user + system), wall microseconds, peak memory in KiB.

Its output is dropped; when it fails, its standard error is shown and the exit status is 1.
"""
import os
import subprocess
import sys
import time

start = time.monotonic_ns()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
said = child.stderr.read()
_, status, usage = os.wait4(child.pid, 0)
wall = (time.monotonic_ns() - start) // 1000
if status != 0:
    sys.stderr.buffer.write(said)
    sys.exit(f"failed: {' '.join(sys.argv[1:])}")
cpu = int((usage.ru_utime + usage.ru_stime) * 1_000_000)
print(cpu, wall, usage.ru_maxrss)
