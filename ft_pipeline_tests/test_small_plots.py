"""Pictures that the Dagster UI shows without a click: few characters, valid SVG, and the numbers that matter."""

import math
import re
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from ft_pipeline import small_plots
from ft_pipeline.small_plots import Lead

STEPS = range(0, 5000, 10)
LOSSES = [(step, 2 + 3 * math.exp(-step / 900) + 0.2 * math.sin(step)) for step in STEPS]
HELD_OUT = [(step, 2.5 + (step - 3000) ** 2 / 1e7) for step in range(250, 5000, 250)]
LEADS = [Lead(f"experiment_{n}/merged", 0.1 * n - 0.2, 0.1 * n, 0.1 * n + 0.2) for n in range(30, -5, -1)]
PARTS = {"weights": 0.27, "gradients": 0.1, "optimizer states": 0.21, "activations": 1.5, "of a <teacher> & more": 3.25}


def content(picture: str) -> ElementTree.Element:
    """Return the SVG of a picture in Markdown."""
    found = re.fullmatch(r"!\[[^\]]+\]\(<data:image/svg\+xml,([^<>]*)>\)", picture)
    assert found, picture
    return ElementTree.fromstring(unquote(found[1]))


def texts(picture: str) -> str:
    return " ".join(content(picture).itertext())


@pytest.mark.parametrize(
    "picture",
    [
        small_plots.loss_curve(LOSSES, HELD_OUT, "training and held-out loss"),
        small_plots.loss_curve(LOSSES[:1], [], "training and held-out loss"),
        small_plots.loss_curve([], [], "training and held-out loss"),
        small_plots.leads_plot(LEADS, "lead over system_prompt, 95 %", "percent", "leads"),
        small_plots.leads_plot([Lead("<b> & c", 0.0, 0.0, 0.0)], "accuracy", "points", "leads"),
        small_plots.bars([n * 41.5 for n in range(25)], [10**n % 7919 for n in range(24)], "tokens", "tokens per row"),
        small_plots.bars([0.0, 1.0], [0], "tokens", "tokens per row"),
        small_plots.stacked_bar(PARTS, 80.0, "GB", "memory"),
        small_plots.stacked_bar({"weights": 0.0}, None, "GB", "memory"),
    ],
)
def test_every_picture_is_shown_without_a_click(picture: str) -> None:
    assert len(picture) < 1000
    content(picture)


def test_the_lowest_held_out_loss_is_named_and_drawn() -> None:
    low = [(100, 3.0), *((step, 2.9) for step in range(200, 9000, 100)), (9000, 1.234), (9100, 2.0)]
    shown = small_plots.loss_curve(LOSSES, low, "loss")
    assert "best 1.234" in texts(shown) and "step 9,100" in texts(shown)
    paths = [path.get("d", "") for path in content(shown).iter("{http://www.w3.org/2000/svg}path")]
    lowest = max(float(place.split()[1]) for place in re.split("[ML]", paths[-1]) if place)
    assert lowest == 170, "the lowest point is at the bottom"


def test_the_best_leads_are_shown_with_their_values() -> None:
    shown = texts(small_plots.leads_plot(LEADS, "loss", "nats", "leads"))
    assert "experiment_30/merged +3.0" in shown and "experiment_-4" not in shown


def test_names_are_text() -> None:
    assert "<b> & c" in texts(small_plots.leads_plot([Lead("<b> & c", 0.0, 0.1, 0.2)], "loss", "nats", "leads"))
    assert "of a <teacher> & more 3.25 GB" in texts(small_plots.stacked_bar(PARTS, None, "GB", "memory"))


def test_small_parts_are_added_up() -> None:
    many = {f"part number {n} with a long name": 1.0 for n in range(12)}
    shown = texts(small_plots.stacked_bar(many, None, "GB", "memory"))
    others = re.search(r"other (\d+)\.00 GB", shown)
    assert others and int(others[1]) + shown.count("part number") == 12
