"""A Python that has imported what ranks need, and forks one that goes on as the rank for each launcher's request.

python tests/warm.py SOCKET     for tests/warm_rank.py; ends with its own input

Of a rank's start the imports are almost all: a fork of them is a process of its own, as new as one that has made them.
"""

import contextlib
import gc
import importlib
import json
import mmap
import os
import random
import select
import signal
import socket
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What a training comes to import, but mpi4py, which would start MPI.
IMPORTED = ("horovod.torch", "hvdclip.training.elastic", "hvdclip.cli")


def requests(path: str) -> socket.socket:
    """The connection to a stand-in, in a process of its own each time."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    print("listening", flush=True)
    while True:
        ready, *_ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return connection
        connection.close()


def rank(connection: socket.socket) -> dict[str, Any]:
    """What is asked for, in the rank; the process that has called this waits for the rank and tells how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, descriptors, *_ = socket.recv_fds(connection, 1, 4)
    with mmap.mmap(descriptors[3], 0) as text:
        asked = json.loads(text[:])
    pid = os.fork()
    with contextlib.suppress(OSError):  # by both, as either may be the first that needs it
        os.setpgid(pid, pid)
    if pid:
        tend(connection, pid)
    connection.close()
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    return asked


def tend(connection: socket.socket, pid: int) -> None:
    """Hands signals on to the rank, and its end to the stand-in; kills it where the stand-in is gone."""
    end = os.pidfd_open(pid)
    while end not in select.select([connection, end], [], [])[0]:
        numbers = connection.recv(64)
        for number in numbers or [signal.SIGKILL]:
            os.kill(pid, number)
        if not numbers:
            break
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)  # a loader's workers, which outlive a rank that did not end them
    with contextlib.suppress(OSError):
        connection.sendall(str(status).encode())
    os._exit(0)


def given_paths(environment: Mapping[str, str]) -> list[str]:
    return [path for path in environment.get("PYTHONPATH", "").split(":") if path]


def run(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Runs a script as Python would from its start."""
    os.chdir(folder)
    others = [path for path in sys.path if path not in given_paths(os.environ)]
    sys.path[:] = [os.path.dirname(arguments[0]), *given_paths(environment), *others]
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    sys.stdout.reconfigure(line_buffering=os.isatty(1) and not sys.stdout.write_through)
    random.seed()
    sys.modules["numpy"].random.seed()
    sys.modules["torch"].default_generator.seed()
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = arguments[0]
    exec(compile(Path(arguments[0]).read_text(), arguments[0], "exec"), main.__dict__)


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # what is there is no garbage: ranks need not look through it, least of all at their end
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    del sys.path[0]
    run(**rank(requests(sys.argv[1])))
