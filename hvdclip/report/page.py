"""A report: one page of HTML with everything in it, and the same as Markdown next to its pictures."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jinja2
from rich.table import Table
from rich.text import Text

HTML, MARKDOWN = "report.html", "report.md"


@dataclass(frozen=True)
class Picture:
    """A PNG file, and what it shows, in words."""

    file: Path
    words: str

    @property
    def data(self) -> str:
        return base64.b64encode(self.file.read_bytes()).decode()


@dataclass(frozen=True)
class Section:
    """A heading and the contents below it, in this order: words, tables, pictures, and verbatim text."""

    title: str
    words: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    verbatim: str = ""


def write(title: str, sections: Sequence[Section], folder: Path) -> list[Path]:
    """Write report.html, which needs no other file and no network, and report.md, which refers to its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    made = time.strftime("%d %B %Y, %H:%M %Z").strip()
    files = []
    for name, template in ((HTML, _PAGE), (MARKDOWN, _TEXT)):
        environment = jinja2.Environment(
            autoescape=name == HTML, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
        )
        environment.filters |= {"header": _header, "rows": _rows, "beside": partial(_beside, folder)}
        text = environment.from_string(template).render(title=title, sections=sections, made=made)
        (folder / name).write_text(text, encoding="utf-8")
        files.append(folder / name)
    return files


def _beside(folder: Path, file: Path) -> str:
    return os.path.relpath(file, folder)


def _header(table: Table) -> list[str]:
    return [str(column.header) for column in table.columns]


def _rows(table: Table) -> list[tuple[str, ...]]:
    cells = ([_plain(cell) for cell in column.cells] for column in table.columns)
    return list(zip(*cells, strict=True))


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 sans-serif; color: #111; background: #fff; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
h2 { border-top: 1px solid #999; padding-top: .6rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: bold; padding-bottom: .3rem; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #111; }
img { max-width: 100%; }
figure { margin: 1rem 0; break-inside: avoid; }
figcaption { font-size: .85rem; }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; font-size: .8rem; }
.wide { overflow-x: auto; }
@media print { body { max-width: none; margin: 0; font-size: 11px; } pre { white-space: pre-wrap; } }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>Made {{ made }} by hvdclip report.</p>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% for words in section.words %}
<p>{{ words }}</p>
{% endfor %}
{% for table in section.tables %}
<div class="wide"><table>
{% if table.title %}
<caption>{{ table.title }}</caption>
{% endif %}
<thead><tr>{% for cell in table | header %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table | rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% endfor %}
{% for picture in section.pictures %}
<figure><img alt="{{ picture.words }}" src="data:image/png;base64,{{ picture.data }}">
<figcaption>{{ picture.words }}</figcaption></figure>
{% endfor %}
{% if section.verbatim %}
<pre>{{ section.verbatim }}</pre>
{% endif %}
{% endfor %}
</body>
</html>
"""

_TEXT = """# {{ title }}

Made {{ made }} by hvdclip report.
{% for section in sections %}

## {{ section.title }}
{% for words in section.words %}

{{ words }}
{% endfor %}
{% for table in section.tables %}

{% if table.title %}
{{ table.title }}

{% endif %}
| {{ table | header | map("replace", "|", "\\\\|") | join(" | ") }} |
|{% for _ in table.columns %} --- |{% endfor %}

{% for row in table | rows %}
| {{ row | map("replace", "|", "\\\\|") | join(" | ") }} |
{% endfor %}
{% endfor %}
{% for picture in section.pictures %}

![{{ picture.words }}]({{ picture.file | beside }})
{% endfor %}
{% if section.verbatim %}

```
{{ section.verbatim }}
```
{% endif %}
{% endfor %}
"""
