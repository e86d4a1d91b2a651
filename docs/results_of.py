"""What a finished project found, as plain JSON: scores, leads, verdict, own targets, times, and their origin."""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.decide.comparison import CHAMPION, Comparison, Row
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.likelihood_evidence import LIKELIHOODS
from ft_pipeline.decide.notes import shown_metrics
from ft_pipeline.decide.plots import lead_picture
from ft_pipeline.decide.sentences import say
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.estimates import item_gains
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.project import Project
from ft_pipeline.release.report.answers import Samples, before_and_after, conversations_of
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, current_artifact

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import machine  # the benchmarks are scripts, not a package

SHORTEST_STEP = 1.0
"""Steps that took fewer seconds are not listed one by one."""
WINDOW = 5
"""Steps over which rewards are averaged, at the begin and at the end of a training."""
PACKAGES = ("python", "torch", "transformers", "peft", "trl", "lm-eval")
"""Packages whose versions are listed."""
KINDS = {
    "base": "base model, no prompt",
    "adapter": "adapter on its base model",
    "merged": "tuned model",
    "constant": "one answer to everything",
    "search": "the answer to the most similar training question",
    "classifier": "word counts, no language model",
    "calibrated": "base model, its choice among the labels",
}
"""What the rows of a kind are."""
UNKNOWN_STEP = "There is no %s in %s. Run `ft run --project %s` first."


