"""Bilevel methods: tables of numbers that were computed apart from the package, invariants, costs, state, bad input."""

import copy
import io
import math
import sys
import warnings
from pathlib import Path

import bilevel
import numpy as np
import pytest
import torch
from bilevel import CLIPPED, OFTEN, ON_FOUR, PLAIN, SUM, Run, follow, numbers
from launch import run_ranks
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import hvdclip
from hvdclip.comm import SingleRank
from hvdclip.methods import NonFiniteGradient
from hvdclip.problems import PROBLEMS

EXACT = {"rtol": 0, "atol": 1e-9}
ROWS = ("bo_rep", "slip", "accbo", "adambo")
FIRST = (1, 10, 100, 1000)
MINIMUM = torch.tensor([28 / 19, 2 / 19], dtype=torch.float64)  # of the quadratic


def alone(name, settings, steps, data="bilevel_quadratic", **more):
    return follow(SingleRank(), name, settings, steps, data, **more)


def on_four(name, settings, steps, data="bilevel_quadratic", **more):
    return hvdclip.simulate(lambda comm: follow(comm, name, settings, steps, data, **more), 4)


def mean_x(ranks, k):
    return torch.stack([rank.x[k] for rank in ranks]).mean(dim=0)


def close(found, expected, **tolerance):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), **(tolerance or EXACT))


def same(one, other):
    assert torch.equal(one, other), (one, other)


# Known answers

until_100_or_1000 = pytest.mark.parametrize("last", [100, pytest.param(1000, marks=pytest.mark.slow)])


@until_100_or_1000
@pytest.mark.parametrize(("name", "settings", "expected"), bilevel.QUADRATIC)
def test_the_quadratic_on_one_rank(name, settings, expected, last):
    places = dict(zip(FIRST, numbers(expected), strict=False))  # one row ends with step 100
    last = min(last, max(places))
    found = alone(name, settings, last)
    for k, x in places.items():
        if k <= last:
            close(found.x[k], x)


@pytest.mark.parametrize(("name", "settings", "expected"), bilevel.QUADRATIC_TOO)
def test_the_quadratic_with_other_settings(name, settings, expected):
    found = alone(name, settings, 100)
    for k, x in zip((10, 100), numbers(expected), strict=False):
        close(found.x[k], x)


@pytest.mark.slow
def test_normalised_steps_end_in_a_cycle_and_clipped_ones_in_the_minimum():
    found = alone("accbo", OFTEN, 1000)
    close(found.x[1000], found.x[100])
    clipped = alone("slip", CLIPPED, 1000)
    assert torch.dist(clipped.x[1000], MINIMUM).item() == pytest.approx(2.9e-7, abs=1e-8)


@pytest.mark.parametrize(("name", "settings", "expected"), bilevel.QUADRATIC_ON_FOUR)
@pytest.mark.parametrize("lower", ["shared", "own"])
def test_the_quadratic_on_four_unlike_ranks(name, settings, expected, lower):
    ranks = on_four(name, settings | {"interval": 4, "lower": lower}, 100)
    for k, x in zip((4, 100), numbers(expected)[2 * (lower == "own") :], strict=False):
        close(mean_x(ranks, k), x)


@pytest.mark.parametrize(("name", "expected"), bilevel.MOMENTUM_AVERAGED)
def test_the_momentum_may_be_averaged(name, expected):
    ranks = on_four(name, {"interval": 4, "momentum_policy": "average"}, 100)
    close(mean_x(ranks, 100), numbers(expected)[0])


@pytest.mark.parametrize("lower", ["shared", "own"])
def test_the_ranks_lower_parameters_after_the_last_average(lower):
    def one(comm):
        run = Run(comm, "slip", {"interval": 4, "lower": lower})
        run.follow(4)
        run.optimizer.synchronize()
        return run.y.detach().clone(), run.optimizer.vectors["z"].parts[0].clone()

    ranks = hvdclip.simulate(one, 4)
    if lower == "shared":
        for y, z in ranks:
            close(y, [0.2102132750, -0.3981005591])
            close(z, [-0.4967482812, 0.3235334214])
    else:
        expected = numbers(
            "-.6267341447 .3432093330 -.0154275517 -.1102112121 .4568102898 -.6280331302 .8529017442 -1.2389872568"
        )
        close(torch.stack([y for y, _ in ranks]), expected)


def test_without_x_in_the_upper_loss_the_first_step_goes_nowhere():
    found = alone("slip", {}, 10, mu=0.0)
    assert found.x[1].tolist() == [2.0, -1.0]
    close(found.x[2], [2.0310351472, -0.9607977088])
    close(found.x[10], [2.2756759344, -0.6443354911])


def stop(settings, steps, near=None, beside=0.01):
    """The mean of x over four unlike ranks after as many steps of clipped slip; near: a point to start beside."""

    def one(comm):
        run = Run(comm, "slip", CLIPPED | settings)
        if near is not None:
            with torch.no_grad():
                run.x.copy_(torch.tensor(near) + torch.tensor([beside, -beside]))
        return run.follow(steps)

    return mean_x(hvdclip.simulate(one, 4), steps)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("lower", ["shared", "own"])
