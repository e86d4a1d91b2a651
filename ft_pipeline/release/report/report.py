"""Write a comparison as one self-contained HTML file: recommendation, scores, and the answers side by side."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.decide.comparison import CHAMPION, Comparison, Row
from ft_pipeline.decide.documents import read_advice, read_comparison
from ft_pipeline.decide.findings.cost_lines import cost_lines
from ft_pipeline.decide.first_screen import lights, risks
from ft_pipeline.decide.plots import change_picture
from ft_pipeline.decide.requirements import Requirements
from ft_pipeline.decide.screened_out import screened_out
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.deciding_metric import SECOND_KEY
from ft_pipeline.evaluation.comparison.estimates import item_gains
from ft_pipeline.evaluation.comparison.result_records import Changes
from ft_pipeline.evaluation.error_analysis.worse_answers import WorseAnswers
from ft_pipeline.release.candidates import find_candidates, released_row
from ft_pipeline.release.report.answers import (
    MAX_ITEMS,
    Samples,
    before_and_after,
    conversations_of,
    escape_invisible,
    side_by_side,
)
from ft_pipeline.release.report.checks import check_values
from ft_pipeline.release.report.errors import explain_worse_answers
from ft_pipeline.release.report.flipped_probes import base_check_values
from ft_pipeline.release.report.leads import lead_plot
from ft_pipeline.release.report.scores import data_uri, further_section, score_values, searches
from ft_pipeline.release.report.verdicts import Verdicts
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, current_artifact

TEMPLATE_NAME = "report.html.jinja"
FILE_NAME = "report.html"
DECISION_TEXTS = {
    "prompt": "Prompt the base model.",
    "retrieval": "Give the base model the passages that it lacks (retrieval).",
    "classifier": "Use the classifier, which needs no language model.",
    "search": "Look the answer up among the training rows.",
    "prompt_tuning": "Fine-tune with a learned prompt (prompt tuning).",
    "distillation": "Distill the teacher: let it write more training data.",
    "lora": "Fine-tune with LoRA.",
    "qlora": "Fine-tune with QLoRA.",
    "full": "Fine-tune all weights.",
    "more_data": "Collect more data before you decide.",
    "train": "Train before you decide.",
    "rate": "Rate answers before you decide.",
    "measure": "Measure what the verdict names before you decide.",
    "keep": "Keep the present model.",
    "none": "No model can go out.",
}
"""By the recommendation's `decision`."""
KIND_TEXTS = {
    "base": "the base model without training and without a prompt",
    "adapter": "fine-tuned, as small added weights (an adapter) on its base model",
    "merged": "fine-tuned, as one model with the trained weights merged in",
    "gguf": "the merged model as a GGUF file, scored by llama.cpp",
    "champion": "the released model",
    "teacher": "the teacher, which writes training data",
    "contender": "another model, whose answers were compared",
    "calibrated": "the base model without training, which chooses among the labels",
    "constant": "without a language model: always the same answer",
    "search": "without a language model: the answer of the most similar training question",
    "classifier": "without a language model: words and characters of the question choose among the training answers",
}
"""By the kind of the row. For `prompt` see _TemplateValues._describe_prompt."""


def current_report(store: ArtifactStore) -> Artifact:
    """Return the report of the current comparison and champion. UserError if there is none, or if it is out of date."""
    artifact = current_artifact(store, "report")
    if artifact is None:
        raise UserError("There is no report yet. Run `ft run`.")
    for asset in artifact.inputs:
        current = AssetPointers(store.root).read(asset)
        if current is not None and current.fingerprint != artifact.inputs[asset][1]:
            raise UserError(f"The report is older than the current {asset}. Run `ft run` to update it.")
    return artifact


