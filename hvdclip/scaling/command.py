"""hvdclip predict."""

from __future__ import annotations

import click

from hvdclip.endings import bad_input
from hvdclip.numbers import whole_numbers
from hvdclip.training import terminal


@click.command("predict")
@click.option(
    "--step-ms",
    required=True,
    type=click.FloatRange(0, min_open=True),
    help="A step of one rank, nothing communicated.",
)
@click.option("--floats", required=True, type=click.FloatRange(min=1), help="The model's parameters.")
@click.option("--bytes-each", default="4", show_default=True, type=click.Choice(["1", "2", "4"]), help="On the wire.")
@click.option("--links", "named", metavar="NAME,...", help="Or GBITS:MICROSECONDS. Default: all that have a name.")
@click.option("--ranks", default="2,8,64,512,4096", show_default=True, metavar="N,...")
def predict_command(step_ms: float, floats: float, bytes_each: str, named: str | None, ranks: str) -> None:
    """What averages every I steps would gain on N ranks over a link, and which I is worth it.

    Computed from a step's time and the model's size alone; hvdclip bench link measures a link.
    """
    from hvdclip.scaling import predict
    from hvdclip.scaling.links import links

    chosen, numbers = bad_input(lambda: (links(named), whole_numbers("--ranks", ranks)))
    found = predict.predict(step_ms / 1e3, floats * int(bytes_each), chosen, numbers)
    terminal.console().print(predict.table(found))
