"""hvdclip bench: what is measured, in which order, and what is made of the times; never how fast anything is."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from launch import HVDCLIP, run_ranks

from hvdclip.bench import allreduce, blocks, images, save, shapes, step, train
from hvdclip.bench.allreduce import Task, Way
from hvdclip.bench.blocks import Peer, measure
from hvdclip.bench.command import bench
from hvdclip.bench.report import Report
from hvdclip.bench.roster import Roster
from hvdclip.bench.traffic import bytes_sent
from hvdclip.comm import SingleRank

PROJECT = Path(__file__).resolve().parent.parent
COMMAND = [HVDCLIP, "bench"]


def measured(tmp_path: Path, command: str, *options: str) -> dict[str, Any]:
    """What a bench of one rank writes."""
    file = tmp_path / "found" / "bench.json"
    done = CliRunner().invoke(bench, [command, *options, "--blocks", "3", "--json", str(file)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(file.read_text())


def check_numbers(peers: dict[str, Any], number: int = 3) -> None:
    """Medians, quartiles and ratios are those of the raw times."""
    for peer in peers.values():
        times = peer["seconds"]
        assert len(times) == number and min(times) > 0
        assert peer["median"] == np.median(times) and peer["quartiles"] == list(np.quantile(times, (0.25, 0.75)))
        for ratio in peer["ratios"].values():
            other = peers[ratio["to"]]["seconds"]
            assert ratio["of_medians"] == pytest.approx(np.median(times) / np.median(other))
            assert ratio["in_blocks"] == pytest.approx(np.median(np.array(times) / other))


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def takes(self, seconds: float) -> Callable[[], None]:
        """Returns what takes that long."""

        def run() -> None:
            self.now += seconds

        return run


def test_blocks_rotate_and_leave_the_preparation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(blocks, "time", clock)
    peers = [Peer(name, clock.takes(0.004), clock.takes(1)) for name in "abc"]
    peers.append(Peer("slow", clock.takes(0.6), begin=clock.takes(2), end=clock.takes(3), steps=3))
    found = measure(peers, SingleRank(), 5)
    orders = [["a", "b", "c", "slow"], ["b", "c", "slow", "a"], ["c", "slow", "a", "b"], ["slow", "a", "b", "c"]]
    assert found.orders == [*orders, orders[0]]
    assert found.repeats == {"a": 5, "b": 5, "c": 5, "slow": 1}, "until a block has 20 ms"
    for name, seconds in (("a", 0.004), ("slow", 0.2)):
        assert found.seconds[name] == pytest.approx([seconds] * 5), "times are those of a step"
    assert clock.now == pytest.approx(3 * 1.004 * (1 + 5 * 5) + 5.6 * 6), "one block is thrown away"


class TwoRanks(SingleRank):
    """A second rank that takes a second for everything."""

    size = 2

    def gather(self, value: Any, purpose: str = "setup") -> list[Any]:
        return [value, [1.0] * len(value)]


def test_a_block_takes_as_long_as_its_slowest_rank() -> None:
    found = measure([Peer("a", lambda: None)], TwoRanks(), 2)
    assert found.seconds == {"a": [1.0, 1.0]}


def test_a_peer_that_cannot_run_is_listed_with_the_reason() -> None:
    roster = Roster(SingleRank())

    def no_module() -> Peer:
        raise ImportError("No module named 'such': pip install such")

    roster.add("such", no_module)
    roster.add("a", lambda: Peer("a", lambda: None))
    assert list(roster.peers) == ["a"] and roster.absent == {"such": "No module named 'such': pip install such"}
    found = measure(list(roster.peers.values()), SingleRank(), 1)
    report = Report("title", found, {"to such": lambda name: "such"}, roster.absent)
    assert report.as_json()["absent"] == roster.absent and report.as_json()["peers"]["a"]["ratios"] == {}
    assert "absent: such, since No module named" in str(report.table().caption)
    assert "fewer than 7 blocks" in str(report.table().caption)


@pytest.mark.parametrize(
    ("name", "floats", "tensors"),
    [("awd_lstm", 24_221_600, 14), ("resnet56", 853_018, 167), ("resnet50", 25_557_032, 161), ("small", 6_922, 6)],
)
def test_shapes_are_those_of_the_models(name: str, floats: int, tensors: int) -> None:
    found = shapes.shapes(name)
    assert (sum(torch.Size(shape).numel() for shape in found), len(found)) == (floats, tensors)


def test_step_has_all_peers_and_their_ratios(tmp_path: Path) -> None:
    found = measured(tmp_path, "step", "--shape", "small")
    kinds = ("default", "for-loop", "foreach", "fused")
    torchs = [f"clip_grad_norm_ + SGD, {kind}" for kind in kinds]
    plain = ["hvdclip celgc", *torchs]
    assert set(found["peers"]) == {*plain, *(f"{name}, wd" for name in plain), step.FLOOR, step.COPY}
    check_numbers(found["peers"])
    ratios = found["peers"]["hvdclip celgc, wd"]["ratios"]
    fastest = min((f"{name}, wd" for name in torchs), key=lambda name: found["peers"][name]["median"])
    assert ratios["to floor"]["to"] == step.FLOOR and ratios["to fastest clip + SGD"]["to"] == fastest
    assert ratios["to foreach"]["to"] == "clip_grad_norm_ + SGD, foreach, wd"
    assert (found["bench"], found["shape"], found["ranks"], found["threads"]) == ("step", "small", 1, 1)
    assert {"line", "time", "hosts", "cores", "processor", "versions"} <= set(found)


@pytest.mark.parametrize("more", [[], ["--precision", "bf16", "--channels-last"]])
def test_images_are_trained_on_with_and_without_hvdclip(tmp_path: Path, more: list[str]) -> None:
    found = measured(tmp_path, "images", "--model", "cnn", "--side", "8", "--batch", "2", "--steps", "2", *more)
    check_numbers(found["peers"])
    ours = found["peers"]["celgc, I = 8"]
    assert ours["ratios"]["to torch"]["to"] == images.TORCH and found["shape"] == "cnn"
    assert ours["images_s"] == pytest.approx(2 / ours["median"])
    assert found["absent"] == {"horovod": "Horovod is not started: use mpirun, horovodrun or srun"}


def test_save_pauses_and_leaves_nothing_behind(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    found = measured(tmp_path, "save", "--shape", "small", "--rounds", "2", "--folder", str(place))
    assert set(found["peers"]) == {save.WITHOUT, save.WITH} and not list(place.iterdir())
    check_numbers(found["peers"])
    saving = found["peers"][save.WITH]
    assert saving["ratios"]["to without"]["to"] == save.WITHOUT
    assert len(saving["pauses"]) == 4, "one of the block that is thrown away"
    assert saving["pause_ms"] == pytest.approx(1e3 * np.median(saving["pauses"][1:]))
    assert saving["megabytes"] > 2 * 4 * 8064 / 1e6, "the model and the rank's own x"


def test_a_step_that_is_not_the_clipped_one_is_an_error() -> None:
    of = shapes.shapes("small")
    gradients = step.Gradients(of)
    params = gradients.of(shapes.parameters(of))
    unclipped = torch.optim.SGD(params, step.LR)
    with pytest.raises(AssertionError, match="plain does not take the clipped step"):
        step.checked("plain", params, gradients, unclipped.step)


def test_an_average_that_is_not_the_mean_is_an_error() -> None:
    task = Task(shapes.shapes("small"), SingleRank())
    tensors = [torch.zeros_like(mine) for mine in task.mine]
    assert task.peer("good", lambda task: Way(tensors, lambda: None)).name == "good"
    with pytest.raises(AssertionError, match="bad does not produce the mean over the ranks"):
        task.peer("bad", lambda task: Way(tensors, lambda: tensors[0].add_(1e-3)))


def test_ranks_that_disagree_after_a_round_are_an_error() -> None:
    class Apart(SingleRank):
        def gather(self, value: Any, purpose: str = "setup") -> list[Any]:
            return [value, value + 1]

    with pytest.raises(AssertionError, match="celgc_4: the ranks' parameters differ"):
        train.check_agreed("celgc_4", torch.nn.Linear(1, 1), Apart())


def test_a_single_rank_averages_what_it_can(tmp_path: Path) -> None:
    found = measured(tmp_path, "allreduce", "--shape", "small")
    assert set(found["peers"]) | set(found["absent"]) == set(allreduce.WAYS)
    assert "Horovod is not started" in found["absent"][allreduce.BARE]
    check_numbers(found["peers"])


def test_training_alone_derives_its_numbers(tmp_path: Path) -> None:
    found = measured(
        tmp_path, "train", "--shape", "small", "--peers", "celgc_4,celgc_4_delayed,horovod", "--steps", "3"
    )
    peers = found["peers"]
    assert list(peers) == ["T_step", "T_comm", "celgc_4", "celgc_4_delayed"] and "horovod" in found["absent"]
    check_numbers(peers)
    assert [peers[name]["steps"] for name in peers] == [3, 1, 4, 4], "whole rounds"
    ours = peers["celgc_4"]
    model = peers["T_step"]["median"] + peers["T_comm"]["median"] / 4
    assert ours["model_ms"] == pytest.approx(1e3 * model)
    assert ours["deviation"] == pytest.approx(ours["median"] / model - 1)
    assert ours["samples_s"] == pytest.approx(20 * 35 / ours["median"])
    assert "model_ms" not in peers["celgc_4_delayed"]


def test_growth_has_every_size(tmp_path: Path) -> None:
    found = measured(tmp_path, "growth", "--shape", "1e3,64")
    assert [size["floats"] for size in found["sizes"]] == [1000, 64]
    for size in found["sizes"]:
        assert list(size["peers"]) == ["step", "floor of a step", "average", "bare average"]
        check_numbers(size["peers"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["step", "--shape", "huge"], "shape 'huge' is unknown; allowed: awd_lstm, resnet56, resnet50, small"),
        (["allreduce", "--shape", "huge"], "shape 'huge' is unknown; allowed: awd_lstm, resnet56, resnet50, small"),
        (["train", "--shape", "huge"], "shape 'huge' is unknown; allowed: lstm, small"),
        (["train", "--peers", "celgc_1,what"], "--peers has 'what'; allowed:"),
        (["growth", "--shape", "many"], "--shape is 'many'; allowed: numbers of floats from 16"),
        (["growth", "--shape", "8"], "--shape is '8'; allowed: numbers of floats from 16"),
        (["step", "--shape", "small", "--json", "/proc/none/file"], "/proc/none: No such file or directory"),
    ],
)
def test_wrong_input_gets_one_line(options: Sequence[str], said: str) -> None:
    done = CliRunner().invoke(bench, options)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and said in done.stderr, done.stderr


def test_bytes_sent_only_grow() -> None:
    before = bytes_sent()
    assert 0 <= before <= bytes_sent()


@pytest.mark.ranks
def test_all_ways_to_average_leave_the_mean_of_two_ranks(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    options = ["allreduce", "--shape", "small", "--blocks", "2", "--json", str(file)]
    done = run_ranks([*COMMAND, *options], 2, cwd=PROJECT)
    found = json.loads(file.read_text())
    missing = set(allreduce.WAYS) - set(found["peers"])
    assert missing == set(found["absent"]) and missing <= {"accelerate LocalSGD"}
    assert found["ranks"] == len(found["hosts"]) == 2
    check_numbers(found["peers"], 2)
    assert done.stdout.count("one average over 2 ranks") == 1, "rank 0 alone prints"


@pytest.mark.ranks
def test_training_of_two_ranks_counts_bytes(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    names = ["horovod", "ddp", "post_local_sgd_16", "bucket_clip", "celgc_1", "celgc_4", "celgc_4_delayed"]
    options = ["train", "--shape", "small", "--blocks", "2", "--steps", "4", "--json", str(file)]
    run_ranks([*COMMAND, *options, "--peers", ",".join([*names, "celgc_16_topk", "celgc_16_node_4"])], 2, cwd=PROJECT)
    found = json.loads(file.read_text())
    peers = found["peers"]
    assert set(peers) == {"T_step", "T_comm", *names, "celgc_16_topk"}
    assert "all 2 ranks are on one host" in found["absent"]["celgc_16_node_4"]
    check_numbers(peers, 2)
    message = peers["T_comm"]["payload_bytes"]
    assert peers["celgc_1"]["payload_bytes"] == message and peers["celgc_4"]["payload_bytes"] == message / 4
    assert peers["celgc_4_delayed"]["payload_bytes"] == message / 4, "one is under way before"
    assert peers["T_step"]["payload_bytes"] == 0 and peers["celgc_16_topk"]["payload_bytes"] < message / 16


@pytest.mark.slow
def test_pictures_are_drawn(tmp_path: Path) -> None:
    draw = [sys.executable, str(PROJECT / "jobs/bench_plot.py"), str(tmp_path)]
    seconds = {"T_step": [1.0, 1.1], "T_comm": [0.1, 0.1], "horovod": [2.0, 2.2], "celgc_1": [1.0, 1.2]}
    files = [tmp_path / f"train-2-{rate}.json" for rate in ("off", "1gbit")]
    for file in files:
        file.write_text(json.dumps({"peers": {name: {"seconds": times} for name, times in seconds.items()}}))
    grown = tmp_path / "ranks-2.json"
    sizes = [
        {"floats": 10**n, "peers": {name: {"seconds": [1.0, 2.0]} for name in ("step", "average", "bare average")}}
        for n in (2, 3)
    ]
    grown.write_text(json.dumps({"ranks": 2, "sizes": sizes}))
    subprocess.run([*draw, "links", *map(str, files)], check=True, cwd=PROJECT, timeout=60)
    subprocess.run([*draw, "growth", str(grown)], check=True, cwd=PROJECT, timeout=60)
    for name in ("links-2", "growth"):
        assert (tmp_path / f"{name}.png").stat().st_size > 0 and (tmp_path / f"{name}.svg").stat().st_size > 0