def test_where_clipped_slip_stops(lower, place):
    """One from x_0, the others from near to where they stop."""
    (expected,) = numbers(bilevel.STOPS[lower, "linear"][place])
    steps, near = (5000, None) if (lower, place) == ("own", 2) else (1496, expected)  # alike modulo 16
    close(stop({"lower": lower, "interval": (1, 4, 16)[place]}, steps, near), expected, rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("lower", ["shared", "own"])
def test_where_clipped_slip_with_sums_of_powers_stops(lower, place):
    """Its steps take five times as long, so it starts near to where it stops."""
    settings = SUM | {"lower": lower, "interval": (1, 4, 16)[place]}
    (expected,) = numbers(bilevel.STOPS[lower, "neumann"][place])
    close(stop(settings, 1000, expected), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("divisor", "place", "distance", "beside", "tolerance"),
    [(4, "1.43897305 .10993941", 0.0350, 0.01, 1e-6), (16, "1.46419252 .10624749", 0.0095, 0.001, 3e-4)],
)
def test_smaller_steps_stop_nearer(divisor, place, distance, beside, tolerance):
    (expected,) = numbers(place)
    smaller = {"lr": 0.1 / divisor, "gamma": 0.05 / divisor, "lower_lr": 0.25 / divisor, "interval": 4}
    x = stop(smaller, 4000, expected, beside)
    close(x, expected, rtol=0, atol=tolerance)
    assert torch.dist(x, MINIMUM).item() == pytest.approx(distance, abs=tolerance + 5e-5)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (1, (0, -0.35)),
        (2, (-0.1375, -0.5375)),
        (5, (-0.32636719, -0.79824219)),
        (10, (-0.39115601, -0.88777790)),
        (20, (-0.39987241, -0.89982368)),
        (40, (-0.39999997, -0.89999996)),
    ],
)
def test_the_sum_of_powers_approaches_the_gradient(terms, expected):
    run = Run(SingleRank(), "slip", PLAIN | SUM | {"terms": terms, "warm_start": 0, "beta": 0.0})
    with torch.no_grad():
        run.y.copy_(torch.tensor([0.2, -0.4]))
    run.step()
    close((torch.tensor([2.0, -1.0]) - run.x.detach()) / 0.1, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("name", "expected"), [("slip", (0.109375, -0.34375)), ("accbo", (0.16796875, -0.3828125))])
def test_the_warm_start_moves_only_the_lower_parameters(name, expected):
    found = alone(name, {}, 0)
    assert found.y.tolist() == list(expected) and found.x[0].tolist() == [2.0, -1.0]


def test_epochs_that_begin_ever_smaller_balls():
    settings = {"refine": "epochs", "refine_steps": 4, "refine_lr": 0.25, "refine_radius": 0.3}
    for epochs, expected in enumerate(
        [
            (0.060433240572, -0.278888426527),
            (0.129835582213, -0.351402015790),
            (0.163855249446, -0.376560325314),
            (0.180928404293, -0.387949009818),
        ],
        1,
    ):
        found = alone("bo_rep", settings | {"refine_epochs": epochs}, 0)
        close(found.y, expected)
        assert found.optimizer.steps == 4 * (2**epochs - 1)


@until_100_or_1000
@pytest.mark.parametrize(("name", "settings", "expected", "length"), bilevel.COSH)
def test_the_cosh_on_one_rank(name, settings, expected, length, last):
    found = alone(name, settings, last, "bilevel_cosh")
    for k, x in zip(FIRST, numbers(expected), strict=True):
        if k <= last:
            close(found.x[k], x)
    if last == 1000 and (name, settings) != ("slip", CLIPPED):  # there it is 1e-9, which the last digits of x decide
        norm = PROBLEMS["bilevel_cosh"](1).gradient_norm(found.x[1000]).item()
        assert norm == pytest.approx(length, rel=1e-4)


@pytest.mark.parametrize(("name", "settings", "expected"), bilevel.COSH_ON_FOUR)
def test_the_cosh_on_four_unlike_ranks(name, settings, expected):
    shared = on_four(name, settings | {"interval": 4}, 100, "bilevel_cosh")
    for k, x in zip((4, 100), numbers(expected), strict=False):
        close(mean_x(shared, k), x)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings", "expected"), bilevel.COSH_ON_FOUR)
def test_the_cosh_on_four_unlike_ranks_for_long(name, settings, expected):
    for lower, x in zip(("shared", "own"), numbers(expected)[2:], strict=True):
        close(mean_x(on_four(name, settings | {"interval": 4, "lower": lower}, 1000, "bilevel_cosh"), 1000), x)


def test_plain_steps_are_lost_on_the_cosh():
    found = alone("slip", PLAIN | {"on_nonfinite": "skip"}, 3, "bilevel_cosh")
    close([found.x[k].tolist() for k in (1, 2)], numbers("-6.9047882579 -3.9828684263 -15.3316478534 -1.8933284107"))
    close(found.x[3], [22750.0777828027, 0.0269364018], rtol=1e-9, atol=1e-9)
    with pytest.raises(NonFiniteGradient):
        alone("slip", PLAIN, 10, "bilevel_cosh")


