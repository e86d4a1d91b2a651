"""Small plots for the Dagster UI and reports, as PNG bytes. matplotlib is imported when the first one is drawn."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

BLUE, ORANGE, GREEN, PURPLE, GREY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6B6B6B", "#B5A300"
"""Okabe and Ito's palette: distinguishable with any color vision, and in gray."""
KIND_COLORS = {
    "base": GREY,
    "prompt": ORANGE,
    "adapter": GREEN,
    "merged": BLUE,
    "champion": PURPLE,
    "teacher": "#E69F00",
    "contender": "#56B4E9",
    "gguf": "#4477AA",
    "calibrated": ORANGE,
    "constant": YELLOW,
    "search": YELLOW,
    "classifier": YELLOW,
}
"""The color of a row of the comparison, by its kind."""

MAX_WRITTEN_LABELS = 20
"""Maximum number of labels whose counts are written into a confusion matrix."""
MAX_LABEL = 24
"""Maximum number of letters of a label in a picture."""

_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "legend.frameon": False,
    "savefig.bbox": "tight",
}


def histogram(lengths: Sequence[int], bins: int = 24) -> tuple[list[float], list[int]]:
    """Return (edges, counts) of whole numbers, in at most `bins` bins."""
    import numpy as np

    if not lengths:
        return [0.0, 1.0], [0]
    counts, edges = np.histogram(lengths, bins=min(bins, max(1, max(lengths) - min(lengths))))
    return edges.tolist(), counts.tolist()


def draw_intervals(
    axes: Any,
    names: Sequence[str],
    intervals: Sequence[tuple[float, float, float]],
    kinds: Sequence[str],
    label: str,
) -> None:
    """Draw a dot per name in its interval, the first name on top, with colors by kind.

    intervals: (low, value, high).
    """
    for position, ((low, value, high), kind) in enumerate(zip(intervals, kinds, strict=True)):
        color = KIND_COLORS.get(kind, GREY)
        axes.plot([low, high], [position, position], color=color, linewidth=2.5, solid_capstyle="butt")
        axes.plot(value, position, "o", color=color, markersize=6)
    axes.set(title=label, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)


def draw_confusion(axes: Any, labels: Sequence[str], counts: Sequence[Sequence[int]], title: str) -> None:
    """Draw how often each label of the references (a line) became each label of the answers (a column).

    counts: a list per label, with a number per label and one for the answers without a label. The color is the share of
    the line, so that rare labels show as well as frequent ones.
    """
    columns = [_short(label) for label in labels] + ["(no label)"]
    shares = [[count / max(1, sum(line)) for count in line] for line in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if len(labels) <= MAX_WRITTEN_LABELS:
        for row, line in enumerate(counts):
            for column, count in enumerate(line):
                color = "white" if shares[row][column] > 0.6 else "black"
                axes.text(column, row, str(count) if count else "", ha="center", va="center", color=color)
    axes.axvline(len(labels) - 0.5, color="black", linewidth=1)
    axes.set(title=title, xlabel="label of the answer", ylabel="label of the reference")
    axes.set(yticks=range(len(labels)), yticklabels=columns[:-1], xticks=range(len(columns)))
    axes.set_xticklabels(columns, rotation=40, ha="right")
    axes.grid(visible=False)


def _short(label: str) -> str:
    """Return a label as a picture shows it. A dollar sign would begin a formula."""
    text = label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…"
    return text.replace("$", r"\$")


def draw_shares(axes: Any, shares: Mapping[str, float], title: str) -> None:
    """Draw a bar for each share between 0 and 1, the first name on top."""
    names = [_short(name) for name in shares]
    axes.barh(range(len(names)), list(shares.values()), color=BLUE)
    axes.set(title=title, xlim=(0, 1), yticks=range(len(names)), yticklabels=names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def draw_points(
    axes: Any, values: Sequence[Any], losses: Sequence[float], label: str, log: bool, unit: str = "held-out loss"
) -> None:
    """Draw a dot for each training: the value of a setting (a number or a text) and the loss. The lowest is marked."""
    axes.plot([_short(value) if isinstance(value, str) else value for value in values], losses, "o", color=BLUE)
    best = min(range(len(losses)), key=lambda index: losses[index])
    mark = values[best]
    axes.plot(_short(mark) if isinstance(mark, str) else mark, losses[best], "o", color=ORANGE, markersize=8)
    axes.set(title=label, xlabel=label, ylabel=unit, **({"xscale": "log"} if log else {}))


def panels(draws: Sequence[Callable[[Any], None]], width: float, height: float) -> bytes:
    """Return several drawings side by side, `width` × `height` inches each, two in a row."""
    columns = min(2, len(draws))
    rows = -(-len(draws) // columns)
    from matplotlib import rc_context

    with rc_context(_STYLE):
        figure = _figure(columns * width, rows * height)
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, draw in zip(grid, draws, strict=False):
            draw(axes)
        for axes in grid[len(draws) :]:
            axes.set_axis_off()
        return _to_png(figure)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # no pyplot: it keeps every figure, and needs a display

    return Figure(figsize=(width, height), layout="constrained")


def _to_png(figure: Any) -> bytes:
    """Return the figure as PNG with at most 64 colors: no visible difference, a third of the size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    all_colors = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(all_colors, format="png", dpi=110)
    few_colors = io.BytesIO()
    Image.open(all_colors).convert("RGB").quantize(64).save(few_colors, format="png", optimize=True)
    return few_colors.getvalue()
