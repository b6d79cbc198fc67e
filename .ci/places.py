"""Runs the flagship and `release run` where services run: as process 1, on a root that is read-only, without
the right to signal other accounts.

In each place a service starts, answers, is reloaded, loses a worker and is stopped: each "ok" is looked at, and
nothing may be left over. Needs root and what `cargo test` has built; says what it leaves out.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

DEADLINE = 60
BUILT = os.path.abspath("target/debug")
SCRIPT = os.path.abspath("tests/programs/any_worker.py")
WITHOUT_KILL = ["setpriv", "--bounding-set", "-kill", "--inh-caps", "-kill"]
PROCESS_1 = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
READ_ONLY_ROOT = 'mount --bind "$PWD" /mnt && mount -o remount,bind,ro / && cd /mnt'
NOTHING_WRITABLE = ["unshare", "--mount", "sh", "-ec", f'{READ_ONLY_ROOT} && exec "$@"', "sh"]
ONLY_RUN_WRITABLE = [
    "unshare", "--mount", "sh", "-ec", f'{READ_ONLY_ROOT} && mount -t tmpfs none /run && exec "$@"', "sh",
]


def eventually(what, so):
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            if so():
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {DEADLINE} s: {what}")


class Service:
    """A service in a place, with a directory of its own."""

    def __init__(self, place, program, port, user):
        self.directory = tempfile.mkdtemp()
        os.chmod(self.directory, 0o755)
        self.url = f"http://127.0.0.1:{port}/"
        # Where every account may execute it, unlike root's target directory.
        for file in [os.path.join(BUILT, program), SCRIPT]:
            shutil.copy(file, self.directory)
        binary = os.path.join(self.directory, program)
        if program == "cli-release":
            command = [binary, "run", "--control", "control", "--workers", "2", "--ready", "notify"]
            command += ["--listen", f"tcp://127.0.0.1:{port}", *(["--user", user] if user else []), "--"]
            command += ["/usr/bin/python3", os.path.join(self.directory, "any_worker.py"), "notify", "TERM"]
        else:
            command = [binary, "--control", "control", "--workers", "2"]
            command += ["--listen", f"127.0.0.1:{port}", "--user", user]
        self.log = open(os.path.join(self.directory, "log"), "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [*place, *command], cwd=self.directory, stdin=subprocess.DEVNULL, stderr=self.log, stdout=self.log
        )

    def ask(self, text):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE)
            client.connect(os.path.join(self.directory, "control"))
            client.sendall(len(text).to_bytes(4, "big") + text.encode())
            stream = client.makefile("rb")
            return stream.read(int.from_bytes(stream.read(4), "big")).decode()

    def ready(self):
        return {it["id"]: it["pid"] for it in json.loads(self.ask("status"))["workers"] if it["state"] == "ready"}

    def get(self):
        with urllib.request.urlopen(self.url, timeout=DEADLINE) as answer:
            return answer.read().startswith(b"worker=")

    def master(self):
        """The master, which a launcher may have as its child."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        first = children.stdout.split()[:1]
        return int(first[0]) if self.is_launched and first else self.process.pid

    is_launched = False

    def words(self):
        self.log.flush()
        with open(self.log.name, encoding="utf-8") as log:
            return log.read()

    def left_over(self):
        """The processes that still work for it."""
        left = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                    command = file.read()
                if self.directory in command or os.readlink(f"/proc/{pid}/cwd").startswith(self.directory):
                    left.append(int(pid))
            except OSError:
                pass
        return left

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.left_over():
            os.kill(pid, signal.SIGKILL)
        self.log.close()
        shutil.rmtree(self.directory)


def works(service):
    """Everything that an operator does works here."""
    eventually("two workers are ready", lambda: len(service.ready()) == 2)
    assert service.get()
    before = set(service.ready().values())
    said = service.ask("reload")
    assert said == "ok", said
    assert not before & set(service.ready().values()), "an old process serves after a reload"
    assert service.ask("scale 3") == "ok"
    assert len(service.ready()) == 3
    assert service.ask("restart 0") == "ok"
    assert service.get()
    os.kill(service.master(), signal.SIGTERM)
    assert service.process.wait(timeout=DEADLINE) == 0
    assert not os.path.exists(os.path.join(service.directory, "control"))


def is_refused(service):
    """A master that could not end its workers says so, and serves nobody by mistake."""
    eventually("it has refused, or serves", lambda: service.process.poll() is not None or service.ready())
    if service.process.poll() is None:
        said = service.ask("reload")
        assert said.startswith("error: "), said
        os.kill(service.master(), signal.SIGTERM)
        service.process.wait(timeout=DEADLINE)
    assert service.process.returncode != 0, "a stop that left workers behind was called a success"
    assert "CAP_KILL" in service.words()
    assert "killed" not in service.words()


def places():
    yield "as process 1", PROCESS_1, "nobody", works
    yield "on a read-only root with a tmpfs on /run", ONLY_RUN_WRITABLE, "nobody", works
    yield "on a root where nothing but its directory can be written", NOTHING_WRITABLE, "nobody", works
    yield "without CAP_KILL", WITHOUT_KILL, "nobody", is_refused
    yield "without CAP_KILL, and workers of the own account", WITHOUT_KILL, None, works


def main():
    if os.geteuid() != 0:
        print("left out: these places need root")
        return
    port = 21_000
    failed = 0
    for name, place, user, check in places():
        for program in ["service-tokio", "service-smol", "service-async-std", "cli-release"]:
            if user is None and program != "cli-release":
                continue  # The library gives nobody an account that is root.
            port += 1
            service = Service(place, program, port, user)
            service.is_launched = place is PROCESS_1
            try:
                check(service)
                eventually("nothing is left over", lambda: not service.left_over())
                print(f"passed: {program} {name}", flush=True)
            except (AssertionError, OSError, ValueError, subprocess.TimeoutExpired) as error:
                failed += 1
                print(f"FAILED: {program} {name}: {error!r}\n{service.words()}", flush=True)
            finally:
                service.end()
    if failed:
        sys.exit(f"{failed} failed")


main()