def test_the_problems_values_and_minima():
    for data, value, gradient in (
        ("bilevel_quadratic", 0.75, (-0.4, -0.9)),
        ("bilevel_cosh", 1695.7775969483, (1490.0355050542, -202.6235238477)),
    ):
        problem = PROBLEMS[data](1)
        assert problem.value(problem.start).item() == pytest.approx(value, abs=1e-9)
        assert problem.gradient_norm(problem.start).item() == pytest.approx(math.hypot(*gradient), rel=1e-12)
    least = {
        ("bilevel_quadratic", "shared"): ((28 / 19, 2 / 19), 0.670394736842),
        ("bilevel_quadratic", "own"): ((1.296335666873, 0.278364672874), 0.947265290184),
        ("bilevel_cosh", "shared"): ((0.284746710531, 0.305253548038), 5.10423852735),
        ("bilevel_cosh", "own"): ((0.297820026801, 0.396616653201), 5.22413016456),
    }
    for (data, lower), (x, value) in least.items():
        problem = PROBLEMS[data](4, lower=lower, **bilevel.UNLIKE[data])
        x = torch.tensor(x, dtype=torch.float64)
        assert problem.value(x).item() == pytest.approx(value, abs=1e-10)
        assert problem.gradient_norm(x).item() < 1e-9


@pytest.mark.ranks
@pytest.mark.timeout(900)
def test_real_ranks_go_the_way_of_simulated_ones(tmp_path):
    run_ranks([sys.executable, str(Path(bilevel.__file__)), str(tmp_path)], 4, timeout=800)
    check_real(tmp_path)


