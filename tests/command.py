"""The hvdclip command inside the tests' own process, which saves the start of Python and of torch."""

import os
import subprocess
from unittest import mock

from click.testing import CliRunner

from hvdclip.cli import main


class Ended(SystemExit):
    """os._exit, which would end the tests."""


def hvdclip(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """What the command says and its exit status; with `check`, a status that is not 0 fails."""
    line = [str(argument) for argument in arguments]
    with mock.patch.object(os, "_exit", side_effect=Ended):
        result = CliRunner().invoke(main, line)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert not check or result.exit_code == 0, (line, result.exit_code, result.output)
    return subprocess.CompletedProcess(line, result.exit_code, result.stdout, result.stderr)
