"""What all pictures have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can distinguish; line styles distinguish curves on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")


def canvas(width: float, height: float) -> Figure:
    """A picture of that many inches; without pyplot, whose backend belongs to the program that started this process."""
    return Figure(figsize=(width, height), layout="constrained")


def look(number: int) -> dict[str, Any]:
    """Colour and line style of the curve with that number; neighbours differ in both."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number % len(STYLES)]}


def dress(figure: Figure) -> None:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)


def save(figure: Figure, directory: str | Path, name: str) -> list[Path]:
    """Write the picture as PNG and SVG; returns both files."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    files = [Path(directory) / f"{name}.{kind}" for kind in ("png", "svg")]
    for file in files:
        figure.savefig(file, dpi=110)
    return files