class FinishedProject:
    """A project whose comparison, decision and recommendation are in its store."""

    def __init__(self, root: Path) -> None:
        self.project = Project(root)
        self.store = ArtifactStore(self.project.store)
        self.compared = self._current("comparison")
        self.comparison: Comparison = read_comparison(self.compared)
        self.decision = self._current("decision").document("decision.json")
        self.recommendation = self._current("recommendation").document("recommendation.json")

    @property
    def chosen(self) -> Row | None:
        """The row of the verdict."""
        return self.comparison.row(self.decision["verdict"]["row"])

    def picture(self) -> bytes | None:
        """Return the leads over the best baseline as a PNG."""
        return lead_picture(self.comparison)

    def to_json(self, command: str, note: str, threads: int) -> dict[str, Any]:
        """Return the results.

        command: what was run. note: what else ran on the machine. threads: those that a worker had.
        """
        return _rounded(
            {
                "date": self.compared.manifest["created"][:10],
                "command": command,
                "note": note,
                **self._origin(threads),
                "rows_read": self._counts(),
                "metric": self.comparison.primary,
                "labels": {name: metric.label for name, metric in shown_metrics(self.comparison).items()},
                "decided_by": self.comparison.decided_by,
                "verdict": self.decision["verdict"],
                "recommendation": self.recommendation["decision"],
                "reasons": self.recommendation["reasons"],
                "rows": {row.name: self._row(row) for row in self.comparison.rows},
                "leads": self._leads(),
                "own_targets": self._own_targets(),
                "trainings": self._trainings(),
                "kept_prompts": [entry.describe() for entry in self.comparison.kept_prompts],
                "answers": self._answers(),
                "seconds": self._seconds(),
            }
        )

    def _current(self, asset: str) -> Artifact:
        artifact = current_artifact(self.store, asset)
        if artifact is None:
            raise UserError(UNKNOWN_STEP % (asset, self.project.root, self.project.root))
        return artifact

    def _origin(self, threads: int) -> dict[str, Any]:
        manifest = self.compared.manifest
        hardware, packages = manifest["hardware"], manifest["packages"]
        here = machine.describe()
        same = here["cpu"] == hardware["processor"]
        return {
            "version": manifest["code"]["version"],
            "commit": manifest["code"]["commit"],
            "machine": {
                "cpu": hardware["processor"],
                "instruction_sets": here["instruction_sets"] if same else None,
                "emulated_by": here["emulated_by"] if same else None,
                "cores": hardware["cores"],
                "threads": threads,
                "memory_gb": round(hardware["memory_bytes"] / 1e9),
                "computed_in": next((row.computed_in for row in self.comparison.rows if row.computed_in), None),
            },
            "packages": {name: packages[name] for name in PACKAGES if name in packages},
        }

    def _counts(self) -> dict[str, Any]:
        """Return the numbers of rows: those of the evaluation, and those that each experiment trained on."""
        trained = {
            pointer.partition: self._summary(pointer).get("audit", {}).get("rows")
            for pointer in self._pointers
            if pointer.asset == "training_data"
        }
        return {
            "test_conversations": self.comparison.test_rows,
            "test_answers": self.comparison.test_items,
            "training": trained,
        }

    @cached_property
    def _pointers(self) -> list[Any]:
        return AssetPointers(self.store.root).all()

    def _summary(self, pointer: Any) -> Mapping[str, Any]:
        return self.store.require(pointer.kind, pointer.fingerprint).summary

    def _row(self, row: Row) -> dict[str, Any]:
        kept = self.comparison.about(row, "general")
        return {
            "kind": row.kind,
            "what": self._describe(row),
            "experiment": row.experiment,
            "learned_from": row.learned_from,
            "usable": self.comparison.usable(row),
            "scores": {name: _ends(score) for name, score in row.scores.items()},
            "cut_off": row.cut_off / self.comparison.test_items,
            "faults": {rail.measure: rail.value for rail in self.comparison.about(row, "rail")},
            "forgetting": f"{say(self.comparison, kept[0])}." if kept else None,
            "prompt_tokens": row.prompt_tokens_per_call,
            "generated_tokens": row.generated_tokens_per_call,
            "seconds_per_call": row.seconds_per_call,
            "trained_parameters": row.trainable_params,
            "training_seconds": row.training.seconds if row.training else None,
            **self._against_the_best_prompt(row),
        }

    def _describe(self, row: Row) -> str:
        if row.kind == "prompt":
            return f"base model, {self._prompt(row.name)}"
        technique = f" ({row.technique})" if row.technique and row.kind in TUNED else ""
        return KINDS.get(row.kind, row.kind) + technique

    def _prompt(self, name: str) -> str:
        variant = self.project.settings.scored_prompts().get(name)
        if variant is None:
            return "a prompt"
        parts = ["a system prompt"] if variant.system_prompt else []
        retrieved = "the most similar training rows as " if variant.examples == "retrieved" else ""
        parts += [f"{retrieved}{variant.few_shot} examples"] if variant.few_shot else []
        parts += [f"{variant.passages} passages"] if variant.passages else []
        return " and ".join(parts)

    def _against_the_best_prompt(self, row: Row) -> dict[str, Any]:
        """Return the lead over the best untouched use of the base model: in percent of its value, and in how many test
        answers. Empty for that row, where no likelihood decides, and for rows of which it says nothing."""
        rival, name = self.comparison.best_bar(row), self.comparison.primary
        lead = self.comparison.lead_over(row, rival) if rival else None
        if rival is None or lead is None or rival.name == row.name or name not in LIKELIHOODS:
            return {}
        if self.comparison.is_silent(row, rival):
            return {}
        scale = 100 / rival.scores[name].value
        gains = item_gains(self._samples, (rival.name, row.name), name, self.comparison.metric())
        return {
            "best_prompt": rival.name,
            "better_by_percent": [None if each is None else each * scale for each in _ends(lead)],
            "better_answers": sum(gain > 0 for gain in gains),
        }

    @cached_property
    def _samples(self) -> Samples:
        by_row: dict[str, list[dict[str, Any]]] = {row.name: [] for row in self.comparison.rows}
        for sample in pq.read_table(self.compared.path / "samples.parquet").to_pylist():
            by_row[sample["name"]].append(sample)
        return {name: sorted(samples, key=lambda sample: sample["item"]) for name, samples in by_row.items()}

    def _leads(self) -> dict[str, Any]:
        """Return the paired leads of the rows that may be released, over each other row, by metric."""
        found: dict[str, dict[str, Any]] = {}
        for lead in self.comparison.of_kind("lead"):
            row = self.comparison.row(lead.row)
            if row is not None and row.kind in (*TUNED, "prompt", CHAMPION) and lead.value is not None:
                found.setdefault(f"{lead.row} over {lead.rival}", {})[lead.measure] = [lead.value, lead.low, lead.high]
        return found

    def _own_targets(self) -> dict[str, Any]:
        found: dict[str, list[dict[str, Any]]] = {}
        for target in self.comparison.own_targets:
            entry = {
                "objective": target.objective,
                "label": target.label,
                "values": target.values,
                "change": target.change,
                "verdict": target.verdict,
                "conversations": target.conversations,
            }
            found.setdefault(target.experiment, []).append(entry)
        return found

    def _answers(self) -> list[dict[str, Any]]:
        """Return three test questions with the answers of the untouched model, of its best prompt and of the chosen
        one (the best tuned one, if a row without a training is chosen): the median gain over the best prompt, the 90th
        percentile, the lowest gain."""
        tuned = next(iter(self.comparison.tuned()), None)
        after = self.chosen if self.chosen and self.chosen.rights.is_tuned else tuned
        before = self.comparison.plain(after)
        if after is None or before is None or self.comparison.why_screened_out(after):
            return []
        best = self.comparison.best_prompt(after) or before
        rows, metric = (best.name, after.name), self.comparison.primary
        gains = item_gains(self._samples, rows, metric, self.comparison.metric())
        turns = conversations_of(self.store, self.compared, self.comparison)
        untouched = {sample["item"]: sample["answer"] for sample in self._samples[before.name]}
        return [
            {
                **entry,
                "models": [before.name, after.name],
                "best_prompt": best.name,
                "before": untouched[entry["item"]],
                "prompted": entry["before"],
            }
            for entry in before_and_after(self._samples, turns, rows, gains, lambda *_: "")
        ]

    def _trainings(self) -> dict[str, Any]:
        """Return what each training recorded: its numbers, its evaluations, and the rewards of its first and last
        steps."""
        adapters = [pointer for pointer in self._pointers if pointer.asset == "adapter"]
        return {
            pointer.partition: _training(self.store.require(pointer.kind, pointer.fingerprint)) for pointer in adapters
        }

    def _seconds(self) -> dict[str, Any]:
        """Return the seconds of the steps whose results are current, and their sum."""
        taken: dict[str, float] = {}
        for pointer in self._pointers:
            artifact = self.store.open(pointer.kind, pointer.fingerprint)
            if artifact is not None:
                name = f"{pointer.asset}[{pointer.partition}]" if pointer.partition else pointer.asset
                taken[name] = artifact.manifest["run"].get("seconds", 0.0)
        steps = {name: seconds for name, seconds in taken.items() if seconds >= SHORTEST_STEP}
        return {"all_steps": sum(taken.values()), "steps": steps}


def _training(adapter: Artifact) -> dict[str, Any]:
    numbers = {key: value for key, value in adapter.summary.items() if isinstance(value, int | float)}
    path = adapter.path / "metrics.jsonl"
    log = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    drawn = [entry for entry in log if "reward" in entry]
    found = {
        **numbers,
        "seconds_per_step": numbers["seconds"] / max(1, numbers["steps"]),
        "evaluations": [entry for entry in log if "eval_loss" in entry],
    }
    if drawn:
        found |= {
            "rewards_of_first_steps": _rewards(drawn[:WINDOW]),
            "rewards_of_last_steps": _rewards(drawn[-WINDOW:]),
        }
    return found


def _rewards(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each reward over some steps."""
    names = [name for name in entries[0] if name.startswith("reward")]
    return {name: statistics.fmean(entry[name] for entry in entries) for name in names}


def _ends(score: Score) -> list[float | None]:
    return [score.value, score.low, score.high]


def _rounded(value: Any) -> Any:
    """Return JSON in which each number has six significant digits: more than any page shows."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(each) for each in value]
    return value
