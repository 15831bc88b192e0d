"""Who records a run: rank 0 in the run directory; the other ranks record nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from hvdclip.errors import message_of
from hvdclip.training.lines import Lines
from hvdclip.training.loggers import Loggers
from hvdclip.training.model_files import save_model
from hvdclip.training.rundir import EVALS, METRICS, RunDirectory, as_json


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
    """Rank 0's recorder: metrics.jsonl, evals.jsonl, summary.json, models; `loggers` get the same numbers.

    Lines and models that cannot be written during training are reported by `say`; the last ones raise OSError.
    """

    def __init__(self, run: RunDirectory, loggers: Loggers | None, say: Callable[[str], None]):
        self.run, self.loggers, self.say = run, loggers, say
        self._metrics, self._evals = Lines(run.path / METRICS, say), Lines(run.path / EVALS, say)
        self._models_fail = False

    def metrics(self, line: dict[str, Any]) -> None:
        self._metrics.append(as_json(line))
        if self.loggers is not None:
            self.loggers.scalars("train", line)

    def evaluation(self, row: dict[str, Any]) -> None:
        self._evals.append(as_json(row))
        if self.loggers is not None:
            self.loggers.scalars(row["split"], row)

    def model(self, name: str, model: nn.Module) -> None:
        failed = False
        try:
            save_model(self.run.model_file(name), model.state_dict())
        except OSError as error:
            failed = True
            if name == "final":
                raise
            if not self._models_fail:
                self.say(f"the {name} model is not saved: {message_of(error)}; training continues")
        self._models_fail = failed

    def sizes(self) -> dict[Path, int]:
        return {lines.path: lines.size for lines in (self._metrics, self._evals)}

    def summary(self, summary: dict[str, Any]) -> None:
        self.run.write_summary(summary)
        if self.loggers is not None:
            self.loggers.end(summary)
