"""The hvdclip command, alone and on real ranks: what it prints, writes and refuses."""

import contextlib
import errno
import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from operator import itemgetter
from pathlib import Path

import command
import pytest
import torch
from launch import HVDCLIP, run_ranks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PROJECT = Path(__file__).parent.parent
SMALL = ["model.embedding=8", "model.hidden=16", "data.batch=4", "data.bptt=16", "data.evaluation_columns=600"]
METRICS = {
    *("step", "round", "epoch", "samples", "loss", "lr", "gamma", "interval", "clip_fraction", "grad_norm", "drift"),
    *("bytes", "comm_s", "round_s", "waiting_s", "slowest", "ranks"),
}


def hvdclip(*arguments, ranks=1, launcher="alone", check=True, cwd=PROJECT, timeout=120):
    """As a process of its own where it has several ranks or imports what is in its folder."""
    if launcher == "alone" and cwd == PROJECT:
        return command.hvdclip(*arguments, check=check)
    return run_ranks([HVDCLIP, *map(str, arguments)], ranks, launcher, cwd=cwd, check=check, timeout=timeout)


def train(folder, *overrides, **how):
    hvdclip("train", "configs/quickstart.yaml", *SMALL, *overrides, "--run-dir", folder, **how)
    return read(folder)


def read(folder):
    lines = [[json.loads(line) for line in (folder / f"{name}.jsonl").open()] for name in ("metrics", "evals")]
    return json.loads((folder / "summary.json").read_text()), *lines


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """celgc and the baseline on two ranks, 20 steps each."""
    folder = tmp_path_factory.mktemp("runs")
    short = ["train.steps=20", "train.evaluate_every_steps=7"]
    train(folder / "celgc", *short, ranks=2, launcher="mpirun")
    naive = ["algorithm.name=naive_parallel_clip", "algorithm.interval=null", "log.every_steps=6"]
    train(folder / "naive", *short, *naive, ranks=2, launcher="mpirun")
    return folder


@pytest.mark.ranks
def test_a_run_directory(runs):
    summary, metrics, evals = read(runs / "celgc")
    assert [line["step"] for line in metrics] == [8, 16, 20], "two rounds and an incomplete one"
    assert all(set(line) >= METRICS for line in metrics) and metrics[0]["drift"] is None and metrics[1]["drift"] > 0
    assert [(row["step"], row["split"]) for row in evals] == [(8, "valid"), (16, "valid"), (20, "valid"), (20, "test")]
    assert all(set(row) == {"step", "epoch", "split", "loss", "perplexity"} for row in evals)
    assert evals[2]["loss"] < evals[0]["loss"] < 5.6
    assert summary["rounds"] == summary["collectives"] == 3 and summary["ranks"] == 2 and summary["exit"] == "done"
    assert summary["bytes"] == sum(line["bytes"] for line in metrics)
    assert summary["final"]["test"] == evals[3] and summary["best"] == min(evals[:3], key=itemgetter("loss"))
    state = torch.load(runs / "celgc/checkpoints/final.pt", weights_only=True)
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values()))
    assert summary["model_sha256"] == digest.hexdigest()


@pytest.mark.ranks
def test_celgc_communicates_an_eighth_of_the_baseline(runs, tmp_path):
    summary, metrics, _ = read(runs / "naive")
    assert [line["step"] for line in metrics] == [6, 12, 18, 20] and metrics[0]["interval"] is None
    assert sum(line["bytes"] for line in metrics) == summary["bytes"] and summary["rounds"] == 20
    local = read(runs / "celgc")[1][0]["bytes"]
    baseline = summary["bytes"] / 20 * 8
    assert local == pytest.approx(baseline / 8, rel=0.01)


@pytest.mark.ranks
def test_a_method_that_takes_two_gradients_trains_too(tmp_path):
    name = ["algorithm.name=episode", "algorithm.interval=4"]
    summary, metrics, _ = train(tmp_path / "run", *name, "train.steps=16", ranks=2, launcher="mpirun")
    assert summary["rounds"] == 4 and summary["collectives"] == 8, "G at the start of a round, x at its end"
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert all(line["bytes"] > 8 * summary["parameters"] for line in metrics)


