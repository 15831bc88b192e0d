"""A rank's state: for every algorithm and setting, a run that goes on from it is the run that was not disturbed."""

import copy
import io
import json
import random

import averaging_cases
import cases
import digits
import numpy as np
import pytest
import torch
from algorithms import OF_ONE_LOSS

import hvdclip
from hvdclip.comm import SingleRank
from hvdclip.config import check
from hvdclip.simulation.run import Memory
from hvdclip.training.checkpointing import Checkpoints
from hvdclip.training.display import Silent
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer
from hvdclip.training.provenance import sha256
from hvdclip.training.resume import chosen_after
from hvdclip.training.rundir import METRICS, RunDirectory
from hvdclip.training.state import restore, restore_elsewhere, state_of

TIMES = ("comm_s", "round_s", "waiting_s", "slowest")
STEPS, SAVED = 27, 7  # saved at the end of the round in which that step is


class Taken(Checkpoints):
    """The state at the end of one round, through a file and back, and the lines and rows until then."""

    state = None

    def __init__(self, memory):
        self.memory = memory

    def after_step(self, optimizer):
        self.due |= optimizer.steps == SAVED

    def save(self, trainer, wait=False):
        file = io.BytesIO()
        torch.save(state_of(trainer), file)
        file.seek(0)
        self.state = torch.load(file, weights_only=True)
        self.before = len(self.memory.lines), len(self.memory.rows)
        self.due = False


def trained(comm, config, state=None, saving=True, how=restore):
    """(SHA-256 of the model, lines, rows, what was taken) of a run from the start, or from a state on."""
    trainer = Trainer(Job(check(config), comm))
    if state is not None:
        for draw in (random.random, np.random.rand, torch.rand(3).sum):
            draw()
        how(trainer, copy.deepcopy(state))
    memory = Memory()
    taken = Taken(memory)
    trainer.train(memory, Silent(), taken if saving else None)
    lines = [{key: value for key, value in line.items() if key not in TIMES} for line in memory.lines]
    return sha256(trainer.model), lines, memory.rows, taken


def simulate(one, ranks, ranks_per_node):
    return [one(SingleRank())] if ranks == 1 else hvdclip.simulate(one, ranks, ranks_per_node)


def check_round_trip(config, ranks=2, ranks_per_node=None, undisturbed=True):
    """Undisturbed, saved, and gone on from what was saved, all the same to the last bit."""
    saved = simulate(lambda comm: trained(comm, config), ranks, ranks_per_node)
    undisturbed = (
        simulate(lambda comm: trained(comm, config, saving=False), ranks, ranks_per_node) if undisturbed else saved
    )
    resumed = simulate(
        lambda comm: trained(comm, config, saved[comm.rank][3].state, saving=False), ranks, ranks_per_node
    )
    for (model, lines, rows, _), (its, its_lines, its_rows, taken), (model_, lines_, rows_, _) in zip(
        undisturbed, saved, resumed, strict=True
    ):
        assert (its, its_lines, its_rows) == (model, lines, rows), "saving changes nothing"
        seen, rated = taken.before
        assert 0 < seen < len(lines) and len(rows) > rated
        assert model_ == model
        assert lines_ == lines[seen:]
        assert rows_ == rows[rated:]


def job(algorithm, settings, **train):
    settings = {"name": algorithm, "lr": 0.02} | settings
    return {
        "algorithm": settings,
        "model": "point",
        "data": {"name": "quadratics", "dimension": 12, "noise": 1.0},
        "train": {"steps": STEPS, "evaluate_every_steps": 8, "seed": 3} | train,
        "log": {"every_steps": 4},
    }


CASES = [
    (name, algorithm, {key: value for key, value in settings.items() if key != "weights"}, "weights" in settings)
    for name, algorithm, settings in cases.cases()
    if settings.get("interval") != 1
]