def check_real(folder):
    files = [np.load(folder / f"{rank}.npz") for rank in range(4)]
    rows = [*bilevel.QUADRATIC_ON_FOUR, *bilevel.COSH_ON_FOUR]
    for case, (data, name, settings, steps) in enumerate(ON_FOUR):
        real = np.stack([file[f"arr_{case}"] for file in files])
        expected = numbers(rows[case // 2][2])
        if settings["lower"] == "shared" or data == "bilevel_quadratic":  # of the others there are 1000 steps
            close(real.mean(axis=0), expected[1 if settings["lower"] == "shared" else 3])
        if name == "slip":
            simulated = np.stack([rank.x[steps].numpy() for rank in on_four(name, settings, steps, data)])
            close(real, simulated, rtol=0, atol=1e-12)


# Invariants


@pytest.mark.parametrize("name", ROWS)
def test_alone_the_interval_does_not_matter_and_like_ranks_are_as_one(name):
    one = alone(name, {"interval": 1}, 30).x[30]
    same(one, alone(name, {"interval": 4}, 30).x[30])

    def like(comm):
        run = Run(comm, name, {"interval": 4}, spread=0.0, stretch=0.0)
        return run.follow(30).x[30]

    for x in hvdclip.simulate(like, 4):
        same(x, one)


def of_means(name, settings, steps):
    """One rank with the mean of the four unlike ranks' losses."""
    run = Run(SingleRank(), name, settings)
    run.problem = PROBLEMS["bilevel_quadratic"](4, **bilevel.UNLIKE["bilevel_quadratic"])
    run.upper = lambda again=False: sum(run.problem.upper_loss(run.x, run.y, i) for i in range(4)) / 4
    run.lower = lambda again=False: sum(run.problem.lower_loss(run.x, run.y, i) for i in range(4)) / 4
    return run.follow(steps).x[steps]


@pytest.mark.slow
def test_plain_shared_linear_steps_of_unlike_ranks_are_those_of_the_means():
    ranks = on_four("slip", PLAIN, 300)
    close(mean_x(ranks, 300), of_means("slip", PLAIN, 300), rtol=0, atol=1e-12)
    powers = torch.dist(mean_x(on_four("slip", PLAIN | SUM, 300), 300), of_means("slip", PLAIN | SUM, 300))
    assert powers.item() == pytest.approx(0.067, abs=5e-3)


class OfXAlone:
    """An upper loss that does not know of y."""

    @staticmethod
    def loss(x):
        return torch.cosh(x).sum() + 0.3 * x.prod()


@pytest.mark.parametrize("name", ["slip", "bo_rep", "adambo"])
def test_an_upper_loss_of_x_alone_makes_the_steps_of_one_level(name):
    run = Run(SingleRank(), name, {"warm_start": 0})
    run.upper = lambda again=False: OfXAlone.loss(run.x)
    other = nn.Parameter(run.x.detach().clone())
    like = ("adam_prox", {}) if name == "adambo" else ("normalized_sgd", {"momentum": 0.9})
    optimizer = hvdclip.optimizer(like[0], [other], lr=0.05, comm=SingleRank(), **like[1])
    for _ in range(50):
        run.step()
        other.grad = None
        OfXAlone.loss(other).backward()
        optimizer.step()
        close(run.x.detach(), other.detach(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ROWS)
def test_scales_of_the_losses(name):
    def scaled(upper, lower, more):
        run = Run(SingleRank(), name, more)
        problem = run.problem
        run.upper = lambda again=False: upper * problem.upper_loss(run.x, run.y, 0)
        run.lower = lambda again=False: lower * problem.lower_loss(run.x, run.y, 0)
        return run.follow(40).x[40]

    more = {"eps": 1e-30} if name == "adambo" else {}
    close(scaled(10, 1, more), scaled(1, 1, more), rtol=0, atol=1e-12)
    same(scaled(1, 8, {"lower_lr": 0.25 / 8}), scaled(1, 1, {}))


def test_rows_that_are_others_with_some_settings():
    bare = {"beta": 0.0} | SUM
    same(
        alone("accbo", bare | {"nesterov": 0.0, "tau": 1.0}, 50).x[50],
        alone("slip", bare | {"lower_first": True}, 50).x[50],
    )
    same(
        alone("bo_rep", {"lower_period": 1, "lower_steps": 1}, 50).x[50],
        alone("slip", {"lower_first": True, "warm_start": 2}, 50).x[50],
    )


@pytest.mark.parametrize("lower", ["shared", "own"])
@pytest.mark.parametrize("name", ROWS)
def test_what_all_ranks_hold_after_an_average(name, lower):
    def one(comm):
        run = Run(comm, name, {"interval": 4, "lower": lower})
        found = []
        for _ in range(12):
            run.step()
            if run.optimizer.steps_in_round == 0:
                vectors = run.optimizer.vectors
                travels = [
                    flat.clone() for v in ("y", "z", "y_before", "y_mean") if v in vectors for flat in vectors[v].flats
                ]
                found.append((run.x.detach().clone(), travels))
        return found

    for rounds in zip(*hvdclip.simulate(one, 4), strict=True):
        for x, travels in rounds[1:]:
            same(x, rounds[0][0])
            agree = [torch.equal(mine, first) for mine, first in zip(travels, rounds[0][1], strict=True)]
            assert all(agree) if lower == "shared" else not any(agree)


def test_the_lengths_of_steps():
    for settings, longest in (({}, 0.05), (CLIPPED, 0.05)):
        x = alone("slip", settings, 60).x
        lengths = [torch.dist(x[k + 1], x[k]).item() for k in range(60)]
        if settings:
            assert max(lengths) <= longest * (1 + 1e-12) and min(lengths) < 0.9 * longest
        else:
            close(lengths, [longest] * 60, rtol=1e-10)


def test_at_the_solution_the_estimate_is_the_gradient():
    run = Run(SingleRank(), "slip", PLAIN | {"warm_start": 0, "beta": 0.0})
    problem = run.problem
    y = problem.lower_minimum(problem.start[None], slice(0, 1))[0]
    fy = y - torch.tensor([1.0, -1.0])
    with torch.no_grad():
        run.y.copy_(y)
        run.optimizer.vectors["z"].parts[0].copy_(torch.linalg.solve(torch.tensor([[2.0, 1], [1, 3]]).double(), fy))
    run.step()
    close((problem.start - run.x.detach()) / 0.1, [-0.4, -0.9], rtol=0, atol=1e-14)


def test_weight_decay_is_added_after_the_norm_and_adams_is_adamws():
    plain, decayed = alone("slip", {}, 1), alone("slip", {"weight_decay": 0.2}, 1)
    close(decayed.x[1], plain.x[1] - 0.05 * 0.2 * plain.x[0], rtol=0, atol=1e-15)
    plain, decayed = alone("adambo", {}, 1), alone("adambo", {"weight_decay": 0.2}, 1)
    close(decayed.x[1], plain.x[1] - 0.05 * 0.2 * plain.x[0], rtol=0, atol=1e-15)


def test_lower_l2_is_a_part_of_the_lower_loss():
    for name in ROWS:
        run = Run(SingleRank(), name, {})
        bare = run.lower
        run.lower = lambda again=False, run=run, bare=bare: bare() + 0.15 * (run.y**2).sum()
        close(alone(name, {"lower_l2": 0.3}, 30).x[30], run.follow(30).x[30], rtol=0, atol=1e-13)


def test_one_drawn_term_is_right_on_average():
    def step(k, more):
        run = Run(SingleRank(), "slip", PLAIN | SUM | {"terms": 4, "warm_start": 0, "beta": 0.0} | more)
        run.optimizer.progress.steps = k
        run.step()
        return run.problem.start - run.x.detach()

    drawn = torch.stack([step(k, {"neumann_terms": "drawn"}) for k in range(400)])
    assert len(drawn.unique(dim=0)) == 4
    close(drawn.unique(dim=0).mean(dim=0), step(0, {}), rtol=0, atol=1e-14)


def test_schedules_scale_all_steps_of_y():
    def later(name, settings):
        run = Run(SingleRank(), name, settings)
        scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 10, gamma=0.5)
        for _ in range(20):
            run.step()
            scheduler.step()
        return run

    for settings in ({"z_lr": 0.1}, SUM | {"theta": 0.1}):
        run = later("slip", settings)
        assert [group["lr"] for group in run.optimizer.param_groups] == [0.05 / 4, 0.25 / 4]
        assert run.optimizer.below_scaled(0.1) == pytest.approx(0.025) and run.optimizer.eta == pytest.approx(0.0125)


# Costs


@pytest.fixture
def backwards(monkeypatch):
    """Counts the backward passes of second order."""
    from hvdclip.engine.second_order import Point

    counted = {"second": 0}
    bare = Point._second

    def second(self, *given, **more):
        counted["second"] += 1
        return bare(self, *given, **more)

    monkeypatch.setattr(Point, "_second", second)
    return counted


@pytest.mark.parametrize(
    ("name", "settings", "upper", "lower", "second"),
    [
        ("slip", {}, 400, 500, 400),
        ("bo_rep", {}, 400, 1097, 400),
        ("adambo", {"estimator": "neumann", "terms": 10}, 400, 500, 4000),
        ("accbo", {"estimator": "neumann", "terms": 10}, 799, 1299, 7990),
    ],
)
def test_the_gradients_that_a_row_takes(name, settings, upper, lower, second, backwards):
    run = Run(SingleRank(), name, settings | {"warm_start": 100})
    run.follow(400)
    assert run.calls == {"upper": upper, "lower": lower} and backwards["second"] == second


class Sizes:
    """Upper and lower parameters of unlike numbers, 7 and 5."""

    def __init__(self, comm, name, settings):
        self.x, self.y = nn.Parameter(torch.ones(7)), nn.Parameter(torch.zeros(5))
        chosen = {"lr": 0.01, "lower_lr": 0.1, "interval": 4, "drift": False} | settings
        self.optimizer = hvdclip.optimizer(name, [self.x], lower_parameters=[self.y], comm=comm, **chosen)

    def step(self):
        self.optimizer.step(
            lambda again=False: (self.y**2).sum() + (self.x**4).sum(),
            lambda again=False: ((self.y - self.x[:5]) ** 2).sum(),
        )


@pytest.mark.parametrize(
    ("name", "settings", "floats"),
    [
        ("slip", {}, 7 + 2 * 5),
        ("bo_rep", {}, 7 + 2 * 5),
        ("slip", SUM, 7 + 5),
        ("adambo", {}, 7 + 5),
        ("adambo", {"estimator": "linear"}, 7 + 2 * 5),
        ("accbo", {}, 7 + 3 * 5),
        ("accbo", {"estimator": "linear"}, 7 + 4 * 5),
        ("slip", {"momentum_policy": "average"}, 2 * 7 + 2 * 5),
        ("adambo", {"momentum_policy": "average"}, 3 * 7 + 5),
    ],
)
@pytest.mark.filterwarnings("ignore:estimator neumann")
def test_one_message_a_round_of_what_travels(name, settings, floats):
    def measured(comm, lower):
        sizes = Sizes(comm, name, settings | {"lower": lower})
        for _ in range(8):
            sizes.step()
        tally, optimizer = comm.ledger["round"], sizes.optimizer
        tail = optimizer.statistics.size + optimizer.lower_loss.size
        return tally.collectives, tally.bytes / 4 / 2 - tail

    assert hvdclip.simulate(lambda comm: measured(comm, "shared"), 2) == [(2, floats)] * 2
    own = floats - 5 * ((floats - 7) // 5) if settings.get("momentum_policy") != "average" else None
    if own is not None:
        assert hvdclip.simulate(lambda comm: measured(comm, "own"), 2) == [(2, 7)] * 2


@pytest.mark.parametrize(
    ("name", "above", "below"), [("slip", 1, 1), ("bo_rep", 1, 1), ("adambo", 2, 0), ("accbo", 2, 3)]
)
def test_the_vectors_beside_x_and_y(name, above, below):
    vectors = Sizes(SingleRank(), name, {"lower": "own"}).optimizer.vectors
    sizes = sorted(v.flats[0].numel() for key, v in vectors.items() if key != "y")
    assert sizes == [5] * below + [7] * above


# Statistics


def test_what_the_metrics_of_a_round_say():
    run = Run(SingleRank(), "slip", CLIPPED | {"interval": 4}, "bilevel_cosh")
    run.follow(41)
    told = run.optimizer.last_round
    assert told["step"] == 44 and told["skipped"] == 0 and 0 < told["clip_fraction"] <= 1
    run = Run(SingleRank(), "slip", {"interval": 1, "warm_start": 1})
    run.step()
    assert run.optimizer.last_round["loss"] is None and run.optimizer.last_round["lower_loss"] == 0.0
    y = run.y.detach().clone()
    run.step()
    told = run.optimizer.last_round
    assert told["loss"] == pytest.approx(run.problem.upper_loss(run.problem.start, y, 0).item(), rel=1e-6)
    assert told["lower_loss"] == pytest.approx(run.problem.lower_loss(run.problem.start, y, 0).item())


@pytest.mark.parametrize("lower", ["shared", "own"])
def test_an_evaluation_in_mid_round_sees_the_means(lower):
    def one(comm):
        run = Run(comm, "slip", {"interval": 4, "lower": lower})
        run.follow(3)
        own = run.x.detach().clone(), run.y.detach().clone()
        with run.optimizer.averaged():
            seen = run.x.detach().clone(), run.y.detach().clone()
        same(run.x.detach(), own[0])
        same(run.y.detach(), own[1])
        return own, seen

    ranks = hvdclip.simulate(one, 4)
    x, y = (torch.stack([own[i] for own, _ in ranks]) for i in range(2))
    for number, (_, seen) in enumerate(ranks):
        close(seen[0], x.mean(dim=0), rtol=0, atol=1e-15)
        close(seen[1], y.mean(dim=0) if lower == "shared" else y[number], rtol=0, atol=1e-15)


# What is not finite


class Spoilt(torch.autograd.Function):
    """The sum of a tensor, whose gradient, or second derivative, is not finite."""

    @staticmethod
    def forward(ctx, tensor, order):
        ctx.order, ctx.shape = order, tensor.shape
        ctx.save_for_backward(tensor)
        return tensor.sum()

    @staticmethod
    def backward(ctx, g):
        (tensor,) = ctx.saved_tensors
        if ctx.order == 1:
            return torch.full(ctx.shape, math.nan, dtype=tensor.dtype), None
        return g * Second.apply(tensor), None


class Second(torch.autograd.Function):
    """Ones, whose derivative is not finite."""

    @staticmethod
    def forward(ctx, tensor):
        return torch.ones_like(tensor)

    @staticmethod
    def backward(ctx, g):
        return torch.full_like(g, math.nan)


SPOILS = {
    "Fx": lambda run, f, g: (f + Spoilt.apply(run.x, 1), g),
    "Fy": lambda run, f, g: (f + Spoilt.apply(run.y, 1), g),
    "Gy": lambda run, f, g: (f, g + Spoilt.apply(run.y, 1)),
    "Hz": lambda run, f, g: (f, g + Spoilt.apply(run.y, 2)),
    "Jz": lambda run, f, g: (f, g + (run.y * 0).sum() * 0 + Cross.apply(run.x, run.y)),
    "F": lambda run, f, g: (f * math.inf, g),
    "G": lambda run, f, g: (f, g + math.nan),
}


class Cross(torch.autograd.Function):
    """Nought, whose gradient in y has a derivative in x that is not finite."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return (x.sum() + y.sum()) * 0

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        return None, g * OfX.apply(x, y)


class OfX(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.like = x
        return torch.zeros_like(y)

    @staticmethod
    def backward(ctx, g):
        return torch.full_like(ctx.like, math.nan), None


def everything(run):
    """All of a rank's state that a step may change."""
    vectors = [flat.clone() for vector in run.optimizer.vectors.values() for flat in vector.flats]
    return [run.x.detach().clone(), run.y.detach().clone(), *vectors]


@pytest.mark.parametrize("spoilt", SPOILS)
@pytest.mark.parametrize("name", ROWS)
def test_what_is_not_finite_leaves_all_as_it_was(name, spoilt):
    def one(comm):
        run = Run(comm, name, {"interval": 8, "on_nonfinite": "skip"})
        for _ in range(5):
            run.step()
        before, numbers = everything(run), dict(run.optimizer.numbers)
        f, g, bad = run.upper, run.lower, comm.rank == 1
        pairs = {}

        def upper(again=False):
            loss = f()
            pairs["f"], _ = SPOILS[spoilt](run, loss, loss) if bad else (loss, None)
            return pairs["f"]

        def lower(again=False):
            loss = g()
            return SPOILS[spoilt](run, loss, loss)[1] if bad else loss

        run.optimizer.step(upper, lower)
        if bad:
            for now, then in zip(everything(run), before, strict=True):
                same(now, then)
            assert run.optimizer.numbers == numbers
        for _ in range(2):
            run.step()
        return run.optimizer.last_round["skipped"], everything(run)

    for skipped, state in hvdclip.simulate(one, 2):
        assert skipped == 1 and all(tensor.isfinite().all() for tensor in state)


def test_what_is_not_finite_is_an_error_on_all_ranks_that_names_rank_and_step():
    def one(comm):
        run = Run(comm, "slip", {"interval": 4})
        bare = run.upper
        run.upper = lambda again=False: bare() * (math.nan if comm.rank == 2 and run.optimizer.steps == 6 else 1.0)
        with pytest.raises(NonFiniteGradient, match="rank 2 at step 6"):
            for _ in range(8):
                run.step()
        return run.optimizer.steps

    assert hvdclip.simulate(one, 4) == [8] * 4


# State


def saved(run):
    """The state, and x and y of the model, through a file."""
    file = io.BytesIO()
    torch.save((run.optimizer.state_dict(), run.x.detach().clone(), run.y.detach().clone()), file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize("lower", ["shared", "own"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("slip", {}),
        ("slip", CLIPPED | {"momentum_policy": "average"}),
        ("bo_rep", {}),
        ("bo_rep", {"refine": "epochs", "refine_steps": 2, "refine_epochs": 2, "refine_lr": 0.2, "refine_radius": 0.3}),
        ("accbo", {}),
        ("adambo", {"neumann_terms": "drawn"} | SUM),
    ],
)
def test_a_run_goes_on_to_the_bit(name, settings, lower):
    """In the warm start, in mid-round after it, and after a round."""

    def one(comm, stop):
        run = Run(comm, name, settings | {"interval": 4, "lower": lower})
        scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 5, gamma=0.7)
        for step in range(16):
            if step == stop:
                state, x, y = saved(run)
                schedule = scheduler.state_dict()
                run = Run(comm, name, settings | {"interval": 4, "lower": lower})
                scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 5, gamma=0.7)
                with torch.no_grad():
                    run.x.copy_(x)
                    run.y.copy_(y)
                run.optimizer.load_state_dict(state)
                scheduler.load_state_dict(schedule)
            run.step()
            scheduler.step()
        return everything(run), run.optimizer.last_round["lower_loss"]

    undisturbed = hvdclip.simulate(lambda comm: one(comm, None), 2)
    for stop in (1, 2, 5, 7, 8):
        for (tensors, told), (expected, first) in zip(
            hvdclip.simulate(lambda comm, stop=stop: one(comm, stop), 2), undisturbed, strict=True
        ):
            assert told == first
            for tensor, right in zip(tensors, expected, strict=True):
                same(tensor, right)


def test_a_copy_goes_on_in_the_same_way():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.x, self.y = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(2))

    both = Both()
    optimizer = hvdclip.optimizer(
        "accbo", [both.x], lower_parameters=[both.y], module=both, lower="own", lr=0.1, lower_lr=0.1
    )

    def step(model, chosen):
        chosen.step(
            lambda again=False: (model.y**2).sum() + (model.x**4).sum(),
            lambda again=False: ((model.y - model.x[:2]) ** 2).sum(),
        )

    for _ in range(5):
        step(both, optimizer)
    model, copied = copy.deepcopy((both, optimizer))
    for _ in range(5):
        step(both, optimizer)
        step(model, copied)
    same(model.x.detach(), both.x.detach())
    same(model.y.detach(), both.y.detach())


def test_a_state_needs_its_own_rank():
    def one(comm):
        run = Run(comm, "slip", {"lower": "own"})
        run.follow(2)
        return run.optimizer.state_dict()

    states = hvdclip.simulate(one, 2)
    run = Run(SingleRank(), "slip", {"lower": "own"})
    with pytest.raises(ValueError, match="the state is of"):
        run.optimizer.load_state_dict(states[0])
    assert run.optimizer.kept_apart() == ["its own m", "its own y", "its own z"]


@pytest.mark.parametrize("lower", ["shared", "own"])
def test_on_another_number_of_ranks_only_what_is_common_goes_on(lower):
    def one(comm):
        run = Run(comm, "slip", {"lower": lower, "interval": 4})
        run.follow(5)
        return run.optimizer.state_dict()

    state = hvdclip.simulate(one, 2)[0]
    run = Run(SingleRank(), "slip", {"lower": lower, "interval": 4})
    with pytest.raises(ValueError, match="each rank of slip keeps its own m"):
        run.optimizer.load_common_state(state)
    run.optimizer.load_common_state(state, reset=True)
    shared = state["hvdclip"]["vectors"]["y"][0]
    same(run.y.detach(), shared if lower == "shared" else torch.zeros(2, dtype=torch.float64))
    assert not run.optimizer.vectors["m"].flats[0].any() and run.optimizer.steps == 8


# Bad input


def losses(x, y):
    return lambda again=False: (y**2).sum() + (x**2).sum(), lambda again=False: ((y - x) ** 2).sum()


def made(name="slip", upper=None, below=None, **settings):
    x, y = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
    chosen = {"lower": "shared", "lr": 0.1, "lower_lr": 0.1} | settings
    chosen = {key: value for key, value in chosen.items() if value is not None}
    optimizer = hvdclip.optimizer(name, upper or [x], lower_parameters=below or [y], **chosen)
    return x, y, optimizer


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lower_lr": None}, "lower_lr: missing"),
        ({"lower": None}, "lower: missing"),
        ({"lower": "some"}, "lower is 'some'; allowed.*'shared'.*'own'"),
        ({"lower_lr": 0.0}, "lower_lr is 0.0; allowed"),
        ({"compression": "int8"}, "compression is 'int8'; allowed: none, or lower own with momentum_policy keep"),
        ({"overlap": "delayed", "interval": 4}, "overlap is 'delayed'; allowed: none, or lower own"),
        ({"node_interval": 2, "interval": 4}, "node_interval is 2; allowed: none, or lower own"),
        ({"outer": "sgd", "outer_lr": 1.0}, "outer is 'sgd'; allowed with lower shared: none"),
        ({"gamma": 0.1}, "upper_step is 'normalized'; allowed: no gamma, no max_norm"),
        ({"upper_step": "clipped"}, "upper_step is 'clipped'; allowed: exactly one of gamma and max_norm"),
        ({"theta": 0.1}, "theta is 0.1, but estimator is 'linear'"),
        ({"inner": "AdamW"}, "inner: unknown"),
        ({"terms": 0}, "terms is 0; allowed"),
    ],
)
def test_wrong_settings_are_refused_in_a_line(settings, words):
    with pytest.raises((ValueError, TypeError), match=words) as refused:
        made(**settings)
    assert "\n" not in str(refused.value).split("; valid")[0]


