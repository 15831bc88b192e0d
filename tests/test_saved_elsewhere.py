"""What other programs save of a model that has an hvdclip optimizer: all of it, and each parameter by itself."""

import copy
import importlib.util
import inspect
import io

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import hvdclip

SETTINGS = {"lr": 0.1, "gamma": 0.05, "interval": 2}


def trained(dtype=torch.float32, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 256), nn.Tanh(), nn.Linear(256, 1)).to(dtype)
    optimizer = hvdclip.optimizer("celgc", model, **SETTINGS | settings)
    for _ in range(3):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(4, 10, dtype=next(model.parameters()).dtype)).square().sum().backward()
    optimizer.step()


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_parameter_has_a_storage_of_its_own(dtype):
    model, optimizer = trained(dtype)
    storages = [p.untyped_storage() for p in model.parameters()]
    assert len({storage.data_ptr() for storage in storages}) == len(storages)
    for p, part in zip(model.parameters(), optimizer.x.parts, strict=True):
        assert p.untyped_storage().nbytes() == p.nbytes
        assert p.data_ptr() == part.data_ptr() and torch.equal(p, part)


@pytest.mark.parametrize("which", ["parameter", "momentum that is shown", "momentum of a state_dict"])
def test_one_tensor_is_saved_without_the_others(which):
    model, optimizer = trained(momentum=0.9)
    bias = model[2].bias
    tensor = {
        "parameter": bias,
        "momentum that is shown": optimizer.state[bias]["momentum_buffer"],
        "momentum of a state_dict": optimizer.state_dict()["state"][3]["momentum_buffer"],
    }[which]
    file = io.BytesIO()
    torch.save(tensor, file)
    assert file.tell() < 4 * sum(p.numel() for p in model.parameters())
    file.seek(0)
    assert tensor.shape == bias.shape and torch.equal(torch.load(file), tensor)


def test_state_dicts_models_and_copies_hold_all_of_it():
    model, optimizer = trained()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert same(torch.load(file, weights_only=False).state_dict(), kept)
    assert same(copy.deepcopy(model).state_dict(), kept)
    aside = copy.deepcopy(model.state_dict())
    step(model, optimizer)
    assert same(aside, kept) and not same(model.state_dict(), kept), "a copy that is put aside stays as it was"


def test_a_state_that_is_loaded_lands_in_the_vector():
    model, optimizer = trained()
    other, _ = trained(gamma=0.5)
    model.load_state_dict(other.state_dict())
    assert all(torch.equal(p, part) for p, part in zip(other.parameters(), optimizer.x.parts, strict=True))
    step(model, optimizer)


def test_an_average_of_models_follows():
    model, optimizer = trained()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(model)  # the first update copies
    before = [p.clone() for p in average.module.parameters()]
    step(model, optimizer)
    average.update_parameters(model)
    for mean, old, new in zip(average.module.parameters(), before, model.parameters(), strict=True):
        assert torch.allclose(mean, (old + new) / 2) and not torch.equal(mean, new)


def test_a_distributed_checkpoint_holds_all_of_it(tmp_path):
    model, _ = trained()
    alone = {"no_dist": True} if "no_dist" in inspect.signature(dcp.save).parameters else {}  # torch 2.4 looks itself
    dcp.save({"model": model.state_dict()}, checkpoint_id=tmp_path, **alone)
    fresh, _ = trained(gamma=0.5)
    state = {"model": fresh.state_dict()}
    dcp.load(state, checkpoint_id=tmp_path, **alone)
    fresh.load_state_dict(state["model"])
    assert same(fresh.state_dict(), model.state_dict())


@pytest.mark.skipif(importlib.util.find_spec("safetensors") is None, reason="safetensors is not installed")
def test_safetensors_holds_all_of_it(tmp_path):
    from safetensors.torch import load_file, save_model

    model, _ = trained()
    save_model(model, str(tmp_path / "model.safetensors"))
    assert same(load_file(tmp_path / "model.safetensors"), model.state_dict())


def test_a_model_that_moves_into_shared_memory_is_named():
    model, optimizer = trained()
    model.share_memory()
    with pytest.raises(RuntimeError, match="shared memory"):
        step(model, optimizer)
    shared = nn.Linear(10, 1).share_memory()
    with pytest.warns(UserWarning, match="which other processes do not see"):
        optimizer = hvdclip.optimizer("celgc", shared, **SETTINGS)
    step(shared, optimizer)