@pytest.mark.parametrize("algorithm", OF_ONE_LOSS)
def test_every_algorithm(algorithm):
    chosen = [case for case in CASES if case[1] == algorithm]
    assert chosen
    for number, (name, _, settings, weighted) in enumerate(chosen):
        print(name)
        check_round_trip(job(algorithm, settings, weighted=weighted), undisturbed=number == 0)


@pytest.mark.parametrize(("title", "extra"), averaging_cases.EXTRAS.items(), ids=averaging_cases.EXTRAS)
def test_every_way_to_average(title, extra):
    settings = {"gamma": 0.1, "interval": 4} | {key: value for key, value in extra.items() if key != "weights"}
    nodes = {"ranks": 4, "ranks_per_node": 2} if "node_interval" in extra else {}
    config = job("celgc", settings, weighted="weights" in extra)
    if "fragments" in extra:  # of several tensors
        images = {"name": "synthetic", "samples": 64, "side": 4, "classes": 3, "batch": 4}
        config |= {"model": {"name": "mlp", "hidden": [5]}, "data": images}
    check_round_trip(config, **nodes)


@pytest.mark.parametrize("inner", ["AdamW", {"name": "SGD", "momentum": 0.9}, "RMSprop"], ids=str)
@pytest.mark.parametrize("algorithm", ["celgc", "naive_parallel_clip"])
def test_an_optimizer_inside(algorithm, inner):
    interval = {"interval": 4} if algorithm == "celgc" else {}
    check_round_trip(job(algorithm, {"gamma": 0.01, "inner": inner} | interval))


def test_two_optimizers_inside_and_averages_of_their_states():
    inner = {"matrices": {"name": "SGD", "momentum": 0.9, "lr": 0.02}, "others": "AdamW"}
    states = {"interval": 2, "state_intervals": {"momentum_buffer": 1, "exp_avg": 3}}
    images = {"name": "synthetic", "samples": 64, "side": 4, "classes": 3, "batch": 4}
    config = job("celgc", {"gamma": 0.01, "inner": inner} | states)
    check_round_trip(config | {"model": {"name": "mlp", "hidden": [5]}, "data": images})


def test_auto_repeats_its_choices_as_far_as_it_had_come(tmp_path):
    """Measured times differ from run to run; what was chosen before the end stands in the metrics."""
    config = job("celgc", {"gamma": 0.1, "interval": "auto", "drift_budget": 5.0}, steps=90)
    run = RunDirectory(tmp_path)
    (_, _, _, taken), other = hvdclip.simulate(lambda comm: trained(comm, config), 2)
    lines = taken.memory.lines
    (tmp_path / METRICS).write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 9')

    def one(comm):
        trainer = Trainer(Job(check(config), comm))
        restore(trainer, copy.deepcopy((taken, other[3])[comm.rank].state))
        log = chosen_after(run, SAVED)
        trainer.optimizer.intervals.follow(log)
        memory = Memory()
        trainer.train(memory, Silent())
        return memory.lines, log

    (again, log), _ = hvdclip.simulate(one, 2)
    assert log and min(log) > taken.state["optimizer"]["hvdclip"]["steps"], "it changed after the checkpoint"
    keys = ("step", "interval", "loss", "drift")
    assert [[line[key] for key in keys] for line in again] == [
        [line[key] for key in keys] for line in lines[taken.before[0] :]
    ]


# what a task goes on with


class Net(torch.nn.Module):
    """Dropout, batch-norm's buffers, a frozen parameter, and a buffer that is no part of the model's state_dict."""

    def __init__(self):
        super().__init__()
        self.frozen = torch.nn.Parameter(torch.randn(3), requires_grad=False)
        self.inside = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3))
        self.outside = torch.nn.Linear(8, 2)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, inputs):
        if self.training:
            self.seen += 1
        return self.outside(self.inside(inputs + self.frozen * self.seen))


class Augmented(torch.utils.data.Dataset):
    """Rows with noise of all three kinds of random numbers."""

    def __init__(self, rows):
        self.rows = torch.randn(rows, 3)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        noisy = self.rows[place] + 0.1 * torch.randn(3) + random.random() + np.random.rand()
        return noisy.float(), int(self.rows[place].sum() > 0)


