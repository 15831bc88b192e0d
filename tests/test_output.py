"""Output: how commands and mistakes are listed, and what cannot be written (a full disk, a terminal that has gone)."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hvdclip.cli import main
from hvdclip.command import listing, output
from hvdclip.command.exits import complain

PROJECT = Path(__file__).parent.parent
SMALL = """
algorithm: {name: celgc, lr: 0.1, gamma: 0.05, interval: 4}
model: {name: mlp, hidden: [8]}
data: {name: synthetic, samples: 64, channels: 1, side: 4, classes: 4, test_samples: 16, batch: 16}
train: {steps: 8, evaluate_every_steps: 4}
"""
ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def hvdclip(line, *arguments, **env):
    """A shell's line in which "$@" is the command."""
    command = [sys.executable, "-m", "hvdclip", *map(str, arguments)]
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line, "shell", *command],
        cwd=PROJECT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def small(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "env"),
    [
        ('"$@" | head -1', {}),
        ('"$@" > /dev/full 2> /dev/full', {}),
        ('"$@" >&- 2>&-', {}),
        ('"$@" >&- 2>&- <&-', {}),
        ('"$@"', ASCII),
        ('"$@" > /dev/full', {"PYTHONUNBUFFERED": "1"}),
    ],
)
def test_a_training_goes_on_to_its_end(small, tmp_path, line, env):
    run = tmp_path / "läuft"
    done = hvdclip(line, "train", small, "--run-dir", run, **env)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "summary.json").read_text())["exit"] == "done"
    assert "Error" not in done.stderr and "Exception" not in done.stderr, done.stderr


def test_what_a_command_could_not_show_is_an_error_of_it():
    done = hvdclip('"$@" > /dev/full', "configs")
    assert (done.returncode, done.stderr) == (1, "hvdclip: output is left out: No space left on device\n")
    done = hvdclip('"$@" | head -1', "algorithms")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.nowhere", "nowhere"])
def test_pictures_do_not_ask_for_a_notebooks_backend(tmp_path, backend):
    arguments = ["simulate", "configs/quadratics.yaml", "train.steps=8", "train.evaluate_every_steps=8"]
    done = hvdclip('"$@"', *arguments, "--ranks", "1", "--out", tmp_path, MPLBACKEND=backend)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "simulation.png").stat().st_size > 1000


def test_a_full_disk_that_has_room_again_is_written_on():
    """Without what did not fit, and what is written in the meantime is not kept."""
    stream = output.forgiving(os.open("/dev/full", os.O_WRONLY))
    print("lost", file=stream)
    assert output.failure(stream).strerror == "No space left on device"
    read, write = os.pipe()
    os.dup2(write, stream.fileno())
    print("kept", file=stream, flush=True)
    assert os.read(read, 100) == b"kept\n"
    os.close(read)
    print("to nobody", file=stream, flush=True)
    assert output.failure(stream) is None, "a reader that has gone wants no more"


SAYING = """
import os, sys
from hvdclip.command import output
output.never_fails()
print("out", end="")
print("err", end="", file=sys.stderr)
os._exit(0)
"""


@pytest.mark.parametrize(("unbuffered", "said"), [("1", ("out", "err")), ("", ("", "err\n"))])
def test_what_does_not_wait_for_more_does_not_wait_then(unbuffered, said):
    """Of a process that is killed it is all that is seen; lines on stderr never wait."""
    script = SAYING if unbuffered else SAYING.replace('"err", end=""', '"err"')
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == said


def test_a_pipe_that_gives_no_waits_is_waited_for(monkeypatch):
    read, write = os.pipe()
    os.set_blocking(write, False)
    text = "x" * (1 << 20)
    command = f"import sys; print(len(sys.stdin.buffer.read({len(text)})))"
    reader = subprocess.Popen([sys.executable, "-c", command], stdin=read, stdout=subprocess.PIPE, text=True)
    output.forgiving(write).write(text + "\n")
    assert reader.communicate(timeout=60)[0] == f"{len(text)}\n"
    monkeypatch.setattr(output, "PATIENCE_S", 0.01)
    stream = output.forgiving(write)
    stream.write(text)
    stream.flush()


def test_streams_of_somebody_else_are_left_alone(monkeypatch):
    mine = io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    monkeypatch.setattr(sys, "stderr", mine)
    output.never_fails()
    assert sys.stdout is mine and sys.stderr is mine


def test_every_command_is_listed_in_a_section_and_its_first_line_is_short():
    listed = [name for names in listing.SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(main.commands)
    for command in (*main.commands.values(), *main.commands["bench"].commands.values()):
        first = command.help.split("\n\n")[0]
        assert len(first) <= 60 and "\n" not in first, first
    shown = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    assert "..." not in shown.partition("Options:")[2]
    assert "\nMeasure:\n  bench    Measure hvdclip against alternatives.\n" in shown


def test_a_long_mistake_is_folded_to_a_terminal_and_stays_a_line_elsewhere(capsys, monkeypatch):
    text = "algorithm.x: unknown setting; valid are " + ", ".join(f"setting_{k}" for k in range(40))
    complain(text)
    assert capsys.readouterr().err == f"hvdclip: {text}\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    complain(text)
    lines = capsys.readouterr().err.splitlines()
    assert all(len(line) <= 50 for line in lines) and all(line.startswith("  setting_") for line in lines[2:])
    assert " ".join(line.strip() for line in lines) == f"hvdclip: {text}"
