"""An HTTP server for `release run`: it serves on the socket that it is given, says when it is ready,
and finishes what it has in hand when it is told to stop. Nothing but Python's own library."""
import http.server
import os
import signal
import socket
import threading


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"process {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    # Requests in hand are waited for at the end.
    daemon_threads = False


def ready():
    name = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", "\0" + name[1:] if name.startswith("@") else name)


def stop(server):
    signal.sigwait({signal.SIGTERM})
    server.shutdown()


# Descriptor 3 is the first socket, listening already.
listener = socket.socket(fileno=3)
# Another worker may have taken the connection that this one was woken for.
listener.setblocking(False)
server = Server(listener.getsockname(), Answer, bind_and_activate=False)
server.socket.close()
server.socket = listener
# A thread waits for the signal. A handler would run in the middle of anything, such as the start of
# a thread for a request, and could wait there for ever.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
threading.Thread(target=stop, args=[server], daemon=True).start()
ready()
server.serve_forever(poll_interval=0.1)
server.server_close()
