"""Parameters that a module has lost, or has in another order on other ranks."""

import pytest
import torch
from launch import python_ranks
from torch import nn

import hvdclip
from hvdclip.engine.agreement import Disagreement
from hvdclip.flat import space
from hvdclip.flat.owner import Owner
from hvdclip.torch_private import TAKES_NAMES


def made(**settings):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    return model, hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1, interval=2, **settings)


def step(model, optimizer, set_to_none=True):
    optimizer.zero_grad(set_to_none=set_to_none)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()


def assign(model):
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)


def new_layer(model):
    model[1] = nn.Linear(4, 1)


def parametrized(model):
    nn.utils.parametrizations.weight_norm(model[1])


@pytest.mark.parametrize(
    ("change", "names"),
    [(assign, "0.weight, 0.bias, 1.weight and 1 more"), (new_layer, "1.weight, 1.bias"), (parametrized, "1.weight")],
)
@pytest.mark.parametrize("inner", [None, "AdamW"])
def test_replaced_parameters_are_named(change, names, inner):
    model, optimizer = made(inner=inner)
    step(model, optimizer)
    change(model)
    with pytest.raises(
        RuntimeError, match=f"replaced after the optimizer was made: {names}; the optimizer has the old ones"
    ):
        step(model, optimizer)


def test_replaced_parameters_that_keep_their_gradients_are_found_in_the_end(monkeypatch):
    monkeypatch.setattr(space, "LOOK_EVERY", 5)
    model, optimizer = made()
    step(model, optimizer, set_to_none=False)
    new_layer(model)
    with pytest.raises(RuntimeError, match=r"replaced after the optimizer was made: 1.weight, 1.bias;"):
        for _ in range(5):
            step(model, optimizer, set_to_none=False)


def test_what_is_no_replacement():
    """Layers that only go or only come, and parameters alone, of which nobody knows where they belong."""
    model, optimizer = made()
    model.append(nn.Linear(1, 1))
    step(model, optimizer)
    del model[2]
    owner, first = Owner(model), model[0].weight
    del model[1]
    owner.check_kept()
    assert owner.name(first) == "0.weight" and owner.name(torch.ones(1)) == ""
    alone, optimizer = made()
    del optimizer
    optimizer = hvdclip.optimizer("celgc", list(alone.parameters()), lr=0.1, gamma=0.1)
    alone[1] = nn.Linear(4, 1)
    step(alone, optimizer)


def test_what_is_loaded_without_assign_is_trained_on():
    model, optimizer = made()
    model.load_state_dict({name: torch.ones_like(value) for name, value in model.state_dict().items()})
    step(model, optimizer)
    assert torch.equal(optimizer.x.parts[0], model[0].weight) and model[0].weight[0, 0] < 1


class Swapped(nn.Module):
    """Two layers of one shape, one after the other or the other way round."""

    def __init__(self, rank):
        super().__init__()
        for name in ("first", "second") if rank == 0 else ("second", "first"):
            self.add_module(name, nn.Linear(2, 2))


@pytest.mark.parametrize("handed", [lambda model: model, nn.Module.named_parameters], ids=["module", "named"])
def test_another_order_on_another_rank_is_refused_by_names(handed):
    if handed is nn.Module.named_parameters and not TAKES_NAMES:
        pytest.skip("before torch 2.6 optimizers do not hold names")

    def rank(comm):
        hvdclip.optimizer("celgc", handed(Swapped(comm.rank)), lr=0.1, gamma=0.1, comm=comm)

    with pytest.raises(Disagreement, match=r"(?s)ranks disagree on parameters and buffers.*first\.wei.*second\.wei"):
        hvdclip.simulate(rank, 2)


RANK = """
import horovod.torch as hvd
import hvdclip
from torch import nn

hvd.init()
model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("ab" if hvd.rank() == 0 else "ba")})
try:
    hvdclip.optimizer("celgc", model, lr=0.1, gamma=0.1)
except ValueError as error:
    print(hvd.rank(), str(error).replace(chr(10), "|"), flush=True)
"""


@pytest.mark.ranks
def test_another_order_on_a_real_rank():
    said = python_ranks(RANK, 2).stdout
    for rank in range(2):
        assert f"{rank} ranks disagree on parameters and buffers" in said
    assert "a.weight" in said and "b.weight" in said
