"""Runs every shell block of README.md.

A comment in front of a block says how: `background PLACE` starts it, waits until somebody listens at
the port or path and stops it after the next block; `until-interrupted TEXT` interrupts each line after
it has printed the text; `tested` was run by another step; anything else runs to its end and must succeed.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time

DEADLINE = 600


def blocks(text):
    pattern = r"(?:<!-- ci: ([^\n]*) -->\n)?```sh\n(.*?)```"
    return re.findall(pattern, text, re.DOTALL)


def start(command, **options):
    print(f"$ {command}", flush=True)
    return subprocess.Popen(["bash", "-euc", command], start_new_session=True, **options)


def interrupt(process):
    os.killpg(process.pid, signal.SIGINT)
    code = process.wait(timeout=30)
    # cargo itself ends by the signal; the program below it has ended in order before.
    if code not in (0, 130, -signal.SIGINT):
        sys.exit(f"exit status {code}")


def connect(place):
    if place.isdigit():
        return socket.create_connection(("127.0.0.1", int(place)), 1)
    client = socket.socket(socket.AF_UNIX)
    client.connect(place)
    return client


def wait_for(place, process):
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            connect(place).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens at {place}")


def run_until_it_prints(text, command):
    process = start(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        print(line, end="", flush=True)
        if text in line:
            break
    else:
        sys.exit(f"ended by itself: {command}")
    interrupt(process)


def run(how, block, background):
    """Runs a block; returns what runs in the background after it."""
    word, _, argument = how.partition(" ")
    if word == "tested":
        return background
    if word == "background":
        background.append(start(block))
        wait_for(argument, background[0])
        return background
    if word == "until-interrupted":
        for line in block.strip().splitlines():
            run_until_it_prints(argument, line)
        return background
    if start(block).wait(timeout=DEADLINE) != 0:
        sys.exit("failed")
    while background:
        interrupt(background.pop())
    return background


def main():
    background = []
    try:
        for how, block in blocks(open("README.md", encoding="utf-8").read()):
            background = run(how, block, background)
    finally:
        for process in background:
            os.killpg(process.pid, signal.SIGKILL)


main()