@pytest.mark.ranks
def test_every_launcher_runs_the_same_line_to_the_same_model(runs, tmp_path):
    expected = read(runs / "celgc")[0]["model_sha256"]
    for launcher in ("horovodrun-mpi", "horovodrun-gloo"):
        summary, *_ = train(
            tmp_path / launcher, "train.steps=20", "train.evaluate_every_steps=7", ranks=2, launcher=launcher
        )
        assert summary["model_sha256"] == expected, "a sum of two floats has one order"


@pytest.mark.ranks
def test_the_evaluation_does_not_depend_on_the_number_of_ranks(runs):
    def losses(**how):
        return [float(loss) for loss in re.findall(r"loss (\S+)", hvdclip("eval", runs / "celgc", **how).stdout)]

    alone, two = losses(), losses(ranks=2, launcher="mpirun")
    assert alone == pytest.approx(two, rel=1e-5)
    assert alone == pytest.approx([row["loss"] for row in read(runs / "celgc")[2][-2:]], rel=1e-5)


@pytest.mark.ranks
def test_plot_prints_the_table_and_draws_both_runs(runs, tmp_path):
    done = hvdclip("plot", runs / "celgc", runs / "naive", "--out", tmp_path)
    assert "celgc, I = 8" in done.stdout and "naive_parallel_clip" in done.stdout and "1/6.7" in done.stdout
    image = (tmp_path / "comparison.png").read_bytes()
    assert image[:4] == b"\x89PNG" and len(image) > 20_000
    svg = (tmp_path / "comparison.svg").read_text()
    assert svg.count('id="line2d_') > 20


def test_tensorboard_files_if_asked_for(tmp_path):
    train(tmp_path, "train.steps=8", "log.tensorboard=true")
    assert [file.name.partition(".")[0] for file in (tmp_path / "tensorboard").iterdir()] == ["events"]


def test_tensorboard_shows_each_step_of_a_resumed_run_once(tmp_path):
    arguments = ["configs/quadratics.yaml", "train.steps=20", "train.evaluate_every_steps=20", "log.tensorboard=true"]
    arguments += ["checkpoint.every_steps=8", "--run-dir", str(tmp_path / "run")]
    hvdclip("train", *arguments)
    (tmp_path / "run/summary.json").unlink()
    assert "continues from step 16" in hvdclip("train", *arguments, "--resume").stdout
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [scalar.step for scalar in events.Scalars("train/loss")] == [4, 8, 12, 16, 20]


