"""The comparison as a Markdown table, for the UI and for readers of the file."""

from collections.abc import Mapping, Sequence

from ft_pipeline.evaluation.comparison.costs import duration
from ft_pipeline.evaluation.comparison.records import (
    BreakEven,
    Comparison,
    QuantizationError,
    Score,
    SeedScores,
    TrainingCost,
)
from ft_pipeline.evaluation.comparison.sweep_results import curve_in_words


def markdown_table(comparison: Comparison) -> str:
    """Return the comparison as a Markdown table, best row first, intervals in brackets, left-out rows below."""
    metrics = comparison.shown_metrics()
    labels = [f"{metric.label} ({metric.direction})" for metric in metrics.values()]
    priced = any(row.cost_per_call is not None for row in comparison.rows)
    costs = ["prompt tokens / call", "generated tokens / call", "seconds / call", *(["cost / call"] if priced else [])]
    header = ["", *labels, *costs, "trained parameters", "training"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in comparison.rows:
        cells = [row.name.replace("|", "\\|"), *(_cell(row.scores.get(metric)) for metric in metrics)]
        cells += [_number(row.prompt_tokens_per_call, 0), _number(row.generated_tokens_per_call, 0)]
        cells += [_number(row.seconds_per_call, 2), *([_number(row.cost_per_call, 6)] if priced else [])]
        lines.append([*cells, f"{row.trainable_params:,}", _training(row.training)])
    answers = f"{comparison.test_items} answers of {comparison.test_rows} held-out conversations"
    notes = [f"{answers}; 95 % intervals in brackets."]
    notes += _break_even(comparison.break_even)
    notes += _seeds(comparison)
    notes += _learning_curves(comparison)
    notes += _noise(comparison.quantization_noise)
    notes += [
        f"Left out: {row.name} was scored in another evaluation ({', '.join(row.differs_in) or 'unknown'} differs). "
        "Score it again."
        for row in comparison.left_out
    ]
    return "\n\n".join([_table(lines), *notes]) + "\n"


def _break_even(entries: Sequence[BreakEven]) -> list[str]:
    """Return the table of calls that pay for training; an empty list without an entry."""
    if not entries:
        return []
    header = ["", "against", "prompt tokens saved / call", "seconds saved / call", "training", "calls by time"]
    priced = any(entry.calls_by_cost is not None for entry in entries)
    header += ["calls by cost"] if priced else []
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)]]
    for entry in entries:
        cells = [entry.tuned, entry.untouched, _number(entry.saved.prompt_tokens_per_call, 0)]
        cells += [_number(entry.saved.seconds_per_call, 2), _training(entry.training), _calls(entry.calls_by_time)]
        lines.append([*cells, *([_calls(entry.calls_by_cost)] if priced else [])])
    title = "Break-even: how many calls pay for the training, compared with the best baseline."
    return [title, _table(lines)]


def _seeds(comparison: Comparison) -> list[str]:
    """Return the table of the spread between training seeds; an empty list if no experiment has several seeds."""
    if not comparison.seeds:
        return []
    metrics = comparison.shown_metrics()
    rows = {row.name: row.scores for row in comparison.rows}
    labels = [metric.label for metric in metrics.values()]
    header = ["", "trainings", *labels, f"{comparison.metric().label}: 95 % interval of the first"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for spread in comparison.seeds:
        cells = [_spread(spread.scores.get(metric)) for metric in metrics]
        score = rows[spread.row].get(comparison.primary_metric)
        lines.append([spread.row, str(spread.trainings), *cells, "" if score is None else _bounds(score)])
    title = "Variation between seeds: the mean of all trainings, with the lowest and the highest in brackets."
    return [title, _table(lines)]


def _learning_curves(comparison: Comparison) -> list[str]:
    """Return the table of the primary metric by training rows; an empty list without a learning curve."""
    if not comparison.learning_curves:
        return []
    metric = comparison.metric()
    lines = [["", "share", "training rows", metric.label], ["---", *["---:"] * 3]]
    for curve in comparison.learning_curves:
        for point in curve.points:
            rows = "" if point.rows is None else f"{point.rows:,}"
            score = point.scores.get(comparison.primary_metric)
            lines.append([curve.row, f"{point.share:.0%}", rows, _cell(score)])
    sentences = [curve_in_words(curve, metric) for curve in comparison.learning_curves]
    return ["Learning curve: the same training on a share of its rows.", _table(lines), *sentences]


def _noise(noise: Mapping[str, Sequence[QuantizationError]]) -> list[str]:
    """Return the table of quantization errors; an empty list if no experiment uses 4 bit."""
    if not noise:
        return []
    header = ["", "from", "to", "KL, nats per token", "loss from", "loss to", "difference"]
    lines = [header, ["---", "---", "---", *["---:"] * 4]]
    for experiment, errors in noise.items():
        for error in errors:
            numbers = [f"{number:.4f}" for number in (error.kl, error.first_loss, error.second_loss)]
            lines.append([experiment, error.first, error.second, *numbers, f"{error.difference:+.4f}"])
    title = "Quantization noise, on the validation rows (4bit: quantized for this measurement only)."
    return [title, _table(lines)]


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _calls(calls: int | None) -> str:
    return "never" if calls is None else f"{calls:,}"


def _training(training: TrainingCost | None) -> str:
    return "" if training is None else duration(training.seconds)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _spread(score: SeedScores | None) -> str:
    if score is None:
        return ""
    digits = 1 if abs(score.mean) >= 10 else 3
    return f"{score.mean:.{digits}f} [{score.min:.{digits}f}, {score.max:.{digits}f}]"


def _bounds(score: Score) -> str:
    digits = 1 if abs(score.value) >= 10 else 3
    return f"[{score.low:.{digits}f}, {score.high:.{digits}f}]"


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    digits = 1 if abs(score.value) >= 10 else 3
    return f"{score.value:.{digits}f} {_bounds(score)}"
