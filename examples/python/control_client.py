"""Asks a control socket: python3 control_client.py PATH REQUEST..."""
import socket
import struct
import sys


def receive(connection, count):
    data = b""
    while len(data) < count:
        data += connection.recv(count - len(data)) or sys.exit("the service has hung up")
    return data


with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    for request in sys.argv[2:]:
        payload = request.encode()
        connection.sendall(struct.pack(">I", len(payload)) + payload)
        (length,) = struct.unpack(">I", receive(connection, 4))
        print(receive(connection, length).decode())
