"Ports for servers that are started in a moment"

import os
import socket
from itertools import cycle, islice

EACH = 2_000  # ports of one process of the suite
BELOW = 32_000  # where the system takes ports for connections, one of which might come in between
_number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_first = 20_000 + _number * EACH % (BELOW - 20_000)
_ports = islice(cycle(range(_first, _first + EACH)), os.getpid() % EACH, None)  # two runs at once begin apart


def is_free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port():
    "One that nobody listens on, and that this process has not been given for long"
    return next(port for port in islice(_ports, EACH) if is_free(port))
