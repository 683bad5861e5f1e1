"""Refuses every connection beyond this machine: on the path of each process that the pipeline tests start."""

import socket

_connect = socket.socket.connect


def _only_loopback(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"the pipeline tests block the network: connection to {address} refused")
    return _connect(self, address)


socket.socket.connect = _only_loopback
