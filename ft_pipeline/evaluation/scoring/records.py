"""What a scored model leaves behind: scores.json, and a record per test answer, general question and document."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics
from ft_pipeline.evaluation.scoring.fingerprint import Parts
from ft_pipeline.evaluation.scoring.reference_tokens import byte_count
from ft_pipeline.models.tool_calls import Call
from ft_pipeline.tables.formats.turns import Message, spoken_text

Record = dict[str, Any]
GENERAL = pa.schema(
    [
        ("name", pa.string()),
        ("item", pa.string()),
        ("kind", pa.string()),
        ("subject", pa.string()),
        ("correct", pa.bool_()),
        ("loss_sum", pa.float64()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
"""general.parquet: `kind` is question (with `correct`) or text (with `loss_sum` in nats, `tokens` and `bytes`)."""
TASKS = pa.schema([("name", pa.string()), ("item", pa.string()), ("metric", pa.string()), ("value", pa.float64())])
"""tasks.parquet: a value per document and metric of the lm-eval tasks."""
VALIDATION = pa.schema(
    [
        ("name", pa.string()),
        ("item", pa.string()),
        ("group", pa.string()),
        ("content_nats", pa.float64()),
        ("content_bytes", pa.int64()),
    ]
)
"""validation.parquet: the likelihood of the reference answers of the validation split."""
NATS = {"loss_sum": pa.float64(), "content_nats": pa.float64(), "stop_nats": pa.float64()}
"""Columns of samples.parquet that may have no value in any row, with their types."""


@dataclass(frozen=True)
class Likelihood:
    """How likely a reference answer is. In nats, lower is likelier."""

    loss_sum: float | None = None
    """Of all target tokens. None: the model gives no likelihoods, as those behind an endpoint."""
    content_nats: float | None = None
    """Of the text alone (reference_tokens.py). None also if the tokenizer loses references."""
    stop_nats: float | None = None
    """Of the control token that ends the turn. None also if the template writes none."""


@dataclass(frozen=True)
class Answer:
    """A model's own answer to a test item."""

    text: str
    """As the text of a reference: a line for each call of a tool."""
    finish_reason: str
    prompt_tokens: int | None
    generated_tokens: int
    calls: Sequence[Call] = ()


def text_and_calls(turn: Message) -> tuple[str, Sequence[Call]]:
    """Return an answer's text, as that of a reference, and its calls of tools."""
    return spoken_text(turn).strip(), turn.get("tool_calls") or ()


def sample_record(
    item: Item, prompt: str, reference_tokens: int, likelihood: Likelihood, answer: Answer, metrics: AnswerMetrics
) -> Record:
    """Return a record of samples.parquet. reference_tokens: the number of tokens of the reference, with its ending."""
    content_bytes, answer_bytes = byte_count(item.reference), byte_count(answer.text)
    return {
        "item": item.id,
        "group": item.group,
        "question_key": item.question_key,
        "prompt": prompt,
        "reference": item.reference,
        "answer": answer.text,
        **vars(likelihood),
        "content_bytes": content_bytes,
        "answer_bytes": answer_bytes,
        "answer_tokens": reference_tokens,
        **metrics.score_answer(item, answer.text, answer.calls),
        "length_ratio": answer_bytes / max(1, content_bytes),
        "prompt_tokens": answer.prompt_tokens,
        "generated_tokens": answer.generated_tokens,
        "finish_reason": answer.finish_reason,
    }


def summarize_samples(samples: Sequence[Record], answer_metrics: AnswerMetrics) -> dict[str, float]:
    """Return a row's scores: likelihoods and length ratio as ratios of sums over all items, the others as means."""
    likelihoods = {
        "nats_per_byte": _ratio(samples, "content_nats", "content_bytes"),
        "loss": _ratio(samples, "loss_sum", "answer_tokens"),
        "stop_nats": _mean(samples, "stop_nats"),
    }
    return {
        **{name: value for name, value in likelihoods.items() if value is not None},
        **answer_metrics.means(samples),
        "length_ratio": sum(sample["answer_bytes"] for sample in samples)
        / max(1, sum(sample["content_bytes"] for sample in samples)),
    }


def _ratio(samples: Sequence[Record], numerator: str, denominator: str) -> float | None:
    if any(sample[numerator] is None for sample in samples):
        return None
    return sum(sample[numerator] for sample in samples) / max(1, sum(sample[denominator] for sample in samples))


def _mean(samples: Sequence[Record], column: str) -> float | None:
    values = [sample[column] for sample in samples]
    return None if None in values else fmean(values)


def summarize_general(general: Sequence[Record]) -> dict[str, float]:
    """Return `accuracy` over the questions and `nats_per_byte` of the texts; a key is absent if there are none."""
    questions = [record["correct"] for record in general if record["kind"] == "question"]
    texts = [record for record in general if record["kind"] == "text"]
    scores = {}
    if questions:
        scores["accuracy"] = fmean(questions)
    if texts:
        scores["nats_per_byte"] = sum(text["loss_sum"] for text in texts) / sum(text["bytes"] for text in texts)
    return scores


def write_scores(
    out: Path,
    rows: Sequence[Record],
    parts: Parts,
    records: dict[str, list[Record]],
    metrics: dict[str, dict[str, Any]],
) -> None:
    """Write scores.json and the records as Parquet.

    records: `samples`, `general`, `tasks` and `validation`, every record with the `name` of its row. metrics: the
    metrics that only this project has, with the fields of Metric.
    """
    document = {"rows": list(rows), "evaluation": parts, "metrics": metrics}
    (out / "scores.json").write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
    pq.write_table(_samples_table(records["samples"]), out / "samples.parquet")
    for name, schema in (("general", GENERAL), ("tasks", TASKS), ("validation", VALIDATION)):
        pq.write_table(pa.Table.from_pylist(records[name], schema=schema), out / f"{name}.parquet")


def _samples_table(samples: Sequence[Record]) -> pa.Table:
    """Return samples.parquet. Columns of NATS keep their type even where no row has a value."""
    table = pa.Table.from_pylist(list(samples))
    fields = [field.with_type(NATS[field.name]) if field.name in NATS else field for field in table.schema]
    return table.cast(pa.schema(fields))
