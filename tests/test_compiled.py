"""torch.compile around what calls an optimizer: the same numbers, step by step and to the bit, as without it."""

import functools
import inspect
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import cases
import compiled_training
import pytest
import torch
from algorithms import OF_ONE_LOSS
from compiled_training import (
    AVERAGES,
    Training,
    equal,
    train,
    with_closure,
    with_everything,
    with_zero_grad,
    without_zero_grad,
)
from launch import run_ranks

import hvdclip
from hvdclip.comm import SingleRank
from hvdclip.engine.torch_optimizer import uncompiled
from hvdclip.methods import METHODS

# since torch 2.7; before, torch.compiler.disable does what hvdclip else does without it
HAS_STRATEGIES = hasattr(torch._C._dynamo.eval_frame, "set_code_exec_strategy")
CELGC = {"gamma": 0.05, "interval": 3}
INNERS = {
    "AdamW": {"inner": torch.optim.AdamW, "lr": 0.01},
    "Adam": {"inner": "Adam", "lr": 0.01},
    "RMSprop": {"inner": {"name": "RMSprop", "alpha": 0.5}, "lr": 0.01},
    "SGD": {"inner": {"name": "SGD", "momentum": 0.9}},
    "momentum": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
}


class Graphs:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, examples):
        self.count += 1
        return graph.forward


def check(algorithm, settings, step, ranks, backend="eager", ranks_per_node=None):
    def come_to(backend):
        return hvdclip.simulate(lambda comm: train(comm, algorithm, settings, step, backend), ranks, ranks_per_node)

    assert equal(come_to(None), come_to(backend))


@functools.cache
def of_methods():
    """Settings of every method, in rounds of several steps where it has rounds."""
    found = {}
    for _, algorithm, settings in cases.cases():
        if settings.get("interval") != 1 and "weights" not in settings:
            found.setdefault(algorithm, settings)
    assert found.keys() == OF_ONE_LOSS.keys()
    return found


def test_a_training_is_compiled_here():
    graphs = Graphs()
    train(SingleRank(), "celgc", CELGC, with_zero_grad, graphs)
    assert graphs.count >= 2, "forward and loss, with their first shapes and strides and with any"


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", OF_ONE_LOSS)
def test_every_method(algorithm):
    settings = of_methods()[algorithm]
    check(algorithm, settings, with_closure, ranks=2)
    chosen = METHODS[algorithm](Training(SingleRank(), "local_sgd", {"lr": 0.1, "interval": 2}).model, *made(algorithm))
    if not chosen.needs_closure:
        check(algorithm, settings, with_zero_grad, ranks=2)


def made(algorithm):
    return METHODS[algorithm].Settings(**{"lr": 0.1} | of_methods()[algorithm]), SingleRank()


@pytest.mark.slow
@pytest.mark.parametrize("title", AVERAGES)
def test_every_average_and_all_that_can_be_called(title):
    settings = CELGC | AVERAGES[title]
    ranks = 4 if "node_interval" in settings else 2
    check("celgc", settings, with_everything, ranks, ranks_per_node=2)


@pytest.mark.slow
@pytest.mark.parametrize("title", INNERS)
def test_every_inner_step(title):
    check("celgc", CELGC | INNERS[title], with_zero_grad, ranks=1)


@pytest.mark.parametrize("algorithm", ["celgc", "bucket_clip", "minibatch_sgd"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_gradients_cleared_elsewhere(algorithm, ranks):
    check(algorithm, of_methods()[algorithm], without_zero_grad, ranks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "step"),
    [
        (CELGC, with_zero_grad),
        (CELGC | AVERAGES["delayed by 1, outer"], with_zero_grad),
        (CELGC | AVERAGES["topk"], with_closure),
        (CELGC | INNERS["AdamW"], without_zero_grad),
    ],
)
def test_compiled_by_inductor(settings, step, monkeypatch):
    """Against a training whose loss alone is: the arithmetic of a graph is the compiler's own."""
    if step is not with_closure:
        monkeypatch.setattr(Training, "loss", torch.compile(Training.loss))
    expected = train(SingleRank(), "celgc", settings, step)
    assert equal(expected, train(SingleRank(), "celgc", settings, step, "inductor"))


@pytest.mark.ranks
def test_two_real_ranks():
    done = run_ranks([sys.executable, compiled_training.__file__], 2, timeout=150)
    assert done.stdout.splitlines().count("the same") == 2


@pytest.mark.parametrize("called", ["step", "zero_grad", "synchronize", "state_dict"])
def test_a_bound_method_is_compiled_by_itself(called):
    def come_to(compiled):
        training = Training(SingleRank(), "celgc", CELGC | {"lr": 0.1, "outer": "nesterov", "outer_lr": 0.7})
        optimizer, rows = training.optimizer, []
        torch.compiler.reset()
        if compiled:
            setattr(optimizer, called, torch.compile(getattr(optimizer, called), backend="eager"))
        for _ in range(10):
            training.closure()
            optimizer.step()
            if called in ("synchronize", "state_dict"):
                getattr(optimizer, called)()
            rows.append((training.x, optimizer.rounds))
        return rows

    assert equal(come_to(False), come_to(True))


def test_an_optimizer_is_made_in_a_compiled_function():
    def drawn():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1))
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    if not drawn().equal(torch.compile(drawn, backend="eager")()):
        pytest.skip("this torch draws another model in a compiled function, as 2.4 does")

    def come_to(compiled):
        def trained():
            training = Training(SingleRank(), "celgc", {"lr": 0.1} | CELGC)
            for _ in range(5):
                training.optimizer.step(training.closure)
            return training.x, training.optimizer.rounds

        torch.compiler.reset()
        return torch.compile(trained, backend="eager")() if compiled else trained()

    assert equal(come_to(False), come_to(True))


