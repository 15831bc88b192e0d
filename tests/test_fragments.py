"""Averages of parts of x in turn: the rule in NumPy on tensors of many sizes, its state, its costs."""

import copy
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import hvdclip
from hvdclip.averaging.fragments import fragments_of
from hvdclip.flat import Part, Space

SHAPES = [(3, 4), (4,), (5, 2), (2,), (6,), (1,)]
SIZES = [12, 4, 10, 2, 6, 1]
P = 35
# by hand: of three parts the first ends nearest to 35/3 (12), the second nearest to 70/3 (26)
BOUNDS = {1: [0, 35], 2: [0, 16, 35], 3: [0, 12, 26, 35], 6: [0, 12, 16, 26, 28, 34, 35]}
LR, GAMMA, INTERVAL, STEPS = 0.1, 0.2, 3, 20


def start():
    return np.random.default_rng(0).normal(size=P)


def gradient(rank, step, x):
    a, b = np.random.default_rng((1, rank)).uniform([[0.2], [-1.0]], [[2.0], [1.0]], (2, P))
    return a * x - b + 0.3 * np.random.default_rng((2, rank, step)).normal(size=P)


def recomputed(ranks, fragments, steps=STEPS, outer_lr=None, delay=0, alpha=None):
    """(steps + 1, ranks, P): x after each step, and after the last average, which takes all of x.

    With an outer_lr each fragment has its Nesterov step outside, of momentum 0.9, from its own last common x.
    """
    xs, rows, rounds, sent = [start() for _ in range(ranks)], [], 0, None
    common, velocity = start(), np.zeros(P)

    def send():
        nonlocal rounds, sent
        part = slice(*list(pairwise(BOUNDS[fragments]))[rounds % fragments])
        rounds, sent = rounds + 1, (part, [x[part].copy() for x in xs])

    def take():
        nonlocal sent
        part, snapshots = sent
        mean, sent = np.mean(snapshots, axis=0), None
        if outer_lr is not None:
            way = common[part] - mean
            velocity[part] = 0.9 * velocity[part] + way
            mean = common[part] - outer_lr * (way + 0.9 * velocity[part])
        common[part] = mean
        for x, snapshot in zip(xs, snapshots, strict=True):
            x[part] = mean + x[part] - snapshot if alpha is None else alpha * x[part] + (1 - alpha) * mean

    for step in range(steps):
        for rank in range(ranks):
            g = gradient(rank, step, xs[rank])
            xs[rank] = xs[rank] - min(LR, GAMMA / (1e-10 + np.linalg.norm(g))) * g
        since = step % INTERVAL + 1
        if sent and since == delay:
            take()
        if since == INTERVAL:
            send()
            if delay == 0:
                take()
        rows.append([x.copy() for x in xs])
    if sent:
        take()
    if steps % INTERVAL:
        send()
        take()
    return np.array([*rows, [np.mean(xs, axis=0)] * ranks])


