"""A worker in Python: its master is at the other end of standard input."""
import os
import socket
import struct
import sys

master = socket.socket(fileno=0)
stream = master.makefile("rb")


def receive():
    header = stream.read(4)
    return stream.read(*struct.unpack(">I", header)).decode() if header else None


question = f"hello from process {os.getpid()}".encode()
master.sendall(struct.pack(">I", len(question)) + question)
print("the master answered:", receive(), file=sys.stderr, flush=True)
while (message := receive()) is not None:
    print("the master says:", message, file=sys.stderr, flush=True)
