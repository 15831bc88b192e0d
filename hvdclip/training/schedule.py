"""The step size as a function of how far the run has come."""

from __future__ import annotations

from torch.optim import Optimizer

from hvdclip.config import Train


class Schedule:
    """lr of each parameter group: linear warm-up, then times `decay` at each milestone; gamma goes with it, or stays.

    It keeps nothing, so a run that is resumed needs its place only. Source: Goyal et al. (2017), section 2.2.
    """

    def __init__(self, optimizer: Optimizer, train: Train):
        self.optimizer, self.train = optimizer, train
        self.lrs = [group["lr"] for group in optimizer.param_groups]

    def set(self, epoch: float) -> None:
        """Before the step that begins after that many passes over the data."""
        factor = self.factor(epoch)
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * factor

    def factor(self, epoch: float) -> float:
        train = self.train
        factor = train.decay ** sum(epoch >= milestone for milestone in train.milestones)
        if epoch < train.warmup_epochs:
            factor *= train.warmup_from + (1 - train.warmup_from) * epoch / train.warmup_epochs
        return factor
