"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor

from hvdclip.comm.simulated import Simulated
from hvdclip.command.exits import Stopped
from hvdclip.config import Train, check_for_method
from hvdclip.methods import NonFiniteGradient, optimizer
from hvdclip.training import randomness, state
from hvdclip.training.asgd import NonMonotoneAverage
from hvdclip.training.bilevel import BilevelTask, TwoLosses, levels_of
from hvdclip.training.checkpointing import Checkpoints
from hvdclip.training.display import Silent
from hvdclip.training.evaluation import evaluate
from hvdclip.training.job import Job
from hvdclip.training.memory import peak_bytes
from hvdclip.training.metrics import Metrics
from hvdclip.training.provenance import sha256, versions
from hvdclip.training.recorder import Recorder
from hvdclip.training.schedule import Schedule
from hvdclip.training.state import Part
from hvdclip.training.stream import Stream
from hvdclip.training.watch import Watch, asked_by


class Trainer:
    """One run of a configuration on this rank: task, model, optimizer, and the loop over them."""

    def __init__(self, job: Job):
        self.config, self.comm, self.task, self.model = job.config, job.comm, job.task, job.model
        job.check_alike()
        config, comm, train = job.config, job.comm, job.config.train
        settings = dict(config.algorithm)
        if train.weighted:
            settings["weight"] = float(self.task.shard_size())
        if "noise_seed" in settings:
            settings["noise_seed"] += train.seed
        # without a timeout: a training has its own watch
        self.optimizer = optimizer(settings.pop("name"), **self._trained(), comm=comm, timeout=None, **settings)
        # one initial model for all, but each rank has its own dropout
        randomness.seed_everything(train.seed + 1 + comm.rank)
        self.schedule = Schedule(self.optimizer, train)
        self.precision = job.precision
        self.asgd = NonMonotoneAverage(self.optimizer, train.nt_asgd, train.nonmono) if train.nt_asgd else None
        self.metrics = Metrics(1 if "interval" in settings else config.log.every_steps)
        self._check(train)
        self.batches_due = sum(self.task.epoch_steps(epoch) for epoch in range(train.epochs or 0))
        self.stream = Stream(self.task)
        self.losses = TwoLosses(self) if isinstance(self.task, BilevelTask) else None
        self._drawn: randomness.State = {}
        self.evaluations: list[dict[str, Any]] = []
        self.last_line: dict[str, Any] | None = None  # of the metrics

    def parts(self) -> dict[str, Part]:
        """The parts of a rank's state, in the order in which they are restored."""
        optimizer, reset = self.optimizer, self.config.checkpoint.other_ranks == "reset"
        scaler = self.precision.scaler
        return {
            "optimizer": Part(
                optimizer.state_dict,
                optimizer.load_state_dict,
                lambda saved: optimizer.load_common_state(saved, reset),
                lambda: optimizer.check_common(reset),
            ),
            "x": state.vectors(optimizer.x.flats),
            "buffers": state.buffers(self.model, optimizer.kept.keep),
            "asgd": self.asgd.part() if self.asgd else state.nothing(),
            "scaler": state.part_of(scaler) if scaler.is_enabled() else state.nothing(),
            "metrics": state.part_of(self.metrics),
            "evaluations": state.rows(self.evaluations),
            "ledger": state.tallies(self.comm.ledger),
            "stream": Part(self.stream.state_dict, self.stream.load_state_dict, self.stream.load_share),
            "task": Part(self.task.state_dict, self.task.load_state_dict, state.leave),
            "random": Part(randomness.get_state, randomness.set_state, self._draw_anew),
        }

    def _trained(self) -> dict[str, Any]:
        """What the optimizer trains."""
        if not isinstance(self.task, BilevelTask):
            return {"model_or_params": self.model}
        upper, lower = levels_of(self.model)
        return {"model_or_params": upper, "lower_parameters": lower, "module": self.model}

    def _draw_anew(self, _: randomness.State) -> None:
        """Random numbers for ranks that are new: different from those at the start, and always the same."""
        randomness.seed_everything(randomness.seed_from(self.config.train.seed, self.comm.rank, self.optimizer.steps))

    def _check(self, train: Train) -> None:
        # found only now in the user's own method that needs several ranks
        for mistake in check_for_method(train, self.optimizer):
            raise ValueError(mistake)
        if train.sync_batch_norm and isinstance(self.comm, Simulated) and self.optimizer.space.device.type == "cuda":
            raise ValueError("train.sync_batch_norm is True; allowed on simulated ranks that share a GPU: False")

    def train(
        self,
        recorder: Recorder,
        display: Silent,
        checkpoints: Checkpoints | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Train to the end and record everything, also how it ended if it fails or stops on all ranks.

        Raises Stopped, on all ranks at the same round's end, if any rank's watch has been asked to stop.
        """
        self.recorder, self.display = recorder, display
        self.checkpoints, self.watch = checkpoints or Checkpoints(), watch or Watch(self.comm)
        self.optimizer.on_round = self._take_round
        self.display.start(self._title(), self.config.train.steps or self.batches_due)
        self.began = time.perf_counter()
        try:
            self._train()
        except NonFiniteGradient as error:
            self.checkpoints.finish()
            self.recorder.summary(self._totals() | {"exit": str(error)})
            self._meet()
            raise
        finally:
            self.display.stop()
        with self.watch.doing("saving"):
            self.checkpoints.finish()
        self.recorder.summary(self._totals() | self._results() | {"exit": "done"})

    def _train(self) -> None:
        evaluate_every, evaluate_due = self.config.train.evaluate_every_steps, False
        self.model.train()
        while not self._is_done():
            if self.watch.asked:
                self.optimizer.statistics.ask("stop")
            epoch_ended = self.step()
            evaluate_due |= epoch_ended if evaluate_every is None else self.optimizer.steps % evaluate_every == 0
            self.checkpoints.after_step(self.optimizer)
            if self.optimizer.steps_in_round > 0 or self._is_done():
                continue
            if evaluate_due:
                self._evaluate(self.task.splits()[:1])
            evaluate_due = False
            asked = self.optimizer.requests()
            self.checkpoints.after_round(self)
            if self.checkpoints.due or asked & {"save", "stop"}:
                with self.watch.doing("saving"):
                    self.checkpoints.save(self, wait="stop" in asked)
            if "stop" in asked:
                self._stop()
            if "resize" in asked:
                self.watch.end("lost: the launcher has other hosts")
                self.checkpoints.meet_change()
        self.optimizer.synchronize()
        self._log(self.metrics.flush())
        self._evaluate(self.task.splits(), final=True)

    def step(self) -> bool:
        """One step from the next batch; returns whether it ends an epoch."""
        epochs = self.stream.epochs
        self.schedule.set(self.optimizer.steps, self.stream.epoch)
        if self.losses is None:
            self.precision.step(self.optimizer, self._closure)
        else:
            self.optimizer.step(self.losses.upper, self.losses.lower)  # type: ignore[call-arg, arg-type]
        if self.asgd:
            self.asgd.after_step()
        return self.stream.epochs > epochs

    def _is_done(self) -> bool:
        if self.config.train.steps:
            return self.optimizer.steps >= self.config.train.steps
        return self.stream.batches >= self.batches_due

    def _closure(self, again: bool = False) -> Tensor:
        """The loss of the next batch, or of the last one again with the same dropout, and its gradient."""
        self.optimizer.zero_grad()
        if again:
            with randomness.continued_from(self._drawn):
                return self._backward()
        self.batch = self.stream.take()
        if self.optimizer.needs_closure:
            self._drawn = randomness.torch_state()
        self.optimizer.record(samples=self.batch.samples)
        self.optimizer.step_scale = self.batch.scale
        return self._backward()

    def _backward(self) -> Tensor:
        """The batch's loss; if the batch is cut into pieces, each adds its share of the gradient."""
        losses = []
        for piece in self.batch.pieces(self.config.train.accumulate):
            with self.precision.cast():
                objective, loss = self.task.loss(self.model, piece)
            share = piece.samples / self.batch.samples
            self.precision.backward(objective * share)
            losses.append(loss * share)
        return torch.stack(losses).sum()

    def _evaluate(self, splits: Sequence[str], final: bool = False) -> None:
        asgd = self.asgd.evaluated() if self.asgd else nullcontext()
        with self.watch.doing("evaluating"), self.optimizer.averaged(), asgd, self.precision.cast():
            if final:
                self._save("final")
                self.model_sha256 = sha256(self.model)
            rows = [self._position() | evaluate(self.task, self.model, split, self.comm) for split in splits]
            self.evaluations += rows
            for row in rows:
                self.recorder.evaluation(row)
                self.display.evaluation(row, self.task.remark(row["loss"]), time.perf_counter() - self.began)
            if self.best() is rows[0]:
                self._save("best")
        if self.asgd:
            self.asgd.after_evaluation(rows[0]["loss"])

    def _save(self, name: str) -> None:
        with self.watch.doing("saving"):
            self.recorder.model(name, self.model)

    def _stop(self) -> NoReturn:
        """End on all ranks together, after what a resumed run needs has been saved."""
        reasons = self.comm.gather(self.watch.asked, "stop")
        text = f"stopped by {asked_by(reasons)} at step {self.optimizer.steps}"
        self.recorder.summary(self._totals() | {"exit": text})
        self.watch.end("stopped")
        self._meet()
        raise Stopped(text)

    def _meet(self) -> None:
        """Wait for all ranks: when the first one exits, the launcher kills those that are still writing."""
        self.comm.gather(None, "stop")

    def best(self) -> dict[str, Any]:
        """The evaluation with the smallest loss on the split that is watched during training."""
        watched = [row for row in self.evaluations if row["split"] == self.task.splits()[0]]
        return min(watched, key=lambda row: (math.isnan(row["loss"]), row["loss"]))

    def _position(self) -> dict[str, Any]:
        return {"step": self.optimizer.steps, "epoch": round(self.stream.epoch, 6)}

    def _take_round(self) -> None:
        metrics = self.optimizer.last_round
        if reason := metrics.get("interval_reason"):
            self.display.say(f"step {metrics['step']:>6}  {reason}")
        self._log(self.metrics.add(metrics, self.optimizer.statistics.norm_counts))

    def _log(self, line: dict[str, Any] | None) -> None:
        if line is not None:
            self.last_line = line = line | {"epoch": round(self.stream.epoch, 6)}
            self.recorder.metrics(line)
            self.display.round(line, line["step"] if self.config.train.steps else self.stream.batches)

    def _title(self) -> str:
        table, size = self.task.table(), self.optimizer.space.size
        shards = "" if table is None else f"\nsamples of each label, one row per rank:\n{_in_rows(table)}"
        ranks = f"{self.comm.size} rank{'s' * (self.comm.size > 1)}"
        return (
            f"{self.optimizer.name} on {ranks}, {self.optimizer.communication()}\n"
            f"{self.config.model['name']} with {size:,} parameter{'s' * (size > 1)}; {self.task.description()}"
            f"{shards}"
        )

    def _totals(self) -> dict[str, Any]:
        ledger = self.comm.ledger
        return {
            "algorithm": self.optimizer.name,
            "ranks": self.comm.size,
            **self._position(),
            "samples": self.metrics.samples,
            "parameters": self.optimizer.space.size,
            "rounds": self.optimizer.rounds,
            "collectives": ledger["round"].collectives,
            "bytes": ledger["round"].bytes,
            "seconds": self.metrics.seconds,
            "comm_s": ledger["round"].seconds,
            "label_counts": self.task.table(),
            "other_collectives": {p: ledger[p].collectives for p in ledger.purposes() if p != "round"},
            "peak_bytes": peak_bytes(self.optimizer.space.device),
            "versions": versions(),
            **self.checkpoints.totals(),
        }

    def _results(self) -> dict[str, Any]:
        return {
            "final": {row["split"]: row for row in self.evaluations[-len(self.task.splits()) :]},
            "best": self.best(),
            "model_sha256": self.model_sha256,
        }


def _in_rows(table: list[list[int]], most: int = 16) -> str:
    width = max(len(f"{count:,}") for row in table for count in row)
    rows = [f"  {rank:>3} " + "".join(f" {count:>{width},}" for count in row) for rank, row in enumerate(table[:most])]
    return "\n".join(rows + ["  ..."] * (len(table) > most))
