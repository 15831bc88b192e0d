"""Data fetched over HTTP from a place that has the files, and copied to a node's own disk."""

import functools
import hashlib
import http.server
import os
import tarfile
import threading
from pathlib import Path

import digits
import pytest
from click.testing import CliRunner

from hvdclip import sources
from hvdclip.cli import main
from hvdclip.data import LABELLED
from hvdclip.data.images import cifar10
from hvdclip.data.mnist import mnist
from hvdclip.data.vision import torchvision
from hvdclip.sources import SOURCES, Source, copy, fetch, files

WORDS = b"the cat sat on the mat\n"


class Silent(http.server.SimpleHTTPRequestHandler):
    """It writes no log between the lines of the command."""

    def log_message(self, *words):
        pass


@pytest.fixture
def mirror(tmp_path):
    """A folder and its address on this machine."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = functools.partial(Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def put(folder, path, content):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)


def test_files_come_once_and_are_told_of(mirror, tmp_path):
    folder, address = mirror
    for split in ("train", "valid", "test"):
        put(folder, f"ptb/{split}.txt", WORDS)
    root = tmp_path / "data"
    said = CliRunner().invoke(main, ["data", "ptb", "--root", str(root), "--from", address])
    assert said.exit_code == 0, said.output
    assert f"{root}/ptb/train.txt: 23 bytes, not checked, since no checksum is known" in said.output
    assert (root / "ptb/valid.txt").read_bytes() == WORDS
    for file in folder.rglob("*.txt"):
        file.unlink()
    again = CliRunner().invoke(main, ["data", "ptb", "--root", str(root), "--from", address])
    assert again.exit_code == 0 and again.output.count("exists already") == 3


def test_what_is_not_the_published_file_is_refused_and_what_was_there_stays(mirror, tmp_path):
    folder, address = mirror
    put(folder, "libsvm/a9a", b"1 1:1\n")
    put(tmp_path, "data/libsvm/a9a", b"-1 1:1\n")
    said = CliRunner().invoke(main, ["data", "a9a", "--root", str(tmp_path / "data"), "--from", address])
    assert said.exit_code == 2
    assert f"{address}libsvm/a9a is not the published file (another SHA-256)" in said.output
    assert (tmp_path / "data/libsvm/a9a").read_bytes() == b"-1 1:1\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["nothing"],
            "the data 'nothing' are unknown; allowed: a9a, cifar10, cifar100, mnist, mushrooms, ptb, wikitext-2 (",
        ),
        (["ptb"], "ptb/train.txt cannot be downloaded (File not found): bring the file to "),
        (
            ["ptb", "--from", "http://127.0.0.1:9/x"],
            "http://127.0.0.1:9/x/ptb/train.txt cannot be downloaded ([Errno 111]",
        ),
        (["ptb", "--from", "nonsense"], "nonsense/ptb/train.txt cannot be downloaded ("),
    ],
)
def test_what_cannot_be_had_is_one_line(mirror, tmp_path, arguments, said):
    mirrored = [] if "--from" in arguments else ["--from", mirror[1]]
    refused = CliRunner().invoke(main, ["data", *arguments, *mirrored, "--root", str(tmp_path / "data")])
    assert refused.exit_code == 2 and said in refused.output and len(refused.output.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_a_packed_file_is_known_by_what_is_in_it(mirror, tmp_path, monkeypatch):
    folder, address = mirror
    files = digits.write(folder)
    labels = next(files.glob("train-labels*")).name
    known = Source(f"MNIST/raw/{labels}", "", "0" * 64)
    monkeypatch.setitem(sources.SOURCES, "mnist", (known,))
    with pytest.raises(ValueError, match="another SHA-256"):
        list(fetch("mnist", tmp_path / "data", address))


@pytest.mark.skipif("HVDCLIP_DATA" not in os.environ, reason="HVDCLIP_DATA names no folder of data")
def test_the_data_here_are_the_published_ones():
    root = Path(os.environ["HVDCLIP_DATA"])
    there = [name for name, files in SOURCES.items() if all((root / file.path).exists() for file in files)]
    assert there
    for name in there:
        assert all("exists already" in line for line in fetch(name, root, "http://127.0.0.1:9"))


def test_a_copy_is_made_once(tmp_path):
    put(tmp_path, "shared/libsvm/x", b"1 1:1\n")
    copy(tmp_path / "shared", tmp_path / "disk", ["libsvm/x"])
    place = tmp_path / "disk/libsvm/x"
    first = place.stat().st_ino
    copy(tmp_path / "shared", tmp_path / "disk", ["libsvm/x"])
    assert place.stat().st_ino == first and place.read_bytes() == b"1 1:1\n"
    put(tmp_path, "shared/libsvm/x", b"1 2:1\n")
    os.utime(tmp_path / "shared/libsvm/x", (1, 1))
    copy(tmp_path / "shared", tmp_path / "disk", ["libsvm/x"])
    assert place.read_bytes() == b"1 2:1\n"


def test_cifar_comes_as_torchvisions_archive(mirror, tmp_path, monkeypatch):
    """Fetched, unpacked, looked at again without a network, and staged to a node's disk."""
    folder, address = mirror
    made = digits.write_colours(tmp_path / "made", monkeypatch)
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(made, made.name)
    packed = (folder / "cifar-10-python.tar.gz").read_bytes()
    monkeypatch.setattr(torchvision().datasets.CIFAR10, "tgz_md5", hashlib.md5(packed).hexdigest())
    root = tmp_path / "data"
    for _ in range(2):
        said = CliRunner().invoke(main, ["data", "cifar10", "--root", str(root), "--from", address])
        assert said.exit_code == 0, said.output
        assert f"{root}/cifar-10-batches-py: as published (MD5)" in said.output
        (folder / "cifar-10-python.tar.gz").unlink(missing_ok=True)
    copy(root, tmp_path / "disk", files("cifar10"))
    here, there = (cifar10(str(place))["train"] for place in (root, tmp_path / "disk"))
    assert here.checksum == there.checksum and len(here.labels) == 60
    put(folder, "cifar-100-python.tar.gz", b"another")
    refused = CliRunner().invoke(main, ["data", "cifar100", "--root", str(root), "--from", address])
    assert refused.exit_code == 2 and "cifar-100-python.tar.gz is not the published archive" in refused.output
    nowhere = CliRunner().invoke(main, ["data", "cifar100", "--root", str(root), "--from", "http://127.0.0.1:9"])
    assert nowhere.exit_code == 2 and "9/cifar-100-python.tar.gz cannot be downloaded (" in nowhere.output