def test_tensorboard_on_a_full_disk_ends_no_training(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    arguments = ["configs/quadratics.yaml", "train.steps=20", "log.tensorboard=true"]
    done = hvdclip("train", *arguments, "--run-dir", tmp_path / "run")
    assert done.stderr.count("TensorBoard: [Errno 28] No space left") == 1


@pytest.mark.slow
def test_alone_and_again(tmp_path):
    summary, metrics, _ = train(
        tmp_path / "a", "train.steps=16", "train.evaluate_every_steps=16", "checkpoint.every_steps=5"
    )
    saved = {file.name for file in (tmp_path / "a/checkpoints").iterdir()}
    assert saved == {"final.pt", "best.pt", "step-00000008"}, "moved to the end of its round; none at the run's end"
    files = [tmp_path / "a/checkpoints" / name for name in ("step-00000008/model.pt", "final.pt")]
    last, final = (torch.load(file, weights_only=True) for file in files)
    assert last.keys() == final.keys() and not torch.equal(last["decoder.weight"], final["decoder.weight"])
    again, *_ = train(tmp_path / "b", "train.steps=16", "train.evaluate_every_steps=4")
    assert summary["ranks"] == 1 and summary["bytes"] == 0 and len(metrics) == 2
    assert again["model_sha256"] == summary["model_sha256"], "evaluating more often changes nothing"
    done = hvdclip("train", "configs/quickstart.yaml", "--run-dir", tmp_path / "a", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "choose another --run-dir" in done.stderr
    assert read(tmp_path / "a")[0] == summary
    new, *_ = train(tmp_path / "a", "train.steps=8", "--overwrite")
    assert new["rounds"] == 1 and len(read(tmp_path / "a")[1]) == 1


def test_epochs_milestones_and_nt_asgd(tmp_path):
    (tmp_path / "ptb").mkdir()
    for split, lines in (("train", 60), ("valid", 20), ("test", 20)):
        (tmp_path / "ptb" / f"{split}.txt").write_text("a b c d e f g\n" * lines)
    arguments = ["data=null", "data.name=ptb", f"data.root={tmp_path}", "data.batch=2", "data.bptt=20"]
    arguments += ["data.evaluation_columns=3", "model.hidden=8", "model.embedding=4", "algorithm.interval=4"]
    arguments += ["train.steps=null", "train.evaluate_every_steps=null", "train.epochs=8", "train.milestones=[2]"]
    hvdclip("train", "configs/quickstart.yaml", *arguments, "train.nt_asgd=epoch", "train.nonmono=1",
            "--run-dir", tmp_path / "run")  # fmt: skip
    summary, metrics, evals = read(tmp_path / "run")
    assert summary["epoch"] == 8 and [round(row["epoch"]) for row in evals] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    by_epoch = {line["epoch"]: line["lr"] for line in metrics}
    assert all(lr == pytest.approx(10.0 if epoch <= 2 else 1.0) for epoch, lr in by_epoch.items())


MINE = """
import torch
from torch.utils.data import DataLoader, TensorDataset


def build(hidden=8):
    return torch.nn.Sequential(torch.nn.Linear(2, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 2))


def loaders(rank, ranks, n=240, unequal=False):
    torch.manual_seed(7)
    inputs = torch.randn(n, 2)
    targets = (inputs.sum(1) > 0).long()
    mine = slice(rank, n - 60 - (16 * rank if unequal else 0), ranks)
    held_out = slice(n - 60 + rank, n, ranks)
    return {
        "train": DataLoader(TensorDataset(inputs[mine], targets[mine]), batch_size=10, drop_last=True),
        "valid": DataLoader(TensorDataset(inputs[held_out], targets[held_out]), batch_size=16),
    }
"""
OWN = """
algorithm: {name: celgc, lr: 0.5, gamma: 0.5, interval: 4}
model: mine:build
data: mine:loaders
train: {epochs: 12, seed: 3}
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "own.yaml").write_text(OWN)
    return tmp_path


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.ranks)])
def test_ones_own_model_and_data(own, ranks):
    how = {"ranks": ranks, "launcher": "alone" if ranks == 1 else "mpirun", "cwd": own}
    hvdclip("train", "own.yaml", "model.hidden=6", "--run-dir", "run", **how)
    summary, _, evals = read(own / "run")
    assert (
        summary["final"]["valid"]["accuracy"] > 0.9 and evals[-1]["accuracy"] == summary["final"]["valid"]["accuracy"]
    )
    assert summary["parameters"] == 2 * 6 + 6 + 6 * 2 + 2
    assert "accuracy" in hvdclip("eval", "run", cwd=own).stdout


@pytest.mark.ranks
def test_of_shards_of_different_length_as_many_batches_are_read_as_the_shortest_has(own):
    unequal = ["own.yaml", "data.unequal=true", "train.epochs=3", "--run-dir", "run"]
    done = hvdclip("train", *unequal, ranks=2, launcher="mpirun", cwd=own)
    assert done.stdout.count("8 batches per rank and epoch (loaders have up to 9, of which the first 8 are taken)") == 1
    summary, metrics, _ = read(own / "run")
    assert summary["epoch"] == 3 and metrics[-1]["step"] == 24 and summary["samples"] == 2 * 24 * 10


@pytest.mark.ranks
def test_a_loader_that_is_shorter_than_it_says_ends_all_ranks(own):
    """Whichever rank's, and with one line first."""
    lying = (
        MINE
        + """

class Lying:
    def __init__(self, loader, batches):
        self.loader, self.batches = loader, batches
    def __len__(self):
        return len(self.loader)
    def __iter__(self):
        return itertools.islice(self.loader, self.batches)

def lying(rank, ranks):
    made = loaders(rank, ranks)
    return made | {"train": Lying(made["train"], 5 if rank == 1 else 9)}
"""
    )
    (own / "mine.py").write_text("import itertools\n" + lying)
    line = ["own.yaml", "data=mine:lying", "--run-dir", "run"]
    done = hvdclip("train", *line, ranks=2, launcher="mpirun", cwd=own, check=False, timeout=60)
    told = [line for line in done.stderr.splitlines() if line.startswith("hvdclip: ")]
    assert done.returncode == 1 and len(told) == 1
    assert re.search(r"rank 1 on host \S+ failed at step 6: .*gave 5 batches, but its length says 9", told[0])


@pytest.mark.ranks
@pytest.mark.parametrize("algorithm", ["{name: ian_sgd, lr: 0.1, beta: 0.5, delta: 1.0, floor: 1.0, interval: 3}",
                                       "{name: episode, lr: 0.1, gamma: 0.1, interval: 3}"])  # fmt: skip
def test_epochs_of_methods_that_take_two_gradients(own, algorithm):
    hvdclip("train", "own.yaml", f"algorithm={algorithm}", "train.steps=null", "train.epochs=2", "--run-dir", "run",
            ranks=2, launcher="mpirun", cwd=own)  # fmt: skip
    alone = ["algorithm={name: local_sgd, lr: 0.1}", "train.steps=null", "train.epochs=2", "--run-dir", "other"]
    hvdclip("train", "own.yaml", *alone, ranks=2, launcher="mpirun", cwd=own)
    summary, plain = (read(own / name)[0] for name in ("run", "other"))
    assert plain["epoch"] == 2 and 2 <= summary["epoch"] < 2.3 and summary["step"] < plain["step"]
    assert plain["samples"] <= summary["samples"] <= 1.15 * plain["samples"]


def test_a_sample_of_the_ranks_has_no_epochs(tmp_path):
    name = ["algorithm={name: episode_pp, lr: 0.01, gamma: 0.05, participants: 1}", "--run-dir", tmp_path / "run"]
    done = hvdclip("train", "configs/quickstart.yaml", *name, "train.steps=null", "train.epochs=1", check=False)
    assert done.returncode == 2 and "ranks read different amounts of data, so epochs mean nothing" in done.stderr


@pytest.mark.ranks
def test_ranks_that_are_not_drawn_read_no_data(tmp_path):
    line = ["algorithm={name: episode_pp, lr: 0.01, gamma: 0.05, interval: 5, participants: 1}", "train.steps=20"]
    hvdclip("train", "configs/quartics.yaml", *line, "train.evaluate_every_steps=5", "--run-dir", tmp_path / "run",
            ranks=2, launcher="mpirun")  # fmt: skip
    summary, metrics, _ = read(tmp_path / "run")
    # 5 gradients of both ranks at the start, then 5 a round of the one drawn; `step` counts for both
    assert [line["samples"] for line in metrics] == [15, 20, 25, 30] and summary["step"] == 20


@pytest.mark.ranks
def test_labelled_shards_are_shown_and_weigh(tmp_path):
    rows = ["1 1:1.0 2:0.5"] * 6 + ["-1 1:-1.0"] * 2
    (tmp_path / "libsvm").mkdir()
    (tmp_path / "libsvm/tiny").write_text("\n".join(rows) + "\n")
    data = f"data={{name: libsvm, root: {tmp_path}, file: tiny, partition: dirichlet, alpha: 0.5, partition_seed: 3}}"
    line = ["configs/mushrooms.yaml", data, "algorithm={name: local_sgd, lr: 0.1}", "train.steps=10"]
    shown = hvdclip("train", *line, "--run-dir", tmp_path / "run", ranks=2, launcher="mpirun").stdout
    counts = read(tmp_path / "run")[0]["label_counts"]
    assert [sum(column) for column in zip(*counts, strict=True)] == [2, 6] and sum(counts[0]) != sum(counts[1])
    assert [list(map(int, row)) for row in re.findall(r"^ +\d +(\d+) +(\d+)$", shown, re.MULTILINE)] == counts
    hvdclip("train", *line, "train.weighted=true", "--run-dir", tmp_path / "weighted", ranks=2, launcher="mpirun")
    plain, weighted = (torch.load(tmp_path / name / "checkpoints/final.pt")["x"] for name in ("run", "weighted"))
    assert not torch.allclose(plain, weighted)


@pytest.mark.ranks
def test_hosts_with_different_text_are_refused(tmp_path):
    for rank in range(2):
        (tmp_path / f"{rank}/ptb").mkdir(parents=True)
        for split in ("train", "valid", "test"):
            (tmp_path / f"{rank}/ptb/{split}.txt").write_text("a b c\n" * (100 + rank))
    script = f'HVDCLIP_DATA={tmp_path}/$OMPI_COMM_WORLD_RANK exec {HVDCLIP} "$@"'
    command = ["bash", "-c", script, "x", "train", "configs/quickstart.yaml", "data=null", "data.name=ptb"]
    done = run_ranks([*command, "--run-dir", str(tmp_path / "run")], 2, cwd=PROJECT, check=False)
    assert done.returncode == 2
    said = done.stderr + done.stdout
    assert "ranks disagree on the text of ptb (its checksum); allowed: one value for all" in said
    assert len(re.findall(r"hvdclip:   [01] +\S+ +[0-9a-f]{37}\.\.\.", said)) == 2, "who has what"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["configs/quickstart.yaml", "algorithm.inner={name: AdamW, betaa: 3}"],
            "betaa",
        ),
        (
            ["configs/quickstart.yaml", "algorithm.intervall=3"],
            "algorithm.intervall: unknown setting; did you mean interval",
        ),
        (["configs/nothing.yaml"], "configs/nothing.yaml: No such file"),
        (["configs/quickstart.yaml", "data=wikitext-2", "data.root=/nonexistent"], "/nonexistent/wikitext-2/train.txt"),
        (["configs/quickstart.yaml", "data.batch=100000000"], "lower the batch or the number of ranks"),
        (["configs/quickstart.yaml", "data.level=letter"], "letter"),
        (["configs/quickstart.yaml", "model.hidden=0"], "hidden"),
        (["configs/quickstart.yaml", "train.device=cuda"], "torch sees no CUDA device"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, said):
    if "train.device=cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    done = hvdclip("train", *arguments, "--run-dir", tmp_path / "run", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.ranks
def test_bad_input_is_told_once_by_many_ranks(tmp_path):
    for arguments in (["train.steps=0"], ["data.level=letter"]):
        done = hvdclip("train", "configs/quickstart.yaml", *arguments, "--run-dir", tmp_path / "run", ranks=3,
                       launcher="mpirun", check=False)  # fmt: skip
        assert done.returncode == 2 and (done.stderr + done.stdout).count("hvdclip: ") == 1
        assert not (tmp_path / "run").exists()


def test_a_run_that_fails_says_why(own):
    (own / "mine.py").write_text(
        MINE.replace("inputs = torch.randn(n, 2)", "inputs = torch.randn(n, 2) * float('inf')")
    )
    done = hvdclip("train", "own.yaml", "--run-dir", "run", cwd=own, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "not finite on rank 0 at step 1" in done.stderr
    assert "not finite on rank 0 at step 1" in json.loads((own / "run/summary.json").read_text())["exit"]
    done = hvdclip("plot", "run", cwd=own, check=False)
    assert done.returncode == 2 and "has a run that is not done" in done.stderr


def test_a_crash_is_one_line_its_traceback_and_status_1(tmp_path, monkeypatch):
    def crash(trainer):
        raise IndexError("no such thing")

    monkeypatch.setattr("hvdclip.training.loop.Trainer.step", crash)
    done = hvdclip("train", "configs/quadratics.yaml", "--run-dir", tmp_path / "run", check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert re.match(r"hvdclip: rank 0 on host \S+ failed at step 0: IndexError: no such thing\n", done.stderr)


def test_a_loader_that_is_empty_or_lies_about_its_length(own):
    done = hvdclip("train", "own.yaml", "data.n=60", "--run-dir", "run", cwd=own, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not (own / "run").exists()
    lying = MINE + "\nclass Short(list):\n    def __len__(self): return 50\n"
    lying += "honest = loaders\ndef loaders(**how):\n    return {k: Short(v) for k, v in honest(**how).items()}\n"
    (own / "mine.py").write_text(lying)
    done = hvdclip("train", "own.yaml", "--run-dir", "run", cwd=own, check=False)
    assert done.returncode == 1 and "gave 18 batches, but its length says 50" in done.stderr


def test_overwriting_needs_a_run(tmp_path):
    (tmp_path / "plots").mkdir()
    arguments = ["train", "configs/quickstart.yaml", "--run-dir", tmp_path, "--overwrite"]
    done = hvdclip(*arguments, check=False)
    assert (
        done.returncode == 2
        and "has files that do not belong to a run" in done.stderr
        and (tmp_path / "plots").exists()
    )


def test_a_directory_without_a_run(tmp_path):
    done = hvdclip("plot", tmp_path, check=False)
    assert done.returncode == 2 and "has no finished run" in done.stderr
    done = hvdclip("eval", tmp_path, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_lists():
    algorithms = hvdclip("algorithms").stdout
    assert "x_i -= min(eta, gamma/||g_i||) d_i" in algorithms and "[0, 2/M]" in algorithms
    assert re.search(r"episode .*│ 2P every I .*│ 2P .*│ 1 a round", algorithms)
    settings = hvdclip("algorithms", "episode").stdout
    assert (
        re.search(r"interval\s+│ 1\s+│ steps\s+│ I, the local steps between two averages", settings)
        and "gamma_follows_lr" in settings
    )
    assert hvdclip("algorithms", "episod", check=False).returncode == 2
    listed = hvdclip("configs").stdout
    assert all(file.stem in listed for file in (PROJECT / "configs").glob("*.yaml"))
    assert hvdclip("configs", "quickstart").stdout == (PROJECT / "configs/quickstart.yaml").read_text()
    assert hvdclip("configs", "nothing", check=False).returncode == 2
    assert "[key.path=value]..." in hvdclip("train", "--help").stdout


@pytest.mark.ranks
def test_a_progress_bar_where_a_terminal_stands_behind_the_launcher(tmp_path):
    """Open MPI gives ranks a terminal whatever its own output is, Horovod a pipe; only the launcher's output counts."""
    line = [HVDCLIP, "train", "configs/quickstart.yaml", *SMALL, "train.steps=24", "--run-dir"]
    plain = run_ranks([*line, str(tmp_path / "plain")], 2, "horovodrun-mpi", cwd=PROJECT, warm=False)
    assert "\x1b" not in plain.stdout and "valid" in plain.stdout
    master, slave = pty.openpty()
    environment = os.environ | {"PATH": f"{Path(HVDCLIP).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    launch = ["horovodrun", "-np", "2", *line, str(tmp_path / "live")]
    process = subprocess.Popen(launch, stdout=slave, stderr=slave, cwd=PROJECT, env=environment)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # a terminal that all have left
        while piece := os.read(master, 65536):
            shown += piece
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert "\x1b[" in text and "24/24" in text and "valid" in text and "<stdout>" not in text


@pytest.mark.parametrize("job", ["configs/quadratics.yaml", "configs/quickstart.yaml"])
def test_a_run_starts_without_what_few_jobs_need(job, tmp_path):
    """torch's compiler alone takes as long to import as all the rest, on every rank of every run."""
    heavy = ["torchvision", "matplotlib", "jinja2", "horovod"]
    if hasattr(torch._C._dynamo.eval_frame, "set_code_exec_strategy"):  # since torch 2.7
        heavy.append("torch._dynamo")
    short = [*SMALL, "train.steps=2"] if "quickstart" in job else ["train.steps=2"]
    arguments = ["train", job, *short, "checkpoint.every_steps=2", "--run-dir", str(tmp_path / "run")]
    code = (
        f"import sys, hvdclip.cli; hvdclip.cli.main({arguments}, standalone_mode=False); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
