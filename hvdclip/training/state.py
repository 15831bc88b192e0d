"""A rank's state: all that its training goes on from, as tensors and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hvdclip.checkpoints import on_host
from hvdclip.training import randomness

if TYPE_CHECKING:
    from hvdclip.training.loop import Trainer

State = dict[str, Any]


def state_of(trainer: Trainer) -> State:
    """The state at the end of a round, in memory of its own.

    Where a delayed average is under way, all ranks must call it.
    """
    optimizer = trainer.optimizer.state_dict()
    own = on_host(optimizer.pop("hvdclip"), copy=False)  # copies already
    ledger = trainer.comm.ledger
    moving = {
        "optimizer": optimizer,
        "x": trainer.optimizer.x.flats,
        "buffers": dict(trainer.model.named_buffers()),
        "task": trainer.task.state_dict(),
        "asgd": trainer.asgd.state_dict() if trainer.asgd else {},
        "stream": trainer.stream.state_dict(),
        "scaler": trainer.precision.scaler.state_dict(),
        "metrics": trainer.metrics.state_dict(),
        "evaluations": trainer.evaluations,
        "ledger": {p: (ledger[p].collectives, ledger[p].bytes, ledger[p].seconds) for p in ledger.purposes()},
        "random": randomness.get_state(),
    }
    copied: State = on_host(moving)
    copied["optimizer"]["hvdclip"] = own
    return copied


@torch.no_grad()
def restore(trainer: Trainer, state: State) -> None:
    """Go on from the state of the rank of the same number, in a run of as many ranks."""
    trainer.optimizer.load_state_dict(state["optimizer"])
    _restore_rest(trainer, state)
    trainer.stream.load_state_dict(state["stream"])
    trainer.task.load_state_dict(state["task"])
    randomness.set_state(state["random"])


@torch.no_grad()
def restore_elsewhere(trainer: Trainer, state: State) -> None:
    """Go on from the state of rank 0 in a run of another number of ranks, after the same share of the epoch.

    ValueError where the ranks of that run kept something for themselves, unless `checkpoint.other_ranks` is "reset".
    """
    check_elsewhere(trainer)
    trainer.optimizer.load_common_state(state["optimizer"], _may_reset(trainer))
    _restore_rest(trainer, state)
    trainer.stream.load_share(state["stream"])
    numbers = trainer.config.train.seed, trainer.comm.rank, trainer.optimizer.steps
    randomness.seed_everything(randomness.seed_from(*numbers))


def check_elsewhere(trainer: Trainer) -> None:
    """ValueError where such a run could not go on on another number of ranks."""
    if trainer.config.train.nt_asgd == "per_step":
        raise ValueError("each rank keeps its own running mean of models (nt_asgd: per_step)")
    trainer.optimizer.check_common(_may_reset(trainer))


def _may_reset(trainer: Trainer) -> bool:
    return trainer.config.checkpoint.other_ranks == "reset"


def _restore_rest(trainer: Trainer, state: State) -> None:
    torch._foreach_copy_(trainer.optimizer.x.flats, state["x"])
    for name, buffer in trainer.model.named_buffers():
        buffer.copy_(state["buffers"][name])
    if trainer.asgd:
        trainer.asgd.load_state_dict(state["asgd"])
    if trainer.precision.scaler.is_enabled():
        trainer.precision.scaler.load_state_dict(state["scaler"])
    trainer.metrics.load_state_dict(state["metrics"])
    trainer.evaluations = list(state["evaluations"])
    for purpose, (collectives, payload, seconds) in state["ledger"].items():
        tally = trainer.comm.ledger[purpose]
        tally.collectives += collectives
        tally.bytes += payload
        tally.seconds += seconds
