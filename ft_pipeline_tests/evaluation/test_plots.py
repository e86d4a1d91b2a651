"""Plots are PNGs that fit into the event log, and the same input gives the same bytes."""

from ft_pipeline import plotting


def require_same_small_png(png: bytes, again: bytes) -> None:
    assert png.startswith(b"\x89PNG")
    assert png == again
    assert len(png) < 60_000


def test_a_length_histogram_is_a_small_repeatable_png() -> None:
    require_same_small_png(*(plotting.length_histogram([0, 10, 20, 40], [3, 5, 1], "Tokens per row") for _ in range(2)))


def test_a_loss_curve_can_be_drawn_without_held_out_losses() -> None:
    steps = list(range(500))
    losses = [3 - step / 250 for step in steps]
    require_same_small_png(*(plotting.loss_curve(steps, losses, [250, 499], [2.5, 2.0]) for _ in range(2)))
    require_same_small_png(*(plotting.loss_curve(steps, losses, [], []) for _ in range(2)))


def test_a_memory_bar_can_be_drawn_without_a_gpu() -> None:
    parts = {"weights": 14e9, "gradients": 14e9, "optimizer": 28e9, "activations": 1e9, "overhead": 1e9}
    require_same_small_png(*(plotting.memory_bar(parts, 24.0) for _ in range(2)))
    require_same_small_png(*(plotting.memory_bar(parts, None) for _ in range(2)))


def test_a_confusion_matrix_can_be_drawn_for_few_and_for_many_labels() -> None:
    def draw(labels: list[str]) -> bytes:
        counts = [[row * column % 7 for column in range(len(labels) + 1)] for row in range(len(labels))]
        return plotting.panels([lambda axes: plotting.draw_confusion(axes, labels, counts, "Labels")], 5.0, 4.0)

    require_same_small_png(*(draw(["refund", "$5 $", "a label with a very long name indeed"]) for _ in range(2)))
    require_same_small_png(*(draw([str(number) for number in range(60)]) for _ in range(2)))
