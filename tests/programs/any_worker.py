"""A program that knows nothing of this project: it answers HTTP on the sockets that it is passed, and
datagrams.

The first argument says how it becomes ready, the second how it ends: the name of a signal.
What a file `behave` in its directory says comes first: `crash` and `hang`, `shut` for one that shuts
its sockets down as it stops, `log` for one that writes each answer to standard output, and `late` for
one that makes a file `late` and is ready when there is a file `go`.
"""

import errno
import json
import os
import select
import signal
import socket
import sys
import time


def behaviour():
    try:
        with open("behave", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return "well"


def passed():
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        numbers = range(3, 3 + int(os.environ["LISTEN_FDS"]))
    else:
        numbers = [int(number) for number in os.environ.get("EINHORN_FDS", "").split()]
    return [socket.socket(fileno=number) for number in numbers]


def datagram(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        address = os.environ["NOTIFY_SOCKET"]
        # An abstract address is written with an `@`.
        notify.sendto(text.encode(), "\0" + address[1:] if address[0] == "@" else address)


def acknowledge(connection, pid=None):
    message = {"command": "worker:ack", "pid": pid or os.getpid()}
    connection.sendall(json.dumps(message).encode() + b"\n")


def become_ready(how):
    if how == "notify":
        datagram("STATUS=up\nREADY=1")
    elif how == "systemd-notify":
        import subprocess  # Slow, and a start is to be fast.

        subprocess.run(["systemd-notify", "--ready"], check=True)
    elif how == "ack":
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.environ["EINHORN_SOCK_PATH"])
            acknowledge(connection)
    elif how == "ack-fd":
        with socket.socket(fileno=int(os.environ["EINHORN_SOCK_FD"])) as connection:
            acknowledge(connection)
    elif how == "newline":
        os.write(int(os.environ["NOTIFY_FD"]), b"\n")


def answer(listener, number, is_logged):
    if listener.type == socket.SOCK_DGRAM:
        text, sender = listener.recvfrom(2048)
        listener.sendto(f"{os.getpid()} ".encode() + text, sender)
        return
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(5)
        request = b""
        while b"\r\n\r\n" not in request:
            data = connection.recv(4096)
            if not data:
                return
            request += data
        body = f"worker={os.environ['EINHORN_CHILD_INDEX']} pid={os.getpid()} seq={number}\n".encode()
        head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        if is_logged:
            os.write(1, body)
        connection.sendall(head.encode() + body)


def main():
    how, end = sys.argv[1], sys.argv[2]
    stop, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(getattr(signal, "SIG" + end), lambda *_: None)
    signal.set_wakeup_fd(wake.fileno())
    if behaviour() == "crash":
        sys.exit("it crashes")
    if behaviour() == "hang":
        signal.pause()
    if behaviour() == "late":
        with open("late", "w", encoding="utf-8"):
            pass
        while not os.path.exists("go"):
            time.sleep(0.01)
    listeners = passed()
    for listener in listeners:
        listener.setblocking(False)
    become_ready(how)
    print("ready", flush=True)
    number, is_logged = 0, behaviour() == "log"
    while True:
        readable, _, _ = select.select([stop, *listeners], [], [])
        for listener in readable:
            if listener is stop:
                if end.encode() and stop.recv(16):
                    print("stops", flush=True)
                    if behaviour() == "shut":
                        for one in listeners:
                            one.shutdown(socket.SHUT_RDWR)
                    return
            try:
                number += 1
                answer(listener, number, is_logged)
            except (BlockingIOError, ConnectionError):
                pass
            except OSError as error:
                # Another worker has shut the socket down; its owner makes it listen again.
                if error.errno != errno.EINVAL:
                    raise


main()
