"""An optimizer in a wrapper whose class derives from the optimizer's, as Lightning hands out: both are one."""

import sys

import pytest
import torch
from algorithms import OF_ONE_LOSS
from compiled_training import AVERAGES, Training, equal, untimed, with_closure, with_everything, with_zero_grad
from launch import run_ranks
from test_compiled import CELGC, INNERS, of_methods

import hvdclip


class Wrapper:
    """Steps by the optimizer inside; whatever else is called runs on the wrapper itself."""

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self.__class__ = type("Wrapped", (Wrapper, type(optimizer)), {})

    def step(self, closure=None):
        return self._optimizer.step(closure)

    def __getattr__(self, name):
        return getattr(self._optimizer, name)


def of_torch():
    """What torch's own load_state_dict writes on a wrapper."""
    wrapper = Wrapper(torch.optim.SGD([torch.zeros(1)]))
    wrapper.load_state_dict(wrapper.state_dict())
    return set(vars(wrapper))


def train(comm, algorithm, settings, step, wrap):
    """What a training comes to, asked of the optimizer itself and, in its wrapper, of both."""
    training, came_to, rounds = Training(comm, algorithm, {"lr": 0.1} | settings), [], []
    inside = training.optimizer
    training.optimizer = outside = Wrapper(inside) if wrap else inside
    outside.on_round = lambda: rounds.append(inside.steps)
    for number in range(11):
        outside.param_groups[0]["lr"] *= 0.9
        if number == 7:
            outside.step_scale = 0.5
        came_to.append(step(training, training.batch()))
        if number in (3, 4, 9):
            outside.synchronize()
        for optimizer in (outside, inside):
            came_to += [training.x, optimizer.rounds, optimizer.steps_in_round, untimed(optimizer.last_round)]
    assert not wrap or set(vars(outside)) <= of_torch()
    assert outside.param_groups is inside.param_groups
    return [*came_to, rounds, inside.step_scale, inside.state_dict()]


def check(algorithm, settings, step, ranks=2, ranks_per_node=None):
    def come_to(wrap):
        return hvdclip.simulate(lambda comm: train(comm, algorithm, settings, step, wrap), ranks, ranks_per_node)

    assert equal(come_to(False), come_to(True))


@pytest.mark.parametrize("algorithm", OF_ONE_LOSS)
def test_every_method(algorithm):
    check(algorithm, of_methods()[algorithm], with_closure)


@pytest.mark.parametrize("title", AVERAGES)
def test_every_average_and_all_that_can_be_called(title):
    settings = CELGC | AVERAGES[title]
    check("celgc", settings, with_everything, 4 if "node_interval" in settings else 2, ranks_per_node=2)


@pytest.mark.parametrize("title", INNERS)
def test_every_inner_step(title):
    check("celgc", CELGC | INNERS[title], with_zero_grad)


@pytest.mark.parametrize("settings", [CELGC | INNERS["momentum"], CELGC | INNERS["AdamW"]])
def test_a_state_that_is_loaded_by_the_wrapper_is_the_optimizers(settings):
    def trained(load):
        training = Training(hvdclip.comm.SingleRank(), "celgc", {"lr": 0.1} | settings)
        for _ in range(4):
            with_zero_grad(training, training.batch())
        kept = training.optimizer.state_dict()
        kept["param_groups"][0]["lr"] = 0.05
        for _ in range(5):
            with_zero_grad(training, training.batch())
        load(training.optimizer, kept)
        assert (training.optimizer.steps, training.optimizer.steps_in_round) == (4, 1)
        for _ in range(3):
            with_zero_grad(training, training.batch())
        return training.x, training.optimizer.state_dict()

    direct = trained(lambda optimizer, state: optimizer.load_state_dict(state))
    assert equal(direct, trained(lambda optimizer, state: Wrapper(optimizer).load_state_dict(state)))


@pytest.mark.ranks
def test_two_real_ranks():
    done = run_ranks([sys.executable, __file__], 2, timeout=150)
    assert done.stdout.splitlines().count("the same") == 2


if __name__ == "__main__":
    comm = hvdclip.comm.launched()
    for name in ("plain", "delayed", "outer sgd"):
        arguments = (comm, "celgc", CELGC | AVERAGES[name], with_everything)
        assert equal(train(*arguments, wrap=False), train(*arguments, wrap=True)), name
    print("the same")
