"""Runs a service as systemd does, as far as it keeps descriptors for it.

The arguments are the command; those in a file `command`, one on each line, come instead. When it has ended
there is a file `exited` with its status, and it is started again when there is a file `start`. The
process is in the file `pid`, the names of what is kept in the file `store`. A variable ACTIVATED is the
address of a socket unit's socket with the name `web`.
"""

import ctypes
import fcntl
import os
import select
import socket
import sys

notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind("notify")
store = []
units = []


def write(name, text):
    with open(name + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(name + ".new", name)


def take(name):
    try:
        os.remove(name)
        return True
    except FileNotFoundError:
        return False


def hear():
    message, descriptors, _, _ = socket.recv_fds(notify, 4096, 253)
    fields = dict(line.split("=", 1) for line in message.decode().splitlines())
    name = fields.get("FDNAME", "stored")
    inodes = [os.fstat(kept).st_ino for _, kept in store]
    for descriptor in descriptors:
        if fields.get("FDSTORE") == "1" and os.fstat(descriptor).st_ino not in inodes:
            store.append((name, descriptor))
        else:
            os.close(descriptor)
    if fields.get("FDSTOREREMOVE") == "1":
        for one in [one for one in store if one[0] == name]:
            store.remove(one)
            os.close(one[1])
    write("store", "".join(name + "\n" for name, _ in store))


def command():
    try:
        with open("command", encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return sys.argv[1:]


def start():
    arguments, passed = command(), units + store
    process = os.fork()
    if process:
        return process
    ctypes.CDLL(None).prctl(1, 9)  # It dies with this process.
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for _, descriptor in passed]
    for number, copy in enumerate(copies, 3):
        os.dup2(copy, number)
    os.closerange(3 + len(copies), 200)
    os.environ["NOTIFY_SOCKET"] = os.path.abspath("notify")
    if passed:
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.environ["LISTEN_FDS"] = str(len(passed))
        os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in passed)
    os.execvp(arguments[0], arguments)


def main():
    activated = os.environ.pop("ACTIVATED", None)
    if activated:
        host, port = activated.rsplit(":", 1)
        listener = socket.create_server((host, int(port)))
        units.append(("web", listener.detach()))
    process = start()
    write("pid", str(process))
    while True:
        if select.select([notify], [], [], 0.01)[0]:
            hear()
        elif process:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                process = None
                write("exited", str(os.waitstatus_to_exitcode(status)))
        elif take("start"):
            process = start()
            write("pid", str(process))


main()
