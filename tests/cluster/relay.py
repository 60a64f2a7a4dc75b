"""A relay in front of a scheduler that counts what passes between it and a client."""

import socket
import threading

__all__ = ["Relay"]


class Relay:
    """Listens while it is entered; ``sent`` and ``received`` count bytes as the client sees them."""

    def __init__(self, address):
        host, port = address.removeprefix("tcp://").rsplit(":", 1)
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = self.received = 0

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *args):
        self._listener.close()

    def total(self):
        return self.sent + self.received

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            scheduler = socket.create_connection(self._target)
            for source, target, name in ((client, scheduler, "sent"), (scheduler, client, "received")):
                threading.Thread(target=self._pass_on, args=(source, target, name), daemon=True).start()

    def _pass_on(self, source, target, name):
        with source, target:
            try:
                while chunk := source.recv(2**16):
                    with self._lock:
                        setattr(self, name, getattr(self, name) + len(chunk))
                    target.sendall(chunk)
            except OSError:
                pass  # the other direction was closed
