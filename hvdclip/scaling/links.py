"""Links by name, with their makers' figures, or with measurements."""

from __future__ import annotations

from hvdclip.scaling.cost import Link

GBIT = 1e9 / 8
# Bandwidths of Ethernet and InfiniBand are nominal: all-reduces are said to reach 80 to 88 % of such figures. Latencies
# are orders of magnitude: half a round trip of TCP, of RDMA, and of a kernel that waits for another GPU.
LINKS = {
    link.name: link
    for link in (
        Link("1gbit", 1 * GBIT, 25e-6),
        Link("10GbE", 10 * GBIT, 25e-6),
        Link("25GbE", 25 * GBIT, 25e-6),
        Link("100GbE", 100 * GBIT, 5e-6),
        Link("HDR200", 200 * GBIT, 2e-6),
        Link("NVLink3", 235e9, 3e-6),  # measured on 8 A100s (nccl-tests' bus bandwidth), inside a node
        Link("NVLink4", 482e9, 3e-6),  # measured on 8 H200s
    )
}


def links(text: str | None) -> list[Link]:
    """The links in a list with commas, or all; NAME, or GBITS:MICROSECONDS; ValueError names what is allowed."""
    return list(LINKS.values()) if text is None else [_link(word.strip()) for word in text.split(",")]


def _link(word: str) -> Link:
    if word in LINKS:
        return LINKS[word]
    gbits, _, microseconds = word.partition(":")
    try:
        bandwidth, latency = float(gbits) * GBIT, float(microseconds or 0) * 1e-6
    except ValueError:
        bandwidth, latency = 0.0, 0.0
    if not (0 < bandwidth < float("inf") and 0 <= latency < float("inf")):
        raise ValueError(
            f"--links has {word!r}; allowed: {', '.join(LINKS)}, or gigabits a second, with microseconds of latency "
            "after a colon: 40:10"
        )
    return Link(word, bandwidth, latency)
