"""NT-ASGD: when it starts, and what is evaluated then."""

import pytest
import torch

import hvdclip
from hvdclip.training.asgd import NonMonotoneAverage


def made(comm=None, form="epoch", nonmono=2):
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = hvdclip.optimizer("local_sgd", model, comm=comm, lr=1.0, interval=100)
    return model, optimizer, NonMonotoneAverage(optimizer, form, nonmono)


def place(model, value):
    with torch.no_grad():
        model.weight.fill_(value)


@pytest.mark.parametrize(
    ("losses", "starts"),
    [
        ([5, 4, 3, 2, 1, 0.5], None),
        ([5, 4, 6, 6, 6], 3),  # 6 exceeds 5, the least of all before it but the last two
        ([5, 4, 4.5, 3.9, 3.8], None),
        ([1, 2, 2, 2], 3),
    ],
)
def test_it_starts_when_the_loss_exceeds_the_least_of_all_but_the_last_few(losses, starts):
    _, _, average = made()
    started = []
    for loss in losses:
        average.after_evaluation(loss)
        started.append(average.started)
    assert started == [starts is not None and i >= starts for i in range(len(losses))]


def test_at_epoch_ends_the_mean_of_the_models_since_then_is_evaluated():
    model, _, average = made()
    average.started = True
    for value, mean in ((2.0, 2.0), (4.0, 3.0), (9.0, 5.0)):
        place(model, value)
        with average.evaluated():
            assert model.weight.tolist() == [[mean, mean]]
        assert model.weight.tolist() == [[value, value]], "training goes on from where it was"


def test_before_it_starts_the_model_itself_is_evaluated():
    model, _, average = made()
    place(model, 7.0)
    with average.evaluated():
        assert model.weight.tolist() == [[7.0, 7.0]]


def test_per_step_the_means_of_the_ranks_are_averaged():
    def one(comm):
        model, _, average = made(comm, "per_step")
        seen = []
        for step in range(3):
            place(model, float(step + 10 * comm.rank))
            average.after_step()  # counts only once started
            average.started = True
        place(model, 1.0 + comm.rank)
        with average.evaluated():
            seen.append(model.weight[0, 0].item())
        return [*seen, model.weight[0, 0].item(), average.mean.parts[0][0, 0].item()]

    assert hvdclip.simulate(one, 2) == [[6.5, 1.0, 1.5], [6.5, 2.0, 11.5]]
