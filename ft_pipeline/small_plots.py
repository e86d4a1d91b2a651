"""Small plots as SVG: so few characters that the Dagster UI shows them on an asset's page without a click.

Dagster shows Markdown of fewer than 1,000 characters directly, and longer Markdown behind a link. A plot is written in
that many characters with fewer points or rows, until it fits.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from ft_pipeline.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE

SHOWN_CHARACTERS = 999
"""Dagster shows Markdown of at most this many characters without a click."""
WIDTH = 290
LABEL_WIDTH = 170
ROW_HEIGHT = 22
"""Sizes of a plot in pixels. The UI has this width for a value beside a key of 19 letters, in a window of 1,280."""
LABEL_CHARACTERS = 22
"""Maximum number of characters of a name in a plot."""
_PART_COLORS = (BLUE, ORANGE, GREEN, PURPLE, GREY)


@dataclass(frozen=True)
class Lead:
    """A row of a comparison with its lead over the baseline, and the ends of its 95 % interval."""

    name: str
    low: float
    value: float
    high: float


def markdown_picture(svg: str, alternative_text: str) -> str:
    """Return an SVG as a picture in Markdown."""
    for sign in "%<>#&":  # the others are valid between < and >
        svg = svg.replace(sign, f"%{ord(sign):02X}")
    return f"![{alternative_text}](<data:image/svg+xml,{svg}>)"


def loss_curve(
    losses: Sequence[tuple[int, float]], held_out: Sequence[tuple[int, float]], alternative_text: str
) -> str:
    """Return a plot of the training losses (blue) and the held-out losses (orange) by step, as Markdown.

    losses, held_out: (step, loss).
    """
    return _fitting(lambda points: _loss_curve(losses, held_out, points), (32, 24, 18, 12, 8, 4), alternative_text)


def _loss_curve(losses: Sequence[tuple[int, float]], held_out: Sequence[tuple[int, float]], points: int) -> str:
    shown: list[Sequence[tuple[float, float]]] = [_means(losses, points), _sample(held_out, max(3, points // 2))]
    values = [loss for curve in shown for _, loss in curve]
    low, high = min(values, default=0.0), max(values, default=1.0)
    last = max([1, *(step for step, _ in [*losses, *held_out])])

    def path(curve: Sequence[tuple[float, float]]) -> str:
        span, scale = high - low or 1.0, (WIDTH - 55) / last
        places = [f"{45 + scale * step:.0f} {170 - 150 * (loss - low) / span:.0f}" for step, loss in curve]
        return f"M{'L'.join(places)}" if places else ""

    best = min((loss for _, loss in held_out), default=None)
    legend = "" if best is None else f"<tspan fill='{ORANGE}'> held out, best {best:.3f}</tspan>"
    return _svg(
        190,
        f"<path d='M45 15V172H{WIDTH - 5}' stroke='{GREY}'/>"
        f"<path d='{path(shown[0])}' stroke='{BLUE}'/><path d='{path(shown[1])}' stroke='{ORANGE}' stroke-width='2'/>",
        f"<text x='8' y='28'>{high:.2f}<tspan x='8' y='172'>{low:.2f}</tspan>"
        f"<tspan x='{WIDTH - 85}' y='187'>step {last:,.0f}</tspan>"
        f"<tspan x='100' y='14' fill='{BLUE}'>training</tspan>{legend}</text>",
    )


def _means(curve: Sequence[tuple[int, float]], count: int) -> list[tuple[float, float]]:
    """Return at most `count` means of neighboring points."""
    size = -(-len(curve) // count) or 1
    groups = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [
        (sum(step for step, _ in group) / len(group), sum(value for _, value in group) / len(group)) for group in groups
    ]


def _sample(curve: Sequence[tuple[int, float]], count: int) -> list[tuple[int, float]]:
    """Return about `count` of the points, with the first, the lowest and the last."""
    step = -(-len(curve) // count) or 1
    lowest = min(range(len(curve)), key=lambda at: curve[at][1], default=0)
    return [point for at, point in enumerate(curve) if at % step == 0 or at in (lowest, len(curve) - 1)]


def tries_plot(scores: Sequence[float], label: str) -> str:
    """Return a plot of the scores of tries, in their order, as Markdown. label: what is scored."""
    return _fitting(lambda points: _tries_plot(scores, label, points), (100, 60, 40, 24, 12), f"{label} of each try")


def _tries_plot(scores: Sequence[float], label: str, points: int) -> str:
    low, high = min(scores), max(scores)
    span, step = high - low or 1.0, -(-len(scores) // points)
    scale = (WIDTH - 60) / max(1, len(scores) - 1)
    dots = "".join(
        f"M{48 + scale * number:.0f} {150 - 120 * (score - low) / span:.0f}v4"
        for number, score in enumerate(scores)
        if number % step == 0 or score in (low, high)
    )
    return _svg(
        180,
        f"<path d='M42 25V158H{WIDTH - 5}' stroke='{GREY}'/><path d='{dots}' stroke='{BLUE}' stroke-width='4'/>",
        f"<text x='8' y='14'>{escape(label)}<tspan x='8' y='34'>{high:.3g}</tspan>"
        f"<tspan x='8' y='158'>{low:.3g}</tspan>"
        f"<tspan x='{WIDTH - 70}' y='174'>try {len(scores)}</tspan></text>",
    )


def leads_plot(leads: Sequence[Lead], title: str, unit: str, alternative_text: str) -> str:
    """Return a plot of leads with 95 % intervals and a line at zero, the first on top, as Markdown."""
    return _fitting(
        lambda rows: _leads_plot(leads[:rows], title, unit), range(min(8, len(leads)), 0, -1), alternative_text
    )


def _leads_plot(leads: Sequence[Lead], title: str, unit: str) -> str:
    low, high = min(0.0, *(lead.low for lead in leads)), max(0.0, *(lead.high for lead in leads))
    span = high - low or 1.0

    def at(value: float) -> int:
        return round(LABEL_WIDTH + 10 + (WIDTH - LABEL_WIDTH - 20) * (value - low) / span)

    heights = [ROW_HEIGHT * (number + 2) for number in range(len(leads))]
    lines = "".join(
        f"M{at(lead.low)} {y}H{at(lead.high)}M{at(lead.value)} {y - 5}v10"
        for lead, y in zip(leads, heights, strict=True)
    )
    names = "".join(
        f"<tspan x='9' y='{y + 4}'>{_name(lead.name)} {lead.value:+,.{1 if abs(lead.value) >= 1 else 3}f}</tspan>"
        for lead, y in zip(leads, heights, strict=True)
    )
    bottom = heights[-1] + 12
    return _svg(
        bottom + 4,
        f"<path d='M{at(0)} {ROW_HEIGHT + 12}V{bottom}' stroke='{GREY}'/>"
        f"<path d='{lines}' stroke='{BLUE}' stroke-width='3'/>",
        f"<text x='9' y='14'>{escape(title)}<tspan x='9' y='28'>{escape(unit)}</tspan>{names}</text>",
    )


def bars(edges: Sequence[float], counts: Sequence[int], unit: str, alternative_text: str) -> str:
    """Return a histogram as Markdown: `counts[i]` rows have between `edges[i]` and `edges[i + 1]` of `unit`."""
    return _fitting(lambda _: _bars(edges, counts, unit), (1,), alternative_text)


def _bars(edges: Sequence[float], counts: Sequence[int], unit: str) -> str:
    most, last = max([*counts, 1]), max(edges[-1], 1)
    scale = (WIDTH - 20) / last
    shapes = "".join(
        f"M{9 + scale * left:.0f} 120v-{100 * count / most:.0f}H{8 + scale * right:.0f}V120"
        for (left, right), count in zip(itertools.pairwise(edges), counts, strict=True)
        if count
    )
    return _svg(
        140,
        f"<path d='{shapes}' fill='{BLUE}'/><path d='M8 120H{WIDTH - 8}' stroke='{GREY}'/>",
        f"<text x='9' y='14'>most in a bar: {most:,} rows"
        f"<tspan x='{WIDTH - 115}' y='135'>{last:,.0f} {escape(unit)}</tspan></text>",
    )


def stacked_bar(parts: Mapping[str, float], limit: float | None, unit: str, alternative_text: str) -> str:
    """Return one bar of the parts with their sizes, and a line at `limit` if it is given, as Markdown."""
    return _fitting(lambda count: _stacked_bar(parts, limit, unit, count), (5, 4, 3, 2, 1), alternative_text)


def _stacked_bar(parts: Mapping[str, float], limit: float | None, unit: str, count: int) -> str:
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    shown = [*ordered[: count - 1], ("other", sum(size for _, size in ordered[count - 1 :]))]
    if len(ordered) <= count:
        shown = ordered
    scale = (WIDTH - 20) / (max(sum(parts.values()), limit or 0.0) or 1.0)
    shapes, texts, left = "", "", 8.0
    for number, (name, size) in enumerate(shown):
        color = _PART_COLORS[number % len(_PART_COLORS)]
        shapes += f"<path d='M{left:.0f} 12h{size * scale:.0f}' stroke='{color}' stroke-width='22'/>"
        place = f"x='9' y='{42 + 17 * number}'"
        texts += f"<tspan {place} fill='{color}'>{_name(name)} {size:.2f} {unit}</tspan>"
        left += size * scale
    if limit:
        shapes += f"<path d='M{8 + limit * scale:.0f} 0v25' stroke='black'/>"
        texts += f"<tspan x='{WIDTH - 113}' y='42'>line: {limit:g} {unit}</tspan>"
    return _svg(33 + 17 * len(shown), shapes, f"<text>{texts}</text>")


def _name(text: str) -> str:
    """Return a name as a plot shows it."""
    return escape(text if len(text) <= LABEL_CHARACTERS else f"{text[: LABEL_CHARACTERS - 2]}..")


def _svg(height: int, shapes: str, texts: str) -> str:
    """Return the SVG. Its background is white, so that it can be read in dark mode."""
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' style='background:white;"
        f"font:12px sans-serif'><g fill='none'>{shapes}</g>{texts}</svg>"
    )


def _fitting(draw: Callable[[int], str], details: Iterable[int], alternative_text: str) -> str:
    """Return the first drawing that Dagster shows without a click, from the most detail to the least; else the last."""
    shown = ""
    for detail in details:
        shown = markdown_picture(draw(detail), alternative_text)
        if len(shown) <= SHOWN_CHARACTERS:
            break
    return shown
