"""What a run shows on rank 0's screen: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hvdclip.training.terminal import console


class Silent:
    """The other ranks' display."""

    def start(self, title: str, steps: int) -> None: ...
    def round(self, line: dict[str, Any], done: int) -> None: ...
    def evaluation(self, row: dict[str, Any], remark: str, seconds: float) -> None: ...
    def say(self, text: str) -> None: ...
    def stop(self) -> None: ...


class Display(Silent):
    """Rank 0's display."""

    PLAIN_EVERY_S = 10.0

    def __init__(self) -> None:
        self.console = console()
        self.live = self.console.is_terminal
        self._progress: Progress | None = None
        self._last_plain = time.monotonic()

    def start(self, title: str, steps: int) -> None:
        self.say(title)
        if not self.live:
            return
        self._progress = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._progress.add_task("training", total=steps, state="")
        self._progress.start()

    def round(self, line: dict[str, Any], done: int) -> None:
        state = f"loss {line['loss']:.4f}  clipped {line['clip_fraction']:4.0%}" if line["loss"] is not None else ""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, state=state)
        elif not self.live and time.monotonic() - self._last_plain > self.PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self.say(f"step {line['step']:>6}  round {line['round']:>6}  {state}")

    def evaluation(self, row: dict[str, Any], remark: str, seconds: float) -> None:
        metric = f"  perplexity {row['perplexity']:7.2f}" if "perplexity" in row else ""
        metric += f"  accuracy {row['accuracy']:7.2%}" if "accuracy" in row else ""
        metric += f"  top 5 {row['top5_accuracy']:7.2%}" if "top5_accuracy" in row else ""
        metric += f"  ||grad f|| {row['gradient_norm']:9.3e}" if "gradient_norm" in row else ""
        self._last_plain = time.monotonic()
        self.say(
            f"step {row['step']:>6}  epoch {row['epoch']:5.2f}  {row['split']:<5}  loss {row['loss']:7.4f}{metric}"
            f"  {remark}  {seconds:4.0f} s"
        )

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
