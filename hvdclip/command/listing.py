"""How `hvdclip --help` lists the commands."""

from __future__ import annotations

import click

# the sections of the list of commands
SECTIONS = {
    "Train": ("train", "eval", "stop", "simulate"),
    "Look": ("algorithms", "configs", "plot", "report", "status", "watch"),
    "Measure": ("bench", "predict"),
    "Data": ("data", "tokenize"),
    "Cluster": ("submit", "cancel"),
    "Installation": ("setup-horovod", "doctor"),
}


class InSections(click.Group):
    """Lists its commands in sections."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(60)) for name in names])
