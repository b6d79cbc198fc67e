"""Runs every shell block of README.md.

A comment in front of a block says how: `background PORT` starts it, waits for the port and stops it
after the next block; `until-interrupted` interrupts each line after it has printed something;
`tested` was run by another step; anything else runs to its end and must succeed.
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


def wait_for_port(port, process):
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


def run_until_it_prints(command):
    process = start(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        print(line, end="", flush=True)
        if "you are worker" in line:
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
        wait_for_port(int(argument), background[0])
        return background
    if word == "until-interrupted":
        for line in block.strip().splitlines():
            run_until_it_prints(line)
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
