"""Tensors of GPUs between ranks: refused where they would not arrive, and by the host's memory where asked for."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from launch import run_ranks
from torch._subclasses import FakeTensorMode

from hvdclip.comm.gpus import NO_CUDA, ByHost, Direct
from hvdclip.comm.single import SingleRank
from hvdclip.hosts import facts
from hvdclip.hosts.facts import sharing

HOST = "copies in the host's memory"


def numbers(rank):
    return torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))


@pytest.fixture(scope="module")
def found():
    """Of both ranks."""
    script = Path(__file__).with_name("ranks_of_gpus.py")
    done = run_ranks([sys.executable, str(script)], 2)
    return json.loads(re.search(r"FOUND (.*)", done.stdout)[1])


@pytest.mark.ranks
@pytest.mark.parametrize("way", ["direct", "by host"])
def test_numbers_are_the_same_by_the_host(found, way):
    mine, theirs = numbers(0), numbers(1)
    mean = (mine + theirs) / 2
    halves = torch.maximum(mine.view(2, 3), theirs.view(2, 3))
    expected = [((mine.float() + theirs.float()) / 2).double(), mean, mine, theirs, *halves, mine, (mine > 0).double()]
    for rank, each in enumerate(found):
        under_way, told = each[way]
        assert len(told) == len(expected)
        for came_to, value in zip(told, expected, strict=True):
            assert came_to == pytest.approx(value.tolist(), rel=1e-6), (rank, way)
        assert under_way or way == "direct", "what is sent is a copy: the tensors change when the wait is over"
    assert found[0]["direct"][1] == found[0]["by host"][1], "to the bit"
    # two to average, one to gather, two of a reduction (rows, then what is made of them), two to broadcast
    assert [each["copies"] for each in found] == [7, 7]


@pytest.mark.ranks
def test_a_horovod_without_cuda_takes_no_tensors_of_gpus(found):
    for each in found:
        assert each["refused"] == [NO_CUDA] * 4, "average, gather, reduction, broadcast"
        assert each["without CUDA"] == NO_CUDA and "\n" not in NO_CUDA
        assert each["without CUDA, on CPUs"] != NO_CUDA


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("case", "way"),
    [
        ("host_staging", HOST),
        ("NCCL", "NCCL"),
        ("CUDA", "Horovod's copies in the host's memory"),
        ("share_gpus, NCCL", HOST),
        ("share_gpus, NCCL, a GPU each", "NCCL"),
        ("share_gpus, CUDA", "Horovod's copies in the host's memory"),
    ],
)
def test_by_what_tensors_of_gpus_go(found, case, way):
    assert [each[case] for each in found] == [way] * 2


@pytest.mark.ranks
def test_ranks_on_one_gpu_are_told_to_share_it(found):
    for each in found:
        assert re.fullmatch(
            r"ranks 0, 1 on \S+ would share GPU GPU-a of 1; start as many ranks per node as it has GPUs, or set "
            r"comm\.share_gpus, or train\.device=cpu",
            each["one GPU"],
        )


@pytest.mark.ranks
def test_the_doctor_averages_on_gpus_and_says_by_what(found):
    for each in found:
        assert each["doctor without CUDA"] == [["GPUs average by", "nothing", NO_CUDA]]
        by, small, large = each["doctor"]
        assert by == ["GPUs average by", HOST, ""] and small[0] == "all-reduce of 4 bytes"
        assert re.fullmatch(r"\S+ ms, \S+ Gbit/s on the wire of a ring", large[1]) and small[2] == large[2] == ""
        wrong = [advice for _, _, advice in each["doctor, means that are none"][1:]]
        assert wrong == ["the mean is off by 0.5: run jobs/setup.sh again"] * 2


def test_where_a_tensor_is_decides_alone():
    with FakeTensorMode():
        on_gpu = torch.empty(3, device="cuda")
    on_cpu = torch.ones(3)
    with pytest.raises(ValueError, match="Horovod was built without CUDA"):
        Direct(with_gpus=False).take([on_cpu, on_gpu])
    assert Direct(with_gpus=False).take([on_cpu]) == [on_cpu]
    assert Direct(with_gpus=True).take([on_gpu])[0] is on_gpu
    assert ByHost().take([on_cpu])[0] is on_cpu


def seen_by(rank, monkeypatch, names, count=1, **card):
    """The facts of a rank on a machine with GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: SimpleNamespace(**card))
    comm = SingleRank()
    comm.rank, comm.local_rank = rank, rank
    return facts.facts(comm)


def test_gpus_are_told_apart_by_their_uuid(monkeypatch):
    two = [seen_by(rank, monkeypatch, "0", uuid=f"GPU-{rank}") for rank in range(2)]
    assert [one.gpu for one in two] == ["GPU-0", "GPU-1"] and sharing(two) == []
    one = [seen_by(rank, monkeypatch, str(rank), uuid="GPU-7") for rank in range(2)]
    assert [[each.rank for each in ranks] for ranks in sharing(one)] == [[0, 1]]


class Driver:
    """CUDA's, of which a rank sees one GPU."""

    def __init__(self, rank):
        self.rank = rank

    def cuDeviceGet(self, device, place):
        return 0 if place == 0 else 101

    def cuDeviceGetUuid(self, identity, device):
        identity[:] = bytes([self.rank] * 16)
        return 0


def test_where_torch_does_not_know_the_uuid_the_driver_does(monkeypatch):
    seen = []
    for rank in range(2):
        monkeypatch.setattr(facts.ctypes, "CDLL", lambda name, rank=rank: Driver(rank))
        seen.append(seen_by(rank, monkeypatch, "0").gpu)
    assert seen == ["00000000-0000-0000-0000-000000000000", "01010101-0101-0101-0101-010101010101"]
    monkeypatch.setattr(facts.ctypes, "CDLL", mock_missing)
    assert seen_by(0, monkeypatch, "GPU-3").gpu == "GPU-3"


def mock_missing(name):
    raise OSError(name)


@pytest.mark.parametrize(
    ("names", "count", "gpus"), [("0,1,9", 2, ("0", "1")), ("3,2", 2, ("3", "2")), ("", 2, ("0", "1"))]
)
def test_torch_decides_how_many_gpus_there_are(monkeypatch, names, count, gpus):
    assert seen_by(1, monkeypatch, names, count, uuid="GPU-1").gpus == gpus