def loaders(rank, ranks, generator=False, workers=0, rows=90, uneven=0):
    torch.manual_seed(rank)
    of_its_own = torch.Generator().manual_seed(5) if generator else None
    train = Augmented(rows + uneven * rank)
    loading = {"batch_size": 9, "shuffle": True, "drop_last": True, "num_workers": workers, "generator": of_its_own}
    return {
        "train": torch.utils.data.DataLoader(train, **loading),
        "valid": torch.utils.data.DataLoader(train, batch_size=30),
    }


def own(**data):
    return {
        "algorithm": {"name": "celgc", "lr": 0.1, "gamma": 0.05, "interval": 4, "momentum": 0.5},
        "model": "test_state:Net",
        "data": {"name": "test_state:loaders", **data},
        "train": {"epochs": 4, "milestones": [1, 2], "seed": 3},
    }


@pytest.mark.parametrize("how", [{}, {"generator": True}, {"workers": 1}, {"uneven": 9}], ids=str)
def test_data_of_ones_own_go_on_where_they_were(how):
    check_round_trip(own(**how), ranks=1 if "workers" in how else 2)


def test_data_of_ones_own_go_on_from_the_end_of_an_epoch():
    check_round_trip(own(rows=36))  # 4 batches: rounds and epochs end together


@pytest.fixture
def text(tmp_path):
    (tmp_path / "ptb").mkdir()
    words = np.random.default_rng(0).choice(list("abcdefgh\n"), 1200)
    for split, number in (("train", 1200), ("valid", 100), ("test", 100)):
        (tmp_path / "ptb" / f"{split}.txt").write_text(" ".join(words[:number]))
    return {"name": "ptb", "root": str(tmp_path), "batch": 2, "evaluation_columns": 3}


@pytest.mark.parametrize("algorithm", ["celgc", "spider_clip", "episode"])
@pytest.mark.parametrize("model", ["lstm", "awd_lstm"])
def test_a_hidden_state_goes_on(text, model, algorithm):
    settings = {"anchor_every": 3} if algorithm == "spider_clip" else {}
    check_round_trip(
        {
            "algorithm": {"name": algorithm, "lr": 1.0, "gamma": 0.1, "interval": 4} | settings,
            "model": {"name": model, "embedding": 8, "hidden": 12, "layers": 2, "dropout": 0.2},
            "data": text | {"bptt": 8},
            "train": {"steps": STEPS, "evaluate_every_steps": 8, "seed": 3},
        }
    )


@pytest.mark.parametrize("form", ["epoch", "per_step"])
def test_text_over_epochs_with_a_running_mean_of_models(text, form):
    check_round_trip(
        {
            "algorithm": {"name": "celgc", "lr": 30.0, "gamma": 3.0, "interval": 3},
            "model": {"name": "lstm", "embedding": 4, "hidden": 8},
            "data": text | {"bptt": 80},
            "train": {"epochs": 9, "milestones": [2, 5], "nt_asgd": form, "nonmono": 1, "seed": 3},
        }
    )


def test_shards_of_labelled_rows(tmp_path):
    digits.write(tmp_path)
    check_round_trip(
        {
            "algorithm": {"name": "scaffold", "lr": 0.1, "interval": 4},
            "model": {"name": "mlp", "hidden": [4]},
            "data": {"name": "mnist", "root": str(tmp_path), "batch": 4},
            "train": {"epochs": 5, "milestones": [1], "seed": 3},
        }
    )


def test_images_that_are_drawn_at_random(tmp_path, monkeypatch):
    digits.write_colours(tmp_path, monkeypatch)
    check_round_trip(
        {
            "algorithm": {"name": "celgc", "lr": 0.1, "gamma": 0.1, "interval": 4},
            "model": {"name": "resnet", "depth": 8},
            "data": {"name": "cifar10", "root": str(tmp_path), "batch": 4},
            "train": {"epochs": 5, "milestones": [1], "seed": 3},
        }
    )


