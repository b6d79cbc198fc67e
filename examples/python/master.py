"""A master in Python: python3 master.py PROGRAM ARGUMENT... starts a worker and answers it."""
import socket
import struct
import subprocess
import sys

ours, theirs = socket.socketpair()
worker = subprocess.Popen(sys.argv[1:], stdin=theirs)
theirs.close()
stream = ours.makefile("rb")


def send(text):
    payload = text.encode()
    ours.sendall(struct.pack(">I", len(payload)) + payload)


while header := stream.read(4):
    question = stream.read(*struct.unpack(">I", header)).decode()
    print("asked:", question, flush=True)
    if question == "bye":
        send("good bye")
        worker.terminate()
    else:
        send(question.upper())

sys.exit(worker.wait())
