"""Free ports of the loopback interface."""

from __future__ import annotations

import random
import socket

# Below Linux's range for outgoing connections, so that none of those takes the port before its owner does.
_FIRST, _LAST = 20000, 32000


def is_free(port: int) -> bool:
    """Whether nothing listens on ``port`` of any interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(avoid: set[int] | None = None) -> int:
    """A port nothing listens on and that is not in ``avoid``; whoever gets it must still expect to lose it."""
    for _ in range(1000):
        port = random.randint(_FIRST, _LAST)
        if port not in (avoid or ()) and is_free(port):
            return port
    raise OSError(f"no free port from {_FIRST} to {_LAST}")
