"""Compares what must be equal on all ranks before the first message, which would otherwise hang or mix up data."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from hvdclip.comm import Communicator

WIDEST = 40
# What schedulers and users change in mid-run besides lr, with factors so that one change does not undo another.
MOVES = {"weight_decay": 0.7548776662, "momentum": 0.5698402910, "betas": 0.4301597090}


class Disagreement(ValueError):
    """Ranks differ in what must be equal; raised on every rank. The message is a table of who has what."""


def check_agreement(comm: Communicator, mine: dict[str, Any]) -> None:
    """Compare the values of all ranks, in one gather; Disagreement shows rank, host and value of all that differ."""
    hosts, everyone = zip(*comm.gather((socket.gethostname(), mine)), strict=True)
    keys = dict.fromkeys(key for values in everyone for key in values)
    differing = {}
    for key in keys:
        values = [theirs.get(key) for theirs in everyone]
        if any(value != values[0] for value in values):
            differing[key] = [_short(value) for value in _where_lists_part(values)]
    if differing:
        title = f"ranks disagree on {', '.join(differing)}; allowed: one value for all"
        raise Disagreement("\n".join([title, *_table(hosts, differing)]))


def check_steps(steps: dict[int, int]) -> None:
    """Disagreement on all ranks if some have left an average, or its ranks have taken different numbers of steps."""
    if gone := [rank for rank, step in steps.items() if step == 0]:
        left = ", ".join(map(str, gone))
        raise Disagreement(
            f"rank {left} has left (hvd.join()?), and an average without it would scale the parameters down; call "
            "optimizer.join() on all ranks instead, around the loop"
        )
    if steps:
        raise Disagreement(
            f"ranks are at different steps in one average: {_least_and_most(steps)}; give all ranks equally many "
            "batches, or put the loop into `with optimizer.join():`; load a saved state on every rank"
        )


def check_groups(comm: Communicator, groups: Sequence[dict[str, Any]], same_lr: bool) -> None:
    """Raise Disagreement on all ranks if they have changed their parameter groups differently; all ranks call it."""
    for rates in zip(*comm.gather([float(group["lr"]) for group in groups]), strict=True):
        if same_lr and len(set(rates)) > 1:
            raise Disagreement(
                f"ranks use different learning rates: {_least_and_most(dict(enumerate(rates)))}; give schedulers a "
                "value that is the same on all ranks, such as optimizer.last_round['loss'], or set lr_policy: own "
                "(local methods)"
            )
    moves = [{key: group[key] for key in MOVES if key in group} for group in groups]
    mine = {f"{key} of parameter group {k}": value for k, group in enumerate(moves) for key, value in group.items()}
    check_agreement(comm, mine)


def number_of(groups: Sequence[dict[str, Any]], same_lr: bool) -> float:
    """What moves x in the groups, as one number; it differs between ranks once one of them has changed something."""
    number = 0.0
    for group in groups:
        number += group["lr"] if same_lr else 0.0
        for key, factor in MOVES.items():
            value = group.get(key)
            for power, each in enumerate(value if isinstance(value, list | tuple) else (value,), 1):
                number += 0.0 if each is None else factor**power * each
    return float(number)


def _least_and_most(values: dict[int, Any]) -> str:
    least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    return f"{values[least]} on rank {least}, {values[most]} on rank {most}"


def kind(inner: Any) -> str:
    """An inner optimizer in words that are the same on all ranks; "none" if there is none."""
    if inner is None:
        return "none"
    inner = getattr(inner, "func", inner)
    return getattr(inner, "__qualname__", type(inner).__qualname__)


def _table(hosts: Sequence[str], differing: dict[str, list[str]]) -> list[str]:
    """One line for the ranks of each host that have the same values."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for rank, row in enumerate(zip(hosts, *differing.values(), strict=True)):
        alike.setdefault(row, []).append(rank)
    rows = [("rank", "host", *differing)]
    rows += [(_short(", ".join(map(str, ranks))), *row) for row, ranks in alike.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _where_lists_part(values: Sequence[Any]) -> Sequence[Any]:
    """The values; of lists that differ, the first entries that differ, or their lengths."""
    if not all(isinstance(value, list) for value in values):
        return values
    if len({len(value) for value in values}) > 1:
        return [f"{len(value)} entries" for value in values]
    return next(entries for entries in zip(*values, strict=True) if any(entry != entries[0] for entry in entries))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
