"""What a launcher starts in place of a rank's Python: has it forked by tests/warm.py, and lives and ends as it does.

python -IS tests/warm_rank.py SCRIPT ARGUMENT ...
"""

import json
import os
import signal
import socket
import sys

RANKS = ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "PMIX_RANK")
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)

number = next((int(os.environ[name]) for name in RANKS if name in os.environ), 0)
warm = socket.socket(socket.AF_UNIX)
servers = os.environ["HVDCLIP_TEST_WARM"].split(":")
warm.connect(servers[number % len(servers)])
for each in FORWARDED:
    signal.signal(each, lambda number, frame: warm.send(bytes([number])))
with open(os.memfd_create("asked"), "r+") as asked:
    json.dump({"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}, asked)
    asked.flush()
    socket.send_fds(warm, [b"?"], [0, 1, 2, asked.fileno()])
status = int(warm.recv(16) or 255 << 8)
if os.WIFSIGNALED(status):
    if os.WTERMSIG(status) in FORWARDED:
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
    os.kill(os.getpid(), os.WTERMSIG(status))
os._exit(os.waitstatus_to_exitcode(status))
