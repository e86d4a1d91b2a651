"""The comparison as a Markdown table, for the UI and for readers of the file."""

from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.evaluation.comparison.costs import duration
from ft_pipeline.evaluation.comparison.sweep_results import curve_in_words
from ft_pipeline.evaluation.metrics.definitions import metric_of, shown_metrics

PER_CALL = {"prompt_tokens_per_call": 0, "generated_tokens_per_call": 0, "seconds_per_call": 2}
"""The costs of a call, and the number of decimals shown."""


def markdown_table(document: Mapping[str, Any]) -> str:
    """Return the comparison as a Markdown table, best row first, intervals in brackets, left-out rows below."""
    metrics = shown_metrics(document)
    labels = [f"{metric.label} ({metric.direction})" for metric in metrics.values()]
    priced = any(row["cost_per_call"] is not None for row in document["rows"])
    costs = ["prompt tokens / call", "generated tokens / call", "seconds / call", *(["cost / call"] if priced else [])]
    header = ["", *labels, *costs, "trained parameters", "training"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in document["rows"]:
        cells = [row["name"].replace("|", "\\|"), *(_cell(row["scores"].get(metric)) for metric in metrics)]
        cells += [_number(row[key], digits) for key, digits in PER_CALL.items()]
        cells += [_number(row["cost_per_call"], 6)] if priced else []
        lines.append([*cells, f"{row['trainable_params']:,}", _training(row["training"])])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    answers = f"{document['test_items']} answers of {document['test_rows']} held-out conversations"
    notes = [f"{answers}; in brackets the 95 % interval."]
    notes += _break_even(document["break_even"])
    notes += _seeds(document)
    notes += _learning_curves(document)
    notes += _noise(document["quantization_noise"])
    notes += [
        f"Left out: {row['name']} was scored under another evaluation ({', '.join(row['differs_in']) or 'unknown'} "
        "differs); score it again."
        for row in document["left_out"]
    ]
    return "\n\n".join([table, *notes]) + "\n"


def _break_even(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of calls that pay for training; an empty list without an entry."""
    if not found:
        return []
    header = ["", "against", "prompt tokens saved / call", "seconds saved / call", "training", "calls by time"]
    priced = any(entry["calls_by_cost"] is not None for entry in found)
    header += ["calls by cost"] if priced else []
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)]]
    for entry in found:
        saved = entry["saved"]
        cells = [entry["tuned"], entry["untouched"], _number(saved["prompt_tokens_per_call"], 0)]
        cells += [_number(saved["seconds_per_call"], 2), _training(entry["training"]), _calls(entry["calls_by_time"])]
        lines.append([*cells, *([_calls(entry["calls_by_cost"])] if priced else [])])
    title = "Break-even: how many calls pay for the training, against the best use of the untouched model."
    return [title, "\n".join(f"| {' | '.join(line)} |" for line in lines)]


def _seeds(document: Mapping[str, Any]) -> list[str]:
    """Return the table of the spread between training seeds; an empty list if no experiment has several seeds."""
    if not document["seeds"]:
        return []
    metrics = shown_metrics(document)
    rows = {row["name"]: row["scores"] for row in document["rows"]}
    primary = document["primary_metric"]
    labels = [metric.label for metric in metrics.values()]
    header = ["", "trainings", *labels, f"{metrics[primary].label}: 95 % interval of the first"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for spread in document["seeds"]:
        cells = [_spread(spread["scores"].get(metric)) for metric in metrics]
        interval = rows[spread["row"]].get(primary)
        lines.append([spread["row"], str(spread["trainings"]), *cells, "" if interval is None else _bounds(interval)])
    title = "Seed to seed: the mean of all trainings, and in brackets the lowest and the highest."
    return [title, "\n".join(f"| {' | '.join(line)} |" for line in lines)]


def _learning_curves(document: Mapping[str, Any]) -> list[str]:
    """Return the table of the primary metric by training rows; an empty list without a learning curve."""
    if not document["learning_curves"]:
        return []
    primary = document["primary_metric"]
    lines = [["", "share", "training rows", metric_of(document, primary).label], ["---", *["---:"] * 3]]
    for curve in document["learning_curves"]:
        for point in curve["points"]:
            rows = "" if point["rows"] is None else f"{point['rows']:,}"
            lines.append([curve["row"], f"{point['share']:.0%}", rows, _cell(point["scores"].get(primary))])
    said = [curve_in_words(curve, metric_of(document, primary)) for curve in document["learning_curves"]]
    return [
        "Learning curve: the same training on a share of its rows.",
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
        *said,
    ]


def _noise(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the table of quantization errors; an empty list if no experiment uses 4 bit."""
    if not found:
        return []
    header = ["", "from", "to", "KL, nats per token", "loss from", "loss to", "difference"]
    lines = [header, ["---", "---", "---", *["---:"] * 4]]
    for experiment, table in found.items():
        for entry in table:
            numbers = [f"{entry[key]:.4f}" for key in ("kl", "first_loss", "second_loss")]
            lines.append([experiment, entry["first"], entry["second"], *numbers, f"{entry['difference']:+.4f}"])
    title = "Quantisation noise, on the validation rows (4bit: quantised for this line only)."
    return [title, "\n".join(f"| {' | '.join(line)} |" for line in lines)]


def _calls(calls: int | None) -> str:
    return "never" if calls is None else f"{calls:,}"


def _training(training: Mapping[str, Any] | None) -> str:
    return "" if training is None else duration(training["seconds"])


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _spread(score: Mapping[str, float] | None) -> str:
    if score is None:
        return ""
    digits = 1 if abs(score["mean"]) >= 10 else 3
    return f"{score['mean']:.{digits}f} [{score['min']:.{digits}f}, {score['max']:.{digits}f}]"


def _bounds(score: Mapping[str, float]) -> str:
    digits = 1 if abs(score["value"]) >= 10 else 3
    return f"[{score['low']:.{digits}f}, {score['high']:.{digits}f}]"


def _cell(score: Mapping[str, float] | None) -> str:
    if score is None:
        return ""
    digits = 1 if abs(score["value"]) >= 10 else 3
    return f"{score['value']:.{digits}f} {_bounds(score)}"
