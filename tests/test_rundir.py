"""The models that a run saves."""

import torch

from hvdclip.training.model_files import load_model, save_model
from hvdclip.training.rundir import RunDirectory


def test_a_model_is_saved_without_the_memory_around_it_and_tied_weights_once(tmp_path):
    run = RunDirectory(tmp_path)
    run.create()
    memory = torch.arange(100_000.0)
    tied = memory[10:16].view(2, 3)
    state = {"a": tied, "empty": memory[16:16].view(0, 4), "head": tied[:1], "b": tied}
    save_model(run.model_file("final"), state)
    loaded = load_model(run.model_file("final"))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()
    assert (tmp_path / "checkpoints/final.pt").stat().st_size < 10_000
