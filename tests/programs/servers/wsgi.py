"""A WSGI application."""

import os


def app(environ, start):
    body = f"worker={os.environ['EINHORN_CHILD_INDEX']} pid={os.getpid()} seq=0\n".encode()
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]