@pytest.mark.parametrize(
    ("config", "stage", "said"),
    [
        ("a9a", "$NOWHERE/x", "a variable in it is not set"),
        ("quadratics", "/tmp/x", "but data.name is quadratics; allowed: none, or the data a9a"),
    ],
)
def test_what_cannot_be_staged_is_refused(tmp_path, config, stage, said):
    arguments = [f"configs/{config}.yaml", f"train.stage={stage}", "--run-dir", str(tmp_path / "run")]
    refused = CliRunner().invoke(main, ["train", *arguments])
    assert refused.exit_code == 2 and said in refused.output and not (tmp_path / "run").exists()


def test_training_reads_the_copy(tmp_path, monkeypatch):
    read = []
    monkeypatch.setitem(LABELLED, "mnist", lambda root=None, rgb=False: read.append(root) or mnist(root, rgb))
    digits.write(tmp_path / "shared")
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    arguments = [
        "model.hidden=[4]",
        "train.steps=2",
        "train.evaluate_every_steps=2",
        f"data.root={tmp_path / 'shared'}",
    ]
    done = CliRunner().invoke(
        main, ["train", "configs/mnist.yaml", *arguments, "train.stage=$DISK", "--run-dir", str(tmp_path / "run")]
    )
    assert done.exit_code == 0, done.output
    assert read == [str(tmp_path / "disk")]
    assert len(list((tmp_path / "disk/MNIST/raw").iterdir())) == 4
    assert "shared" in (tmp_path / "run/config.yaml").read_text()
