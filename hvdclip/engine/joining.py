"""Uneven batches: a rank without data takes part in the others' rounds with weight zero, until all have finished.

Like torch.distributed.algorithms.Join, which does this for gradients at every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvdclip.averaging import Everyone, InPlace, Plain
from hvdclip.engine.sharing import Sharing

if TYPE_CHECKING:
    from hvdclip.engine.local import LocalMethod
    from hvdclip.engine.method import Method


def check_joinable(method: Method, fits: bool) -> Everyone:
    """The participation that join() uses; ValueError if a rank without a gradient cannot take part."""
    everyone = method.participation
    if not (fits and isinstance(everyone, Everyone)) or method.needs_closure:
        raise ValueError(
            "join() works with plain averages of x, minibatch_sgd and naive_parallel_clip; "
            f"{method.name} with these settings does more: give all ranks the same number of batches"
        )
    return everyone


def averages_plainly(method: LocalMethod) -> bool:
    """Whether a rank without steps can take part in its averages, with weight zero."""
    rule = method.averaging.rule
    return type(rule) is Plain and isinstance(rule.exchange, InPlace) and not method.named(Sharing.TRAVELS)


def sit_out(method: Method, everyone: Everyone) -> None:
    """Take part in the others' rounds until all ranks have finished."""
    everyone.leave(method.rounds, method.steps_in_round)
    method.statistics.all_through = False
    while not method.statistics.all_through:
        method.buffers.weight = method.weight if method.counts else 0.0
        method.step()