def test_hooks_and_a_learning_rate_schedule_in_a_compiled_function():
    def come_to(compiled):
        training, told = Training(SingleRank(), "celgc", {"lr": 0.1} | CELGC), []
        optimizer = training.optimizer
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
        optimizer.register_step_post_hook(lambda *_: told.append(optimizer.rounds))
        optimizer.on_round = lambda: told.append("round")

        def step(batch):
            with_zero_grad(training, batch)
            schedule.step()

        torch.compiler.reset()
        called = torch.compile(step, backend="eager") if compiled else step
        for _ in range(10):
            called(training.batch())
        return training.x, told, optimizer.last_round["lr"]

    assert equal(come_to(False), come_to(True))


def test_what_a_closure_calls_stays_compiled():
    def come_to(graphs):
        training = Training(SingleRank(), "episode", {"lr": 0.1, "gamma": 0.15, "interval": 3})
        step = with_closure
        torch.compiler.reset()
        if graphs is not None:
            training.loss = torch.compile(training.loss, backend=graphs, fullgraph=True)
            step = torch.compile(step, backend="eager")
        rows = []
        for _ in range(7):
            step(training, training.batch())
            rows.append(training.x)
        return rows

    graphs = Graphs()
    assert equal(come_to(None), come_to(graphs)) and graphs.count == 1


def test_a_method_of_ones_own_is_guarded_as_well():
    class Counting(METHODS["celgc"]):
        name = "counting"

        def step(self, closure=None):
            self.calls = getattr(self, "calls", 0) + 1
            return super().step(closure)

        def record(self, **told):
            self.told = [*getattr(self, "told", []), self.steps]
            super().record(**told)

    def come_to(compiled):
        training = Training(SingleRank(), "celgc", {"lr": 0.1} | CELGC)
        del training.optimizer  # which holds the parameters
        training.optimizer = Counting(training.model, Counting.Settings(lr=0.1, **CELGC), SingleRank())
        torch.compiler.reset()
        step = torch.compile(with_zero_grad, backend="eager") if compiled else with_zero_grad
        for _ in range(10):
            step(training, training.batch())
        return training.x, training.optimizer.calls, training.optimizer.told

    assert equal(come_to(False), come_to(True))


def test_the_whole_of_a_graph_is_refused_as_for_torchs_lbfgs():
    training = Training(SingleRank(), "celgc", {"lr": 0.1} | CELGC)
    with pytest.raises(
        torch._dynamo.exc.Unsupported, match="state that a compiled graph" if HAS_STRATEGIES else "Method.step"
    ):
        torch.compile(with_closure, backend="eager", fullgraph=True)(training, training.batch())
    assert training.optimizer.steps == 0


def test_a_function_marked_as_uncompiled():
    counts = []

    @uncompiled
    def count(by: int = 1) -> int:
        """Counts."""
        counts.append(by)
        return len(counts)

    @uncompiled
    @contextmanager
    def counting():
        count()
        try:
            yield len(counts)
        except KeyError:
            count(10)

    def body(x):
        with counting() as before:
            x = x + 1
        with counting():
            raise KeyError
        return x, before, count(2)

    assert [body(torch.zeros(1)) for _ in range(3)] and (expected := list(counts))
    counts.clear()
    torch.compiler.reset()
    compiled = torch.compile(body, backend="eager")
    assert [compiled(torch.zeros(1))[1:] for _ in range(3)] == [(1, 4), (5, 8), (9, 12)] and counts == expected
    assert (count.__name__, count.__doc__, count.__module__) == ("count", "Counts.", __name__)
    assert str(inspect.signature(count)) == "(by: int = 1) -> int"
    assert str(inspect.signature(METHODS["celgc"].step)).startswith("(self, closure:")


def run_python(source):
    tests = Path(__file__).parent
    source = f"import sys; sys.path.insert(0, {str(tests)!r})\n" + textwrap.dedent(source)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120, cwd=tests.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not HAS_STRATEGIES, reason="before torch 2.7 torch.compiler.disable imports the compiler")
def test_nothing_of_it_imports_the_compiler():
    """An import of seconds, in every process."""
    said = run_python(
        """
        import torch, hvdclip
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = hvdclip.optimizer("celgc", [p], lr=0.1, gamma=1.0, interval=2)
        for _ in range(3):
            optimizer.zero_grad()
            p.square().sum().backward()
            optimizer.record(loss=0.5, samples=1)
            optimizer.step()
            with optimizer.averaged():
                optimizer.load_state_dict(optimizer.state_dict())
        optimizer.synchronize()
        print(optimizer.last_round["round"], "torch._dynamo" in sys.modules)
        """
    )
    assert said == "2 False\n"


@pytest.mark.slow
def test_a_torch_without_the_private_names():
    said = run_python(
        """
        import torch, torch._dynamo
        vars(torch._C._dynamo.eval_frame).pop("set_code_exec_strategy", None)
        from compiled_training import equal, train, with_everything
        from hvdclip.comm import SingleRank
        arguments = (SingleRank(), "celgc", dict(gamma=0.05, interval=3, overlap="delayed"), with_everything)
        print(equal(train(*arguments), train(*arguments, backend="eager")))
        """
    )
    assert said == "True\n"
