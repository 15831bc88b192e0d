"""Who writes a run down: rank 0 into the run directory, the other ranks nowhere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from hvdclip.messages.statistics import QUANTILES
from hvdclip.settings.mistakes import message_of
from hvdclip.training.lines import Lines
from hvdclip.training.rundir import EVALS, METRICS, RunDirectory, as_json

EVALUATED = ("perplexity", "accuracy", "top5_accuracy", "gradient_norm")
CURVES = ("loss", "clip_fraction", "grad_norm", "drift", "lr")


class Recorder:
    """The other ranks' recorder."""

    def metrics(self, line: dict[str, Any]) -> None: ...
    def evaluation(self, row: dict[str, Any]) -> None: ...
    def model(self, name: str, model: nn.Module) -> None: ...
    def summary(self, summary: dict[str, Any]) -> None: ...

    def sizes(self) -> dict[Path, int]:
        """The files of lines and their sizes in bytes."""
        return {}


class FileRecorder(Recorder):
    """Rank 0's recorder: metrics.jsonl, evals.jsonl, summary.json, models, and TensorBoard files if asked for.

    Lines and models that cannot be written while training goes on are told by `say`; the last ones raise OSError.
    TensorBoard forgets what a run that is resumed has done after `step`.
    """

    def __init__(self, run: RunDirectory, tensorboard: bool, say: Callable[[str], None], step: int | None = None):
        self.run, self.say = run, say
        self._metrics, self._evals = Lines(run.path / METRICS, say), Lines(run.path / EVALS, say)
        self.board = _board(run, step) if tensorboard else None
        self._models_fail = False

    def metrics(self, line: dict[str, Any]) -> None:
        self._metrics.append(as_json(line))
        self._scalars("train", line, (*CURVES, *QUANTILES))

    def evaluation(self, row: dict[str, Any]) -> None:
        self._evals.append(as_json(row))
        self._scalars(row["split"], row, ("loss", *EVALUATED))

    def model(self, name: str, model: nn.Module) -> None:
        failed = False
        try:
            self.run.save_model(name, model.state_dict())
        except OSError as error:
            failed = True
            if name == "final":
                raise
            if not self._models_fail:
                self.say(f"the {name} model is not saved: {message_of(error)}; training goes on")
        self._models_fail = failed

    def sizes(self) -> dict[Path, int]:
        return {lines.path: lines.size for lines in (self._metrics, self._evals)}

    def summary(self, summary: dict[str, Any]) -> None:
        self.run.write_summary(summary)
        if self.board is not None:
            with suppress(OSError):
                self.board.close()

    def _scalars(self, prefix: str, row: dict[str, Any], keys: tuple[str, ...]) -> None:
        if self.board is None:
            return
        try:
            for key in keys:
                if row.get(key) is not None:
                    self.board.add_scalar(f"{prefix}/{key}", row[key], row["step"])
        except OSError as error:
            self.board = None  # its file may end in half a record
            self.say(f"TensorBoard's file: {message_of(error)}; nothing more is written into it, training goes on")


def _board(run: RunDirectory, step: int | None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.path / "tensorboard"), purge_step=None if step is None else step + 1)