def test_wrong_parameters_are_refused_in_a_line():
    net = nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"parameter upper.weight is among the upper and the lower parameters"):
        made(upper=net, below=[net.weight])
    with pytest.raises(ValueError, match=r"weight_decay of a lower parameter group is 0.1; allowed: 0, and lower_l2"):
        made(below=[{"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0.1}])
    with pytest.raises(TypeError, match="slip: lower_parameters is missing; allowed: lower_parameters"):
        hvdclip.optimizer("slip", net, lower="own", lr=0.1, lower_lr=0.1)
    with pytest.raises(TypeError, match="celgc: lower_parameters is given; allowed: no lower_parameters"):
        hvdclip.optimizer("celgc", net, lower_parameters=net, lr=0.1, gamma=0.1)


@pytest.mark.filterwarnings("ignore:another hvdclip optimizer")
def test_wrong_calls_are_refused_in_a_line():
    x, y, optimizer = made(warm_start=0)
    f, g = losses(x, y)
    with pytest.raises(TypeError, match=r"slip computes gradients of two losses itself: call step\(upper, lower\)"):
        optimizer.step(f)
    with pytest.raises(TypeError, match=r"call step\(upper, lower\)"):
        optimizer.step()
    for upper, lower, words in (
        (lambda: f().detach(), g, r"the upper loss is a tensor of shape \(\) without a graph; allowed"),
        (lambda: f().item(), g, "the upper loss is a float; allowed"),
        (lambda: torch.stack([f(), f()]), g, r"the upper loss is a tensor of shape \(2,\); allowed"),
        (f, lambda: g().detach(), r"the lower loss is a tensor of shape \(\) without a graph"),
        (f, lambda: nn.Parameter(torch.ones(1)).sum(), "the lower loss does not depend on the lower parameters"),
        (lambda: nn.Parameter(torch.ones(1)).sum(), g, "the upper loss does not depend on the upper or the lower"),
    ):
        optimizer = hvdclip.optimizer(
            "slip", [x], lower_parameters=[y], lower="own", lr=0.1, lower_lr=0.1, warm_start=0
        )
        with pytest.raises(TypeError, match=words) as refused:
            optimizer.step(upper, lower)
        assert "\n" not in str(refused.value)
    _, _, optimizer = made()
    with pytest.raises(RuntimeError, match="slip cannot add or unfreeze parameters"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(ValueError, match=r"join\(\) works with plain averages"), optimizer.join():
        pass


def test_an_operation_without_a_second_derivative_is_named_in_a_line():
    query = nn.Parameter(torch.randn(1, 1, 4, 8))
    x = nn.Parameter(torch.ones(()))
    optimizer = hvdclip.optimizer(
        "slip", [x], lower_parameters=[query], lower="own", lr=0.1, lower_lr=0.1, warm_start=0
    )

    def lower():
        return x * scaled_dot_product_attention(query, query, query).square().sum()

    with pytest.raises(RuntimeError, match="the lower loss has no second derivative: _scaled_dot_product") as refused:
        for _ in range(2):
            optimizer.step(lambda: query.square().sum(), lower)
    assert "\n" not in str(refused.value)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        optimizer.step(lambda: query.square().sum(), lower)


@pytest.mark.filterwarnings("always")
def test_powers_of_a_shared_lower_problem_are_warned_of():
    def warned(comm, lower):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            made("accbo", lower=lower, comm=comm)
        return [str(each.message)[:60] for each in told if "neumann" in str(each.message)]

    # where ranks of one process warn together, one of them may be given the others' warnings
    assert any(hvdclip.simulate(lambda comm: warned(comm, "shared"), 2))
    assert not any(hvdclip.simulate(lambda comm: warned(comm, "own"), 2))
    assert not warned(SingleRank(), "shared")


def test_like_modules_may_be_given():
    upper, lower = nn.Linear(3, 1), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = hvdclip.optimizer(
        "slip", upper, lower_parameters=lower, lower="shared", lr=0.1, lower_lr=0.1, interval=2
    )
    weights = (upper.weight, lower[0].weight, lower[2].weight)
    before, data = [weight.detach().clone() for weight in weights], torch.randn(16, 3)
    for _ in range(6):
        optimizer.step(lambda: lower(data).square().mean(), lambda: (lower(data) - upper(data)).square().mean())
    assert not any(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    assert len(optimizer.buffers.tensors()) == 3 and all(p.grad is None for p in lower.parameters())


def test_a_recurrent_lower_module():
    torch.manual_seed(0)
    lower, weights, data = nn.LSTM(3, 4, batch_first=True), nn.Parameter(torch.ones(5)), torch.randn(5, 6, 3)
    _, _, optimizer = made(upper=[weights], below=lower, warm_start=1)

    def of_weighted():
        return (torch.sigmoid(weights)[:, None, None] * (lower(data)[0] - 1).square()).mean()

    told = []
    for _ in range(20):
        optimizer.step(lambda: lower(data)[0].square().mean(), of_weighted)
        told.append(optimizer.last_round["lower_loss"])
    assert told[-1] < told[0] and len(weights.unique()) == 5


def test_the_guides_script_tells_labels_that_mean_something(capsys):
    script = (Path(__file__).parent.parent / "docs/bilevel.md").read_text().split("```python\n")[1].split("```")[0]
    exec(script, {})
    with_meaning, without = map(float, capsys.readouterr().out.split())
    assert with_meaning > 0.7 > 0.6 > without