class Model(nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        pieces = np.split(start(), np.cumsum(SIZES)[:-1])
        tensors = [torch.tensor(p, dtype=dtype).view(s) for p, s in zip(pieces, SHAPES, strict=True)]
        self.tensors = nn.ParameterList(tensors)

    @property
    def x(self):
        return torch.cat([p.detach().flatten() for p in self.tensors]).double().numpy().copy()

    def backward(self, rank, step):
        g = torch.from_numpy(gradient(rank, step, self.x))
        for p, piece in zip(self.tensors, g.split(SIZES), strict=True):
            p.grad = piece.view(p.shape).to(p.dtype)


def build(comm, fragments, **settings):
    model = Model()
    chosen = {"lr": LR, "gamma": GAMMA, "interval": INTERVAL, "averaging": "fragments", "fragments": fragments}
    return model, hvdclip.optimizer("celgc", model, comm=comm, **chosen | settings)


def run(model, optimizer, first, last):
    rows = []
    for step in range(first, last):
        model.backward(optimizer.comm.rank, step)
        optimizer.step()
        rows.append(model.x)
    return rows


OUTER = {"outer": "nesterov", "outer_lr": 0.7, "outer_momentum": 0.9}
STREAMING = OUTER | {"overlap": "delayed", "delay": 1, "merge_alpha": 0.5}
WAYS = {
    "plain": ({}, {}),
    "outer": (OUTER, {"outer_lr": 0.7}),
    "delayed": ({"overlap": "delayed"}, {"delay": 2}),
    "streaming": (STREAMING, {"outer_lr": 0.7, "delay": 1, "alpha": 0.5}),
}


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("fragments", BOUNDS)
@pytest.mark.parametrize("way", WAYS)
def test_fragments_in_turn_are_those_of_the_rule(way, ranks, fragments):
    settings, rules = WAYS[way]

    def one(comm):
        model, optimizer = build(comm, fragments, **settings)
        rows = run(model, optimizer, 0, STEPS)
        optimizer.synchronize()
        return np.array([*rows, model.x])

    found = np.array(hvdclip.simulate(one, ranks)).transpose(1, 0, 2)
    np.testing.assert_allclose(found, recomputed(ranks, fragments, **rules), rtol=1e-12, atol=1e-13)
    assert (found[-1] == found[-1, 0]).all()


def test_an_outer_step_leaves_alone_what_no_step_since_its_last_one_had_a_gradient_for():
    """Two parts of two tensors, I = 1; the first part averages in even rounds. Its tensors have gradients in round 1
    only, or never; those of the second part always."""
    count = 5

    def one(comm):
        tensors = nn.ParameterList(torch.ones(3, dtype=torch.float64) for _ in range(4))
        fragmented = {"averaging": "fragments", "fragments": 2, "interval": 1}
        optimizer = hvdclip.optimizer("local_sgd", tensors, comm=comm, lr=0.1, **fragmented, **OUTER)
        found = []
        for step in range(count):
            for number, p in enumerate(tensors):
                p.grad = torch.full_like(p, 1.0 + comm.rank) if number > 1 or (number, step) == (0, 1) else None
            optimizer.step()
            found.append([p[0].item() for p in tensors])
        return found

    (found, _) = hvdclip.simulate(one, 2)
    way, velocity, common = 0.15, 0.0, 1.0  # of the one step of tensor 0, on average over both ranks
    velocity = way
    common -= 0.7 * (way + 0.9 * velocity)  # in round 2; round 4 leaves it alone, for all its momentum
    np.testing.assert_allclose([row[0] for row in found], [1, 0.9, common, common, common], rtol=1e-14)
    assert [row[1] for row in found] == [1] * count
    assert found[1][2] == found[1][3] < 1


def test_the_last_average_takes_all_also_after_a_whole_round():
    def one(comm):
        model, optimizer = build(comm, 3)
        run(model, optimizer, 0, 2 * INTERVAL)
        apart, rounds = model.x, optimizer.rounds
        optimizer.synchronize()
        once = model.x
        optimizer.synchronize()
        return apart, once, model.x, rounds, optimizer.rounds, comm.ledger["final"].collectives

    (a, mean, again, *numbers), (b, *_) = hvdclip.simulate(one, 2)
    assert np.abs(a - b).max() > 1e-3
    np.testing.assert_allclose(mean, (a + b) / 2, rtol=1e-14)
    assert np.array_equal(mean, again) and numbers == [2, 2, 1]
    np.testing.assert_allclose(mean, recomputed(2, 3, 2 * INTERVAL)[-1, 0], rtol=1e-12)


@pytest.mark.parametrize("cut", [4, 6, 7])
@pytest.mark.parametrize("extra", [{}, STREAMING, OUTER | {"compression": "topk", "top_share": 0.3}], ids=str)
def test_a_run_that_is_resumed_in_mid_cycle_is_the_same_to_the_bit(cut, extra):
    """After 4 and 7 steps a delayed average has been taken, after 6 it is under way."""

    def one(comm):
        model, optimizer = build(comm, 3, momentum=0.5, **extra)
        run(model, optimizer, 0, cut)
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        whole = run(model, optimizer, cut, STEPS)
        model, optimizer = build(comm, 3, momentum=0.5, **extra)
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        with optimizer.averaged():
            mean = model.x
        return np.array_equal(whole, run(model, optimizer, cut, STEPS)), mean

    (same, mean), (also, others) = hvdclip.simulate(one, 2)
    assert same and also and np.array_equal(mean, others)


def test_averaged_is_the_mean_of_all_of_x_at_any_time():
    def one(comm):
        model, optimizer = build(comm, 2)
        found = []
        for step in range(STEPS):
            run(model, optimizer, step, step + 1)
            own = model.x
            with optimizer.averaged():
                found.append((own, model.x))
            assert np.array_equal(own, model.x)
        optimizer.synchronize()
        before = comm.ledger["evaluation"].collectives
        with optimizer.averaged():
            found.append((model.x, model.x))
        return np.array(found), comm.ledger["evaluation"].collectives - before

    (first, free), (second, _) = hvdclip.simulate(one, 2)
    np.testing.assert_allclose(first[:, 1], (first[:, 0] + second[:, 0]) / 2, rtol=1e-14)
    assert free == 0


def test_ranks_are_known_to_differ_as_soon_as_the_first_round_is_complete():
    def one(comm):
        model, optimizer = build(comm, 2)
        found = []

        def look():
            own = model.x
            with optimizer.averaged():
                found.append((own, model.x, optimizer.state_dict()["hvdclip"]["agree"]))

        optimizer.on_round = look
        run(model, optimizer, 0, INTERVAL)
        return found[0]

    (a, mean, said), (b, also, _) = hvdclip.simulate(one, 2)
    assert np.array_equal(mean, also) and not said
    np.testing.assert_allclose(mean, (a + b) / 2, rtol=1e-14)


@pytest.mark.parametrize("fragments", [2, 3])
def test_a_round_sends_its_fragment_only(fragments):
    def one(comm):
        model, optimizer = build(comm, fragments)
        sent = []
        optimizer.on_round = lambda: sent.append(optimizer.last_round["bytes"] // 8 - optimizer.statistics.size)
        run(model, optimizer, 0, fragments * INTERVAL)
        return sent

    assert hvdclip.simulate(one, 2)[0] == np.diff(BOUNDS[fragments]).tolist()


@pytest.mark.parametrize("compression", ["none", "bf16", "int8", "int4", "topk"])
def test_a_round_sends_and_holds_a_quarter_with_four_fragments(compression):
    """Of the model's message, beside statistics; of messages one is held at a time."""

    def one(comm, **fragmented):
        model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(4)))
        settings = {"lr": 1e-6, "interval": 2, "compression": compression, "overlap": "delayed"} | fragmented
        optimizer, sent, held = hvdclip.optimizer("local_sgd", model, comm=comm, **settings), [], []
        known = []

        def note():
            sent.append(optimizer.last_round["bytes"])
            known.append(weakref.ref(optimizer.message))
            held.append(len({id(message()) for message in known} - {id(None)}))

        optimizer.on_round = note
        for _ in range(10):
            model(torch.randn(3, 64)).sum().backward()
            optimizer.step()
        return sent, max(held), optimizer.statistics.size

    (whole, *_), *_ = hvdclip.simulate(one, 2)
    parts, held, tail = hvdclip.simulate(lambda comm: one(comm, averaging="fragments", fragments=4), 2)[0]
    tail = 3 * 4 * -(-tail // 2) if compression in ("bf16", "int8", "int4") else 4 * tail
    assert {4 * (sent - tail) for sent in parts} == {whole[0] - tail} and held == 1


def test_buffers_and_statistics_travel_in_every_round():
    def one(comm):
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        fragmented = {"averaging": "fragments", "fragments": 4}
        optimizer = hvdclip.optimizer("local_sgd", model, comm=comm, lr=0.1, interval=1, **fragmented)
        seen = []
        for step in range(4):
            torch.manual_seed(10 * step + comm.rank)
            optimizer.zero_grad()
            loss = model(torch.randn(5, 2)).pow(2).sum()
            loss.backward()
            optimizer.record(loss=loss, samples=5)
            own = model[1].running_mean.clone()
            optimizer.step()
            seen.append((own, model[1].running_mean.clone(), loss.item(), optimizer.last_round))
        return seen

    for (a, mean, loss, metrics), (b, others, other, _) in zip(*hvdclip.simulate(one, 2), strict=True):
        assert torch.equal(mean, others) and torch.allclose(mean, (a + b) / 2, atol=1e-7)
        assert metrics["samples"] == 10 and metrics["loss"] == pytest.approx((loss + other) / 2, rel=1e-6)


def test_a_part_lies_in_the_memory_of_the_whole_whatever_the_dtypes():
    last = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    given = [torch.zeros(3), torch.zeros(4, dtype=torch.bfloat16), last, torch.zeros(2, dtype=torch.float64)]
    space = Space([nn.Parameter(tensor) for tensor in (*given, torch.zeros(5, dtype=torch.bfloat16))])
    vector = space.vector()
    for number, part in enumerate(vector.parts):
        part.copy_(torch.arange(part.numel()).view(part.shape) + 10 * number)
    for start in range(5):
        for stop in range(start + 1, 6):
            part = Part(space, slice(start, stop)).of(vector)
            for mine, whole in zip(part.parts, vector.parts[start:stop], strict=True):
                assert torch.equal(mine, whole) and mine.data_ptr() == whole.data_ptr()
                assert mine.stride() == whole.stride()
            assert sum(flat.numel() for flat in part.flats) == sum(p.numel() for p in part.parts)


def test_parts_are_about_equally_large():
    for fragments, bounds in BOUNDS.items():
        ends = np.cumsum([0, *SIZES])
        found = fragments_of(SIZES, fragments)
        assert [ends[part.start] for part in found] + [P] == bounds
    assert fragments_of([1, 1, 100], 3) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert fragments_of([100, 1, 1], 2) == [slice(0, 1), slice(1, 3)]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"averaging": "fragments"}, "averaging is 'fragments' and fragments is None; allowed"),
        ({"fragments": 2}, "averaging is 'whole' and fragments is 2; allowed"),
        ({"averaging": "fragments", "fragments": 0}, "fragments is 0; allowed: greater than or equal to 1"),
        ({"averaging": "fragments", "fragments": 7}, "fragments is 7; allowed: 1 to the number of tensors, which is 6"),
        ({"averaging": "parts", "fragments": 2}, "averaging is 'parts'; allowed: 'whole' or 'fragments'"),
        (
            {"averaging": "fragments", "fragments": 2, "momentum": 0.9, "momentum_policy": "average"},
            "averaging is 'fragments', which averages only x; allowed momentum_policy: keep, reset",
        ),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_in_a_line(settings, match):
    with pytest.raises(ValueError, match=match) as caught:
        hvdclip.optimizer("celgc", Model(), lr=0.1, gamma=0.1, interval=3, **settings)
    assert "\n" not in str(caught.value)