# other ranks


def taken_on(ranks, config):
    return hvdclip.simulate(lambda comm: trained(comm, config)[3].state, ranks)[0]


@pytest.mark.parametrize("extra", [{}, {"momentum": 0.9, "momentum_policy": "average"}, averaging_cases.OUTER], ids=str)
def test_other_ranks_go_on_from_the_common_x_after_the_same_share_of_the_epoch(text, extra):
    def config(ranks):
        return {
            "algorithm": {"name": "celgc", "lr": 1.0, "gamma": 0.1, "interval": 4} | extra,
            "model": {"name": "lstm", "embedding": 4, "hidden": 8, "dropout": 0.2},
            "data": text | {"bptt": 5},
            "train": {"steps": STEPS, "evaluate_every_steps": 8, "seed": 3},
        }

    def one(comm):
        trainer = Trainer(Job(check(config(comm.size)), comm))
        restore_elsewhere(trainer, copy.deepcopy(state))
        x, epoch, drawn = trainer.optimizer.x.flats[0].clone(), trainer.stream.epoch, torch.get_rng_state()
        memory = Memory()
        trainer.train(memory, Silent())
        return x, epoch, drawn, memory.lines, sha256(trainer.model)

    state = taken_on(4, config(4))
    x, epochs, drawn, lines, models = zip(*hvdclip.simulate(one, 2), strict=True)
    there = state["stream"]
    assert all(torch.equal(mine, state["x"][0]) for mine in x)
    assert epochs[0] == pytest.approx(there["epoch"] + there["position"] / there["length"], abs=0.02)
    assert not torch.equal(*drawn), "each rank draws its own"
    assert len(set(models)) == 1
    first, second, *_ = lines[0]
    assert (first["step"], first["ranks"]) == (12, 2)
    assert first["drift"] is None and second["drift"] > 0, "the average before was other ranks'"
    assert first["samples"] > state["metrics"]["samples"]


KEPT_APART = {
    "momentum": ("celgc", {"gamma": 0.1, "interval": 4, "momentum": 0.9}, "its own momentum"),
    "error": ("celgc", {"gamma": 0.1, "interval": 4, "compression": "int8"}, r"the error of its compression \(int8\)"),
    "delayed": ("celgc", {"gamma": 0.1, "interval": 4, "overlap": "delayed"}, "steps that a delayed average has not"),
    "auto": ("celgc", {"gamma": 0.1, "interval": "auto"}, "times by which interval auto chooses"),
    "inner": ("celgc", {"gamma": 0.1, "interval": 4, "inner": "AdamW"}, "the state of its inner optimizer"),
    "scaffold": ("scaffold", {"interval": 4}, "its own c_i, its own c"),
    "clip21": ("clip21", {"tau": 1.0}, "its own v_i"),
    "spider": ("spider_clip", {"gamma": 0.1, "interval": 4, "anchor_every": 3}, "its own x_before, its own v"),
    "ring": ("decentralized_clip", {"tau": 1.0}, "its own x"),
}


@pytest.mark.parametrize(("algorithm", "settings", "kept"), KEPT_APART.values(), ids=KEPT_APART)
def test_what_ranks_keep_for_themselves_is_refused_to_others(algorithm, settings, kept):
    config = job(algorithm, settings)
    state = taken_on(2, config)

    def one(comm):
        with pytest.raises(ValueError, match=f"each rank of {algorithm} keeps .*{kept}"):
            restore_elsewhere(Trainer(Job(check(config), comm)), state)

    hvdclip.simulate(one, 3)


def test_what_ranks_keep_can_begin_anew_on_others():
    for algorithm, settings, _ in (kept for case, kept in KEPT_APART.items() if case not in ("delayed", "ring")):
        config = job(algorithm, settings)
        config["checkpoint"] = {"other_ranks": "reset"}
        states = hvdclip.simulate(lambda comm, config=config: trained(comm, config)[3].state, 2)
        x = hvdclip.simulate(
            lambda comm, config=config, states=states: begun_anew(Trainer(Job(check(config), comm)), states[0]), 3
        )
        assert all(torch.equal(mine, states[0]["x"][0]) for mine in x)


