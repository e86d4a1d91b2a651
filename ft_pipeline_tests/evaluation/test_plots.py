"""Plots are PNGs that fit into the event log, and the same input gives the same bytes."""

import pytest

from ft_pipeline import plotting


def require_small_png(png: bytes) -> None:
    assert png.startswith(b"\x89PNG")
    assert len(png) < 60_000


@pytest.mark.usefixtures("rendered")
def test_a_confusion_matrix_can_be_drawn_for_few_and_for_many_labels() -> None:
    def draw(labels: list[str]) -> bytes:
        counts = [[row * column % 7 for column in range(len(labels) + 1)] for row in range(len(labels))]
        return plotting.panels([lambda axes: plotting.draw_confusion(axes, labels, counts, "Labels")], 5.0, 4.0)

    few = ["refund", "$5 $", "a label with a very long name indeed"]
    require_small_png(draw(few))
    assert draw(few) == draw(few)
    require_small_png(draw([str(number) for number in range(60)]))