def test_fragments_need_no_common_x():
    with pytest.raises(ValueError, match="averaging is 'fragments'; allowed: whole, because the local steps need"):
        hvdclip.optimizer("fedprox", Model(), lr=0.1, mu=0.1, interval=3, averaging="fragments", fragments=2)


@pytest.mark.parametrize("extra", [{}, OUTER], ids=str)
def test_parameters_are_added_where_no_outer_step_has_parts(extra):
    model, optimizer = build(None, 2, **extra)
    run(model, optimizer, 0, 2)
    optimizer.synchronize()
    more, before = nn.Parameter(torch.ones(3, dtype=torch.float64)), model.x
    if extra:
        with pytest.raises(RuntimeError, match="averaging fragments with an outer step cannot add or unfreeze"):
            optimizer.add_param_group({"params": [more]})
        assert len(optimizer.space.parameters) == len(SIZES)
    else:
        optimizer.add_param_group({"params": [more]})
        assert len(optimizer.space.parameters) == len(SIZES) + 1
    assert np.array_equal(model.x, before)
    run(model, optimizer, 2, 4)


def test_another_number_of_ranks_cannot_resume():
    _, optimizer = build(None, 2)
    with pytest.raises(ValueError, match=r"celgc keeps the fragments of x that the last average did not take$"):
        optimizer.check_common(reset=True)
