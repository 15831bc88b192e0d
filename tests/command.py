"""The hvdclip command inside the tests' own process, which saves the start of Python and of torch."""

import contextlib
import os
import signal
import subprocess
from unittest import mock

import torch
from click.testing import CliRunner
from conftest import PROJECT

from hvdclip.cli import main
from hvdclip.training.signals import ASK_TO_STOP


def hvdclip(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """What the command says, started in the project's folder, and its exit status; with `check`, one of 0."""
    line = [str(argument) for argument in arguments]
    with _left_as_it_was():
        os.chdir(PROJECT)
        result = CliRunner().invoke(main, line)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert not check or result.exit_code == 0, (line, result.exit_code, result.output)
    return subprocess.CompletedProcess(line, result.exit_code, result.stdout, result.stderr)


@contextlib.contextmanager
def _left_as_it_was():
    """What a process of its own would take with it at its end, os._exit included."""
    tests, end, folder = os.getpid(), os._exit, os.getcwd()

    def end_command(status):
        if os.getpid() != tests:
            end(status)
        raise SystemExit(status)

    handlers, threads = {number: signal.getsignal(number) for number in ASK_TO_STOP}, torch.get_num_threads()
    try:
        with mock.patch.dict(os.environ), mock.patch.object(os, "_exit", end_command):
            yield
    finally:
        os.chdir(folder)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)
