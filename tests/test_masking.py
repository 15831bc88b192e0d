"""Steps that are left out where only the device knows of it: the same as where the host looks."""

import numpy as np
import pytest
import torch
from algorithms import ALGORITHMS, is_local, settings_of
from problems import Model, Quadratic, loss, parameters

import hvdclip

LEFT_OUT = (0, 4, 5, 11)  # the first step, one in mid-round, and two in a row
LOCAL = [name for name in ALGORITHMS if is_local(name)]
CASES = [(name, variant) for name in LOCAL for variant in ALGORITHMS[name].compared if "weights" not in variant]


def train(comm, algorithm, settings, on_host):
    """x after each of 16 steps, some of which rank 0 leaves out, and the vectors of state at the end."""
    problem, model = Quadratic(comm.size), Model(Quadratic(comm.size).start())
    optimizer = hvdclip.optimizer(algorithm, model, comm=comm, on_nonfinite="skip", **settings)
    optimizer.skip.on_host = on_host
    batch, step, rows = -1, 0, []

    def closure(again=False):
        nonlocal batch
        batch += not again
        optimizer.zero_grad()
        value = loss(problem, comm.rank, batch, model)
        value.backward()
        if comm.rank == 0 and step in LEFT_OUT:
            next(model.parameters()).grad.fill_(float("nan"))
        return value

    while step < 16:
        optimizer.step(closure)
        rows.append(parameters(model))
        step += 1
    kept = {name: torch.cat([part.flatten() for part in v.parts]) for name, v in optimizer.vectors.items()}
    return np.array(rows), {name: vector.numpy().copy() for name, vector in kept.items()}, optimizer.last_round


@pytest.mark.parametrize(("algorithm", "variant"), CASES, ids=str)
def test_what_the_device_masks_is_what_the_host_leaves_out(algorithm, variant):
    settings = settings_of(algorithm, variant, gamma=0.15, interval=4) | {"lr": 0.1}
    results = [
        hvdclip.simulate(lambda comm, h=on_host: train(comm, algorithm, settings, h), 2) for on_host in (True, False)
    ]
    for (x, kept, metrics), (masked, also_kept, also) in zip(*results, strict=True):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(masked, x, rtol=1e-12, atol=1e-14)
        assert kept.keys() == also_kept.keys()
        for name in kept:
            np.testing.assert_allclose(also_kept[name], kept[name], rtol=1e-12, atol=1e-14, err_msg=name)
        assert [metrics[key] for key in ("skipped", "clip_fraction")] == [also[k] for k in ("skipped", "clip_fraction")]
