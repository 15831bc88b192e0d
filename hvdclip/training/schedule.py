"""The step size as a function of how far the run has come."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from hvdclip.config import Train


class Schedule:
    """lr of each parameter group: a linear warm-up, then `train.schedule`; gamma changes with it, or stays.

    It has no state, so a run that is resumed needs only its place; torch's schedulers count their own steps. Sources:
    Goyal et al. (2017), section 2.2, for warm-up and milestones; Loshchilov and Hutter (2017) for the cosine; Hu et al.
    (MiniCPM, 2024) for wsd: warm-up, stable, decay.
    """

    def __init__(self, optimizer: Optimizer, train: Train):
        self.optimizer, self.train = optimizer, train
        self.lrs = [group["lr"] for group in optimizer.param_groups]

    def set(self, step: int, epoch: float) -> None:
        """Set lr before the step that begins after that many steps and passes over the data."""
        factor = self.factor(step, epoch)
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * factor

    def factor(self, step: int, epoch: float) -> float:
        return self._warmup(step, epoch) * self._fall(step, epoch)

    def _warmup(self, step: int, epoch: float) -> float:
        train = self.train
        done, whole = (step, train.warmup_steps) if train.warmup_steps else (epoch, train.warmup_epochs)
        return train.warmup_from + (1 - train.warmup_from) * done / whole if done < whole else 1.0

    def _fall(self, step: int, epoch: float) -> float:
        train = self.train
        if train.schedule == "step":
            return train.decay ** sum(epoch >= milestone for milestone in train.milestones)
        if train.schedule == "constant":
            return 1.0
        # from the end of the warm-up, which has the run's own unit, or from where wsd begins to decrease
        done = step if train.unit == "steps" else epoch
        whole, start = getattr(train, train.unit), getattr(train, f"warmup_{train.unit}")
        if train.schedule == "wsd":
            start = whole * (1 - train.decay_share)
        share = max(0.0, (done - start) / (whole - start))
        left = (1 + math.cos(math.pi * share)) / 2 if train.schedule == "cosine" else 1 - share
        return train.final_share + (1 - train.final_share) * left
