"""An ASGI application that says when it is ready, by a newline to NOTIFY_FD."""

import os


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        if "NOTIFY_FD" in os.environ:
            os.write(int(os.environ["NOTIFY_FD"]), b"\n")
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    body = f"worker={os.environ.get('EINHORN_CHILD_INDEX', 0)} pid={os.getpid()} seq=0\n".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
