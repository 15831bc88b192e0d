"""The report of a scaling study: what was measured, what the model predicts of it, how it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from rich.table import Table

from hvdclip.report.of_run import facts
from hvdclip.report.page import Picture, Section
from hvdclip.scaling import report
from hvdclip.scaling.study import Study

CIRCUMSTANCES = ("time", "ranks", "threads", "cores", "processor", "platform")


def sections(study: Study, folder: Path) -> Iterator[Section]:
    """The sections of the report; pictures go into the folder."""
    picture, _ = report.plot(study, folder)
    words = (
        "Above: speed-up and efficiency; markers with 95 % intervals of the mean are measurements, dashed lines are "
        "the model's, dotted ones ideal. Below: the parts of a step, measured; predicted steps against measured ones."
    )
    yield Section("Summary", list(report.findings(study)), pictures=[Picture(picture, words)])
    yield Section("Points", report.NOTES, tables=[report.table(study)])
    yield Section("Hosts", tables=[_stragglers(study)])
    last = study.made["ranks"][max(study.made["ranks"], key=int)]
    made = facts(
        {key: last[key] for key in CIRCUMSTANCES} | last["versions"], "machine and versions, of the most ranks"
    )
    yield Section("Configuration", tables=[made], verbatim=yaml.safe_dump(study.made["config"], sort_keys=False))


def _stragglers(study: Study) -> Table:
    """A rank's own work in a step relative to the mean over the ranks: slow ranks are above 1."""
    shown = Table(
        "ranks", "host", "rank", title="own work of a step relative to the mean over the ranks, median over all points"
    )
    shown.add_column("slower by", justify="right")
    for ranks, host, rank, ratio in study.stragglers():
        shown.add_row(str(ranks), host, str(rank), f"{ratio - 1:+.1%}")
    return shown
