"""Runs the shell blocks of README.md and docs/TUTORIAL.md; with `--terminal`, on a pseudo terminal, as a person.

A comment in front of a block says how: `background PLACE` starts it, waits until somebody listens at
the port or path and stops it after the next block; `until-interrupted TEXT` interrupts each line after
it has printed the text; `file NAME` writes it; `tested` was run by another step; anything else runs to
its end and must succeed. The tutorial runs in a package of its own, which finds the crates here.

On the terminal, Ctrl-C is typed, what is printed must be no panic and no complaint, colours are there, and with
NO_COLOR they are not.
"""

import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.getcwd()

DEADLINE = 600
ON_TERMINAL = "--terminal" in sys.argv
COLOUR = b"\x1b["
# What a person must never be shown by a command of the README.
COMPLAINTS = [b"panicked", b"RUST_BACKTRACE", b"not enabled", b"error sending", b"Inappropriate ioctl"]


def blocks(text):
    """How each block runs, and its text; of other languages than sh those that are files."""
    pattern = r"(?:<!-- ci: ([^\n]*) -->\n)?^```(\S+)\n(.*?)^```"
    for how, language, block in re.findall(pattern, text, re.DOTALL | re.MULTILINE):
        if language == "sh" or how.startswith("file "):
            yield how, block


class Command:
    """A block or a line of one that runs, and what it has printed."""

    def __init__(self, text, environment=None):
        print(f"$ {text}", flush=True)
        self.text = text
        self.is_coloured = ON_TERMINAL and not (environment or {}).get("NO_COLOR")
        self.printed = b""
        self.keyboard = None
        environment = {**os.environ, "CARGO_TERM_COLOR": "never", **(environment or {})}
        if ON_TERMINAL:
            self.screen, terminal = pty.openpty()
            self.keyboard = self.screen
            options = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
            environment.setdefault("TERM", "xterm-256color")
            text = f"exec setsid --ctty --wait bash -euc {quoted(text)} <&0"
        else:
            self.screen, terminal = os.pipe()
            options = {"stdin": subprocess.DEVNULL, "stdout": terminal, "stderr": terminal}
        self.process = subprocess.Popen(["bash", "-euc", text], start_new_session=True, env=environment, **options)
        os.close(terminal)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        while True:
            try:
                data = os.read(self.screen, 1 << 16)
            except OSError:  # A terminal that nobody has any more.
                return
            if not data:
                return
            self.printed += data
            sys.stdout.buffer.write(data)
            sys.stdout.flush()

    def wait(self):
        code = self.process.wait(timeout=DEADLINE)
        self.look()
        return code

    def interrupt(self):
        if ON_TERMINAL:
            os.write(self.keyboard, b"\x03")
        else:
            os.killpg(self.process.pid, signal.SIGINT)
        code = self.process.wait(timeout=60)
        self.look()
        if code != 0:
            sys.exit(f"exit status {code} after Ctrl-C: {self.text}")

    def look(self):
        for complaint in COMPLAINTS:
            if complaint in self.printed:
                sys.exit(f"{complaint.decode()!r} was printed by: {self.text}")
        if b"INFO" in self.printed and (COLOUR in self.printed) != self.is_coloured:
            sys.exit(f"colours: {COLOUR in self.printed}, wanted: {self.is_coloured}: {self.text}")

    def kill(self):
        for pid in descendants(self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


def descendants(pid):
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [pid, *(each for child in children for each in descendants(int(child)))]


def connect(place):
    if place.isdigit():
        return socket.create_connection(("127.0.0.1", int(place)), 1)
    client = socket.socket(socket.AF_UNIX)
    client.connect(place)
    return client


def wait_until(what, command, so):
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and command.process.poll() is None:
        if so():
            return
        time.sleep(0.05)
    sys.exit(f"{what}: {command.text}")


def listens(place):
    try:
        connect(place).close()
        return True
    except OSError:
        return False


def run_until_it_prints(text, line, environment=None):
    command = Command(line, environment)
    wait_until(f"has not printed {text!r}", command, lambda: text.encode() in command.printed)
    command.interrupt()


def run(how, block, background):
    """Runs a block; returns what runs in the background after it."""
    word, _, argument = how.partition(" ")
    if word == "tested":
        return background
    if word == "file":
        # A reader has the package from the registry; here it is beside.
        here = f'release-rs = {{ path = "{ROOT}/release", '
        with open(argument, "w", encoding="utf-8") as file:
            file.write(block.replace("release-rs = { ", here))
        return background
    if word == "background":
        background.append(Command(block))
        wait_until(f"nothing listens at {argument}", background[0], lambda: listens(argument))
        return background
    if word == "until-interrupted":
        for line in block.strip().splitlines():
            run_until_it_prints(argument, line)
            if ON_TERMINAL:
                run_until_it_prints(argument, line, {"NO_COLOR": "1"})
        return background
    if Command(block).wait() != 0:
        sys.exit("failed")
    while background:
        background.pop().interrupt()
    return background


def run_page(page):
    background = []
    try:
        for how, block in blocks(page):
            background = run(how, block, background)
    finally:
        for command in background:
            command.kill()


# What the tutorial has from the registry is here, and built already for the most part: it needs no network.
CONFIGURATION = """\
[net]
offline = true

[build]
target-dir = "{root}/target"

[profile.dev]
debug = "line-tables-only"
"""


def run_tutorial(root, page):
    subprocess.run(["cargo", "build", "-q", "--locked", "-p", "release-cli"], check=True)
    os.environ["PATH"] = f"{root}/target/debug:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        os.makedirs("src")
        os.makedirs(".cargo")
        shutil.copy(f"{root}/Cargo.lock", "Cargo.lock")
        with open(".cargo/config.toml", "w", encoding="utf-8") as file:
            file.write(CONFIGURATION.format(root=root))
        run_page(page)
        os.chdir(root)


def main():
    pages = [name for name in sys.argv[1:] if not name.startswith("-")] or ["README.md", "docs/TUTORIAL.md"]
    root = os.getcwd()
    for name in pages:
        with open(name, encoding="utf-8") as file:
            page = file.read()
        if "ci: file src/main.rs" in page:
            run_tutorial(root, page)
        else:
            run_page(page)


main()