def begun_anew(trainer, state):
    """x, after what else the method keeps has been seen to be as at the start."""
    at_start = copy.deepcopy(trainer.optimizer.state_dict())
    restore_elsewhere(trainer, copy.deepcopy(state))
    optimizer = trainer.optimizer
    x, found = optimizer.x.flats[0].clone(), optimizer.state_dict()
    assert optimizer.steps == state["optimizer"]["hvdclip"]["steps"]
    for name in optimizer.keeps():
        for mine, theirs in zip(found["hvdclip"]["vectors"][name], at_start["hvdclip"]["vectors"][name], strict=True):
            assert torch.equal(mine, theirs), name
    assert not found.get("inner", {}).get("state")
    trainer.train(Memory(), Silent())
    return x


ALIKE = {
    "celgc": {"gamma": 0.1, "interval": 4},
    "fedprox": {"mu": 0.5, "interval": 4},
    "episode": {"gamma": 0.15, "interval": 4},
    "sketched": {"gamma": 0.15, "width": 4, "server_lr": 0.05, "interval": 4},
    "naive_parallel_clip": {"gamma": 0.1, "momentum": 0.9},
    "minibatch_clip": {"gamma": 0.1, "momentum": 0.9, "interval": 4},
    "bucket_clip": {"gamma": 0.1, "inner": "AdamW"},
}


@pytest.mark.parametrize("algorithm", ALIKE)
def test_what_is_alike_on_all_ranks_goes_on_on_others(algorithm):
    config = job(algorithm, ALIKE[algorithm])
    states = hvdclip.simulate(lambda comm: trained(comm, config)[3].state, 2)
    results = hvdclip.simulate(
        lambda comm: trained(comm, config, states[comm.rank % 2], saving=False, how=restore_elsewhere), 3
    )
    assert len({model for model, *_ in results}) == 1, "whichever rank's state they were given"


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("celgc", {"gamma": 0.1, "outer": "nesterov", "outer_lr": 0.7}),
        ("celgc", {"gamma": 0.1, "compression": "topk", "top_share": 0.2}),
        ("scaffold", {"outer": "sgd", "outer_lr": 0.7}),
    ],
    ids=str,
)
def test_a_state_that_names_x_round_as_it_was_named_is_loaded(algorithm, settings):
    def optimizer():
        return hvdclip.optimizer(algorithm, torch.nn.Linear(3, 2), lr=0.1, interval=3, **settings)

    old = optimizer()
    for vector in old.vectors.values():
        vector.copy_(vector + torch.rand(()).item())
    state = old.state_dict()
    saved = copy.deepcopy(state)
    saved["hvdclip"]["vectors"]["common"] = saved["hvdclip"]["vectors"].pop("x_round")
    saved["hvdclip"]["shape"] = saved["hvdclip"]["shape"].replace("x_round", "common")
    new = optimizer()
    new.load_state_dict(saved)
    for name, flats in state["hvdclip"]["vectors"].items():
        assert all(map(torch.equal, new.vectors[name].flats, flats)), name


def test_noise_that_begins_anew_is_each_ranks_own():
    """Else all ranks would add the noise of the one whose state they were given."""

    def one(comm, states=None):
        model = torch.nn.Linear(3, 2)
        optimizer = hvdclip.optimizer("norm_ec", model, comm=comm, lr=0.1, alpha=0.1, beta=0.5, noise=1.0)
        if states is not None:
            optimizer.load_common_state(states[0], reset=True)
        zero = 0.0 * optimizer.x
        return optimizer.state_dict(), optimizer.noise.added_to(zero).parts[0]

    states = [state for state, _ in hvdclip.simulate(one, 2)]
    first, second, third = (noise for _, noise in hvdclip.simulate(lambda comm: one(comm, states), 3))
    assert not torch.equal(first, second) and not torch.equal(second, third) and not torch.equal(first, third)