def render_report(
    store: ArtifactStore,
    comparison_artifact: Artifact,
    decision: Artifact,
    recommendation: Artifact,
    champion: Artifact | None,
    project: Mapping[str, Any],
) -> tuple[str, WorseAnswers | None]:
    """Return the HTML, and the answers that got worse; None if nothing was tuned.

    champion: the artifact of that asset. project: `name` and `task` in project.yaml.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    comparison = read_comparison(comparison_artifact)
    recommended, decided = recommendation.document("recommendation.json"), decision.document("decision.json")
    chosen = decided["verdict"]["row"] or recommended["row"] or recommended["evidence"]["tuned"]
    values = _TemplateValues(store, comparison_artifact, comparison)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # any text may come from a user or a model
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=escape_invisible,
    )
    promotion = champion.summary if champion else {}
    worse = explain_worse_answers(store, comparison_artifact, comparison, values.samples, values.conversations)
    text = environment.get_template(TEMPLATE_NAME).render(
        title=project["name"],
        task=project["task"],
        items=comparison.test_items,
        conversations=comparison.test_rows,
        compared_at=comparison_artifact.manifest["created"][:16].replace("T", " ") + " UTC",
        verdict=decided["verdict"],
        recommendation=DECISION_TEXTS.get(recommended["decision"], recommended["decision"]),
        reasons=recommended["reasons"],
        requirements=Requirements.of(decided).section(),
        champion=promotion.get("champion"),
        reasons_not_moved=[] if promotion.get("moved") else promotion.get("reasons", []),
        identity=_provenance(comparison, comparison_artifact, decision, recommendation, champion),
        **values.first_screen(chosen, decided),
        released=_released_row(store, comparison_artifact, comparison, promotion.get("champion")),
        **score_values(comparison, values.describe, comparison.row(chosen)),
        **values.answers(chosen),
        worse=worse,
        **base_check_values(store, comparison_artifact, comparison, chosen),
        **values.checks(chosen),
        prompts=values.prompts(),
        searches=searches(store, comparison_artifact),
        further=[further_section(advice) for advice in read_advice(store, recommendation.inputs)],
    )
    return text, worse


class _TemplateValues:
    """Makes the values for the template from a comparison and its samples."""

    def __init__(self, store: ArtifactStore, comparison_artifact: Artifact, comparison: Comparison) -> None:
        self.store = store
        self.artifact = comparison_artifact
        self.comparison = comparison
        self.primary = comparison.metric()

    def checks(self, chosen: str | None) -> dict[str, Any]:
        """Return what the checks of the project found. chosen: the row of the verdict."""
        values = check_values(self.comparison, chosen)
        drawn = values["confusion_picture"]
        return {**values, "confusion_picture": data_uri(drawn) if drawn else None}

    def first_screen(self, chosen: str | None, decided: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the first screen shows of the row that the verdict names. decided: decision.json."""
        row = self.comparison.row(chosen)
        exposure, looks = decided["exposure"], decided["looks"].get(chosen, 0)
        return {
            "chosen": chosen,
            "lights": lights(self.comparison, row, exposure) if row else [],
            "risks": risks(self.comparison, row, exposure, looks) if row else [],
            "who": self._who(row),
            "costs_of_1000": cost_lines(self.comparison, row) if row else [],
            "has_prices": any(entry.cost_per_call is not None for entry in self.comparison.rows),
            "leads": lead_plot(self.comparison, row),
        }

    def _who(self, row: Row | None) -> list[dict[str, str]]:
        """Return what the chosen row is, and what it is measured against."""
        rows = [row, self.comparison.best_bar(row)] if row else []
        named = {entry.name: entry for entry in rows if entry}
        return [{"name": name, "description": self.describe(entry)} for name, entry in named.items()]

    def _before_and_after(self, chosen: str | None) -> tuple[Row, Row] | None:
        """Return the rows of the first answers: what the chosen row replaces (the champion, or the best use of its base
        model), and the chosen row. If it replaces nothing: the best baseline and the best tuned row."""
        row, champion = self.comparison.row(chosen), self.comparison.row(CHAMPION)
        if row is not None and row.name not in self.samples:  # nobody sees its answers
            row = None
        is_champion = row is not None and champion is not None and row.scores == champion.scores
        before = self.comparison.best_bar(row) if champion is None or is_champion else champion
        if row is not None and before is not None and before.name != row.name:
            return before, row
        if (changes := self.comparison.changes) is None:
            return None
        before, row = self.comparison.row(changes.before), self.comparison.row(changes.after)
        return (before, row) if before and row else None

    def _first_answers(self, chosen: str | None, turns: Mapping[str, Any]) -> dict[str, Any]:
        """Return three answers of two rows, before and after."""
        samples, metric = self.samples, self.comparison.primary
        found = self._before_and_after(chosen)
        if found is None:
            return {"first_answers": [], "answers_before": "", "answers_after": ""}
        before, row = found
        if self.comparison.is_silent(row, before):
            metric = SECOND_KEY
        gains = item_gains(samples, (before.name, row.name), metric, self.comparison.metric(metric))
        return {
            "first_answers": before_and_after(
                samples, turns, (before.name, row.name), gains, Verdicts.of(self.store, self.artifact).describe
            ),
            "answers_before": before.name,
            "answers_after": row.name,
        }

    def answers(self, chosen: str | None) -> dict[str, Any]:
        """Return the answers for the template, and what tuning changed in them. chosen: the row of the verdict."""
        samples, changes = self.samples, self.comparison.changes
        gains = None
        if changes:
            gains = item_gains(samples, (changes.before, changes.after), changes.metric, self.primary)
        turns = self.conversations
        items = side_by_side(samples, turns, (self.comparison.primary, self.primary), gains)
        return {
            **self._first_answers(chosen, turns),
            "samples": items,
            "shown": len(items),
            "primary_of_item": self.primary.title,
            "changes": self._changes(changes, gains) if changes and gains is not None else None,
        }

    def prompts(self) -> list[dict[str, str]]:
        """Return the full system prompts of the rows that have one."""
        prompts = [(row, self._prompt_facts[row.name].get("system_prompt")) for row in self.comparison.rows]
        return [
            {"name": row.name, "description": self.describe(row), "system_prompt": prompt}
            for row, prompt in prompts
            if prompt
        ]

    def describe(self, row: Row) -> str:
        """Return what the row is, as part of a sentence."""
        if row.kind == "prompt":
            return f"the base model without training, with {self._describe_prompt(row)}"
        end = f", with {self._describe_prompt(row)}" if row.variant else ""
        end += f", which ends on {row.ends}" if row.ends else ""
        return KIND_TEXTS[row.kind] + (f" ({row.technique})" if row.technique else "") + end

    def _describe_prompt(self, row: Row) -> str:
        prompt = self._prompt_facts[row.name]
        parts = []
        if prompt.get("system_prompt"):
            parts.append("a system prompt")
        if prompt.get("few_shot", 0):
            parts.append(f"{prompt['few_shot']} {prompt.get('examples', 'fixed')} examples")
        if prompt.get("passages"):
            parts.append(f"{prompt['passages']} passages")
        return " and ".join(parts) or "no prompt"

    @cached_property
    def _prompt_facts(self) -> dict[str, Mapping[str, Any]]:
        """By row name, the facts about its prompt (`system_prompt`, `few_shot`, `passages`)."""
        return {row.name: self._read_prompt_facts(row) for row in self.comparison.rows}

    def _read_prompt_facts(self, row: Row) -> Mapping[str, Any]:
        """Return the facts about the row's prompt from its scores."""
        scores = self.store.require(*self.artifact.inputs[row.source])
        scored_row = next(entry for entry in scores.document("scores.json")["rows"] if entry["name"] == row.source_row)
        return scored_row["model"]

    @cached_property
    def samples(self) -> Samples:
        """The answers by row name, in the order of the items, but for rows that were screened out."""
        out = screened_out(self.comparison)
        by_row: dict[str, list[dict[str, Any]]] = {row.name: [] for row in self.comparison.rows if row.name not in out}
        filters = [("name", "in", list(by_row))]
        for sample in pq.read_table(self.artifact.path / "samples.parquet", filters=filters).to_pylist():
            by_row[sample["name"]].append(sample)
        return {name: sorted(samples, key=lambda sample: sample["item"]) for name, samples in by_row.items()}

    @cached_property
    def conversations(self) -> dict[str, list[dict[str, str]]]:
        """The messages of the test conversations, by id."""
        return conversations_of(self.store, self.artifact, self.comparison)

    def _changes(self, changes: Changes, gains: Sequence[float]) -> dict[str, Any]:
        return {
            "before": changes.before,
            "after": changes.after,
            "improved": changes.improved,
            "same": changes.unchanged,
            "regressed": changes.regressed,
            "picture": data_uri(change_picture(gains, self.primary)),
        }


def _released_row(
    store: ArtifactStore, comparison_artifact: Artifact, comparison: Comparison, champion: Mapping[str, Any] | None
) -> str | None:
    """Return the name of the champion's row; None if there is no champion, or it has no score in the comparison."""
    candidates, _ = find_candidates(comparison_artifact, store)
    return released_row(comparison, candidates, champion["fingerprint"]) if champion else None


def _provenance(comparison: Comparison, *artifacts: Artifact | None) -> list[tuple[str, str]]:
    """Return (name, value) pairs that identify what the report shows."""
    versions = ", ".join(
        f"{name} {version}" for name, version in sorted(comparison.evaluation.get("versions", {}).items())
    )
    return [
        *((artifact.kind, artifact.fingerprint) for artifact in artifacts if artifact),
        ("evaluation", comparison.fingerprint or ""),
        *([("measured with", versions)] if versions else []),
        ("rules", comparison.rules),
        ("maximum items shown", str(MAX_ITEMS)),
    ]
