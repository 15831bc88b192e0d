"""Other programs that follow a run: TensorBoard, Weights & Biases, MLflow. None of them ever ends a training."""

from __future__ import annotations

import importlib
import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from hvdclip.checkpoints import durable
from hvdclip.config import Config, flat
from hvdclip.errors import message_of
from hvdclip.training.rundir import LOGGED, RunDirectory

Scalars = dict[str, float]


class Logger(Protocol):
    """Takes the numbers of a line of metrics.jsonl ("train") or evals.jsonl (its split), and the run's summary."""

    def scalars(self, of: str, values: Scalars, step: int) -> None: ...

    def end(self, summary: dict[str, Any]) -> None: ...


class Begun:
    """The run that is followed, and its names in other programs if it has been followed before."""

    def __init__(self, run: RunDirectory, config: Config, step: int | None):
        self.run, self.settings, self.step = run, dict(flat(config.resolved)), step
        self.file = run.path / LOGGED
        self.names: dict[str, str] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def remember(self, logger: str, name: str) -> None:
        self.names[logger] = name
        durable.write(self.file, lambda sink: sink.write(json.dumps(self.names).encode()))


class TensorBoard:
    """Files in the run directory; steps that a resumed run repeats are shown once."""

    def __init__(self, begun: Begun, given: dict[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        purge = None if begun.step is None else begun.step + 1
        self.writer = SummaryWriter(str(begun.run.path / "tensorboard"), purge_step=purge)

    def scalars(self, of: str, values: Scalars, step: int) -> None:
        for key, value in values.items():
            self.writer.add_scalar(f"{of}/{key}", value, step)

    def end(self, summary: dict[str, Any]) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases; its files are in the run directory until they are sent, or forever in offline mode."""

    def __init__(self, begun: Begun, given: dict[str, Any]):
        library = importlib.import_module("wandb")
        known = {"id": begun.names["wandb"]} if "wandb" in begun.names else {}
        where = {"dir": str(begun.run.path), "name": begun.run.path.name}
        self.run = library.init(**where | given | known, resume="allow", config=begun.settings)
        # its own count of steps refuses the steps that a resumed run repeats
        self.run.define_metric("*", step_metric="step")
        begun.remember("wandb", self.run.id)

    def scalars(self, of: str, values: Scalars, step: int) -> None:
        self.run.log({"step": step} | {_named(of, key): value for key, value in values.items()})

    def end(self, summary: dict[str, Any]) -> None:
        self.run.summary.update(summary)
        self.run.finish(exit_code=int(summary["exit"] != "done"))


class MLflow:
    """A run of MLflow, at the tracking server or folder that `tracking_uri` or MLflow's environment variable names."""

    def __init__(self, begun: Begun, given: dict[str, Any]):
        self.entities = importlib.import_module("mlflow.entities")
        self.client = importlib.import_module("mlflow").MlflowClient(given.get("tracking_uri"))
        self.id = begun.names.get("mlflow") or self._create(begun, given)
        self.client.update_run(self.id, "RUNNING")
        begun.remember("mlflow", self.id)

    def _create(self, begun: Begun, given: dict[str, Any]) -> str:
        name = given.get("experiment", "hvdclip")
        found = self.client.get_experiment_by_name(name)
        experiment = self.client.create_experiment(name) if found is None else found.experiment_id
        run = self.client.create_run(experiment, run_name=given.get("name", begun.run.path.name))
        parameters = [self.entities.Param(key, str(value)) for key, value in begun.settings.items()]
        self.client.log_batch(run.info.run_id, params=parameters)
        return str(run.info.run_id)

    def scalars(self, of: str, values: Scalars, step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self.entities.Metric(_named(of, key), value, now, step) for key, value in values.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def end(self, summary: dict[str, Any]) -> None:
        self.client.log_dict(self.id, summary, "summary.json")
        self.client.set_terminated(self.id, "FINISHED" if summary["exit"] == "done" else "FAILED")


KINDS: dict[str, tuple[str, Callable[[Begun, dict[str, Any]], Logger]]] = {
    "tensorboard": ("TensorBoard", TensorBoard),
    "wandb": ("W&B", WandB),
    "mlflow": ("MLflow", MLflow),
}


class Loggers:
    """The loggers that `log` names. One that fails is named once by `say`, and gets nothing more."""

    def __init__(self, begun: Begun, log: Any, say: Callable[[str], None]):
        self.say = say
        self.loggers: dict[str, Logger] = {}
        for key, (name, kind) in KINDS.items():
            if given := getattr(log, key):
                made = self._tried(name, partial(kind, begun, {} if given is True else given))
                if made is not None:
                    self.loggers[name] = made

    def scalars(self, of: str, row: dict[str, Any]) -> None:
        values = {key: float(value) for key, value in _numbers(row) if key != "step"}
        for name, logger in list(self.loggers.items()):
            self._tried(name, partial(logger.scalars, of, values, row["step"]))

    def end(self, summary: dict[str, Any]) -> None:
        for name, logger in list(self.loggers.items()):
            self._tried(name, partial(logger.end, summary))

    def _tried(self, name: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # whatever another program may raise
            self.loggers.pop(name, None)
            self.say(f"{name}: {message_of(error)}; it gets nothing more, training continues")
            return None


def _named(of: str, key: str) -> str:
    """A line of metrics.jsonl has its own keys; those of an evaluation begin with its split."""
    return key if of == "train" else f"{of}/{key}"


def _numbers(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in row.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value):
            yield key, value
