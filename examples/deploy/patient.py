"""uvicorn that loses no request when it is stopped: `uvicorn --http patient:Patient --fd 3 app:app`.

By itself uvicorn closes at its end every connection whose request it has not read yet, also one that
it has accepted a moment before. Here such a connection has a second; whoever is answered meanwhile is
told that the connection ends."""
from uvicorn.protocols.http.auto import AutoHTTPProtocol

CLOSE = (b"connection", b"close")


class Patient(AutoHTTPProtocol):
    def shutdown(self):
        # One list for all connections.
        if CLOSE not in self.server_state.default_headers:
            self.server_state.default_headers.append(CLOSE)
        self.loop.call_later(1, self.close)

    def close(self):
        if not self.transport.is_closing():
            super().shutdown()
