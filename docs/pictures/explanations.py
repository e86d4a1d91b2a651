"""Draws the pictures of how-it-decides.md. `python docs/pictures/explanations.py` writes them to docs/images.

The numbers in them are invented, from fixed seeds: they show how a number is made, and are no measurement.
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from scipy import stats

from ft_pipeline.plotting import BLUE, GREEN, GREY, ORANGE

mpl.use("Agg")
import matplotlib.pyplot as plt

IMAGES = Path(__file__).parents[1] / "images"
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "savefig.bbox": "tight",
    "savefig.dpi": 110,
}
PROMPT = ("Where", "is", "my", "parcel", "?")
ANSWER = (("Please", 2.3), ("send", 0.6), ("your", 0.2), ("order", 0.5), ("number", 0.1), (".", 0.3), ("<end>", 0.4))
"""Tokens of an answer, with the loss of each in nats."""
CONVERSATIONS = 50


def main(folder: Path = IMAGES) -> None:
    pictures = {"loss_by_token": loss_by_token, "paired_interval": paired_interval, "interval_width": interval_width}
    with mpl.rc_context(STYLE):
        for name, draw in pictures.items():
            figure = draw()
            figure.savefig(folder / f"{name}.png", metadata={"Software": None})
            plt.close(figure)


def loss_by_token() -> Any:
    """Which tokens have a loss: those of the answer and its end."""
    figure, axes = plt.subplots(figsize=(9, 2.9))
    losses = [loss for _, loss in ANSWER]
    places = range(len(PROMPT), len(PROMPT) + len(ANSWER))
    axes.bar(range(len(PROMPT)), [0.04] * len(PROMPT), color=GREY)
    axes.bar(places, losses, color=BLUE)
    for place, loss in zip(places, losses, strict=True):
        label = f"{loss:.1f}\n{np.exp(-loss):.0%}"
        axes.text(place, loss + 0.13, label, ha="center", fontsize=9, bbox={"color": "white", "pad": 0.5})
    end = len(PROMPT) + len(ANSWER) - 0.4
    axes.hlines(np.mean(losses), len(PROMPT) - 0.5, end, color=ORANGE, linestyle="--", zorder=0)
    axes.text(end, np.mean(losses), f" mean {np.mean(losses):.2f}", color=ORANGE, va="center")
    axes.text(2, 0.15, "the question: read, not counted", ha="center", color=GREY)
    axes.set(xlim=(-0.6, len(PROMPT) + len(ANSWER) + 0.6), ylim=(0, 2.9), ylabel="loss in nats")
    axes.set_xticks(range(len(PROMPT) + len(ANSWER)), [*PROMPT, *(token for token, _ in ANSWER)])
    axes.set_title("The loss of an answer (invented numbers)")
    return figure


def paired_interval() -> Any:
    """Two models on the same conversations: their own intervals, and that of their difference."""
    random = np.random.default_rng(7)
    hard = random.normal(2.6, 0.55, CONVERSATIONS)
    before = hard + random.normal(0.0, 0.09, CONVERSATIONS)
    after = hard - 0.12 + random.normal(0.0, 0.09, CONVERSATIONS)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), width_ratios=(3, 2))
    left.plot([0, 1], np.stack([before, after]), color=GREY, alpha=0.35, linewidth=0.8)
    for place, values, color in ((0, before, ORANGE), (1, after, BLUE)):
        left.errorbar(place, values.mean(), yerr=_half_width(values), color=color, fmt="o", capsize=6, linewidth=2.5)
    left.set(xlim=(-0.4, 1.4), ylabel="loss of a conversation, nats per token")
    left.set_xticks([0, 1], ["prompt", "fine-tuned"])
    left.set_title(f"{CONVERSATIONS} conversations, a line each")
    lead = before - after
    right.scatter(random.uniform(-0.12, 0.12, CONVERSATIONS), lead, color=GREY, alpha=0.45, s=12)
    right.errorbar(0.3, lead.mean(), yerr=_half_width(lead), color=GREEN, fmt="o", capsize=6, linewidth=2.5)
    right.axhline(0, color="black", linewidth=1)
    right.text(0.37, lead.mean(), f"{lead.mean():.2f}\n± {_half_width(lead):.2f}", color=GREEN, va="center")
    right.set(xlim=(-0.3, 0.75), ylabel="prompt minus fine-tuned")
    right.set_xticks([])
    right.set_title("the lead, paired")
    figure.tight_layout(w_pad=3)
    return figure


def interval_width() -> Any:
    """How the width of an interval falls with the number of test conversations."""
    counts = np.arange(10, 501)
    figure, axes = plt.subplots(figsize=(8, 2.9))
    width = stats.t.ppf(0.975, counts - 1) / np.sqrt(counts)
    axes.fill_between(counts, -width, width, color=BLUE, alpha=0.25, linewidth=0)
    axes.axhline(0, color="black", linewidth=1)
    for count in (50, 100, 200, 400):
        half = stats.t.ppf(0.975, count - 1) / np.sqrt(count)
        axes.errorbar(count, 0, yerr=half, color=BLUE, capsize=5, linewidth=2)
        axes.text(count + 5, half + 0.03, f"{count}: ± {half:.2f}", fontsize=9)
    axes.set(xlim=(10, 500), ylim=(-0.75, 0.75), xlabel="test conversations", ylabel="standard deviations\nof the lead")
    axes.set_title("Four times the conversations, half the width")
    return figure


def _half_width(values: np.ndarray) -> float:
    """Half the width of Student's 95 % interval of the mean."""
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    main()
