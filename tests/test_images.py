"""Networks with batch norm on real ranks, beside simulated ones."""

import json

import digits
import pytest
import torch
from kills import HVDCLIP, PROJECT
from launch import run_ranks

import hvdclip
from hvdclip.config import load
from hvdclip.simulation.run import Memory
from hvdclip.training.display import Silent
from hvdclip.training.job import Job
from hvdclip.training.loop import Trainer


@pytest.mark.ranks
@pytest.mark.parametrize("policy", ["average", "keep", "broadcast"])
@pytest.mark.parametrize("algorithm", [["name=celgc", "interval=2"], ["name=naive_parallel_clip", "interval=null"]])
def test_a_resnet_on_real_ranks_is_as_on_simulated_ones(tmp_path, policy, algorithm):
    digits.write(tmp_path)
    settings = [f"algorithm.{setting}" for setting in (*algorithm, f"buffer_policy={policy}")]
    overrides = [*settings, "model={name: resnet, depth: 8}", f"data.root={tmp_path}", "data.batch=4", "train.steps=5"]
    overrides += ["train.epochs=null", "train.milestones=[]"]
    run = tmp_path / "run"
    run_ranks([HVDCLIP, "train", "configs/mnist_cnn.yaml", *overrides, "--run-dir", str(run)], 2, cwd=PROJECT)

    def one(comm):
        trainer, memory = Trainer(Job(load(PROJECT / "configs/mnist_cnn.yaml", overrides), comm)), Memory()
        trainer.train(memory, Silent())
        return {name: value.clone() for name, value in trainer.model.state_dict().items()}, memory.rows

    simulated, rows = hvdclip.simulate(one, 2)[0]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["final"]["test"]["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-4)
    real = torch.load(run / "checkpoints/final.pt", weights_only=True)
    if policy != "keep":  # then the model outside of an evaluation has rank 0's own buffers again
        assert all(torch.allclose(real[name], value, rtol=1e-4, atol=1e-6) for name, value in simulated.items())
