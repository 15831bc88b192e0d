"""The result of a measurement: a table, and a JSON file with all raw times."""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from hvdclip.bench.blocks import Blocks
from hvdclip.comm import Communicator
from hvdclip.training.provenance import versions

CLAIM = 7  # with fewer blocks a median is not a claim


@dataclass
class Report:
    """The blocks of one comparison.

    `references` names each column of ratios and the peer that a peer is compared with in it, or None; `more` has a
    peer's own numbers, and `formats` says how the table shows them.
    """

    title: str
    blocks: Blocks
    references: Mapping[str, Callable[[str], str | None]]
    absent: Mapping[str, str]
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)

    def table(self) -> Table:
        number = len(self.blocks.orders)
        caption = f"{number} interleaved blocks; ratios of medians, in brackets the median of the blocks' ratios"
        if number < CLAIM:
            caption += f"; fewer than {CLAIM} blocks are not enough for a claim"
        for name, reason in self.absent.items():
            caption += f"\nabsent: {name}, since {reason}"
        table = Table("peer", title=self.title, caption=escape(caption))
        for column in ("ms, median", "quartiles", *self.references, *self.formats):
            table.add_column(column, justify="right")
        for name in self.blocks.seconds:
            table.add_row(name, *self._times(name), *self._ratios(name), *self._more(name))
        return table

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "blocks": len(self.blocks.orders),
            "orders": self.blocks.orders,
            "peers": {name: self._peer(name) for name in self.blocks.seconds},
            "absent": dict(self.absent),
        }

    def _peer(self, name: str) -> dict[str, Any]:
        held = {column: self._held_against(column, name) for column in self.references}
        return self.blocks.as_json(name, held) | dict(self.more.get(name, {}))

    def _held_against(self, column: str, name: str) -> str | None:
        other = self.references[column](name)
        return other if other in self.blocks.seconds else None

    def _times(self, name: str) -> list[str]:
        first, third = self.blocks.quartiles(name)
        return [f"{1e3 * self.blocks.median(name):.3g}", f"{1e3 * first:.3g} to {1e3 * third:.3g}"]

    def _ratios(self, name: str) -> list[str]:
        others = [self._held_against(column, name) for column in self.references]
        return [
            "-" if o is None else f"{self.blocks.ratio(name, o):.2f} ({self.blocks.ratio_in_blocks(name, o):.2f})"
            for o in others
        ]

    def _more(self, name: str) -> list[str]:
        numbers = [self.more[name].get(column) for column in self.formats]
        formats = self.formats.values()
        return ["-" if n is None else f"{n:{style}}" for n, style in zip(numbers, formats, strict=True)]


def circumstances(comm: Communicator) -> dict[str, Any]:
    """When, where and with what a measurement was made."""
    hosts = comm.gather(socket.gethostname(), "bench")
    return {
        "line": sys.argv,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "ranks": comm.size,
        "hosts": hosts,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "gpus": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
        "platform": platform.platform(),
        "versions": versions(),
    }


def device_name(device: torch.device) -> str:
    """What a rank computes on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"a CPU ({_processor()})"


def _processor() -> str:
    """The name that Linux gives the processor; elsewhere its architecture."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
