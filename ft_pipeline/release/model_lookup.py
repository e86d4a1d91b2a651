"""Resolve a name to the artifacts of a model that may leave the store, and to the prompt it was scored with.

A name is `champion`, an experiment (its merged model, or the adapter if the technique has none), or a row of the
comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.records import ComparisonRow, read_comparison
from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.release.champion import ChampionRecord, current
from ft_pipeline.release.promotion import gates
from ft_pipeline.store.artifacts import NAME_DIGITS, Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers

CHAMPION = "champion"
Reference = tuple[str, str]
"""(kind, fingerprint) of an artifact."""


@dataclass(frozen=True)
class ModelReference:
    """A model of the store, with everything that is needed to export or serve it."""

    name: str
    """The requested name."""
    kind: Literal["base", "prompt", "adapter", "merged"]
    row: str
    """Its row of the comparison; for an experiment, the row that it would have."""
    experiment: str | None
    parts: Mapping[str, str]
    """Fingerprints by role: `base_model`, and for a tuned model `adapter` and `merged_model`."""
    served: Mapping[str, Any]
    """`system_prompt`; for tuned models `technique` and `quantization`, for a prompt variant `few_shot`."""
    conversations: Reference
    """The rows that it was trained on, or that its examples come from."""
    seed: int = 0
    """The seed that selected the few-shot examples."""
    record: ChampionRecord | None = field(default=None, compare=False)
    """The champion record, if it is the champion: who released it, and why."""

    @property
    def released(self) -> str:
        """The fingerprint of the released artifact."""
        if self.kind in TUNED:
            return self.parts["merged_model" if self.kind == "merged" else "adapter"]
        return self.record.fingerprint if self.record else self.parts["base_model"]

    def as_kind(self, kind: Literal["adapter", "merged"]) -> "ModelReference":
        """Return the given form of the same tuned model. Only the released form keeps the champion record."""
        if kind == self.kind:
            return self
        return replace(self, kind=kind, row=f"{self.experiment}/{kind}", record=None)


def find_model(store: ArtifactStore, name: str) -> ModelReference:
    """Return the model of that name. Raises UserError if the store has none, or if it is the teacher."""
    if name == CHAMPION:
        record = current(store.root)
        if record is None:
            raise UserError("There is no champion yet. Run `ft run` or `ft promote NAME` to release a model.")
        return of_record(store, record)
    return _experiment(store, name) or _row(store, name)


def of_record(store: ArtifactStore, record: ChampionRecord) -> ModelReference:
    """Return the model that a champion record released."""
    parts = {role: record.fingerprints[role] for role in record.fingerprints if role != "prompt_variant"}
    served = record.evidence["served"]
    if record.kind == "prompt":
        baseline = _where_it_was_scored(store, record)
        seed = baseline.spec["config"]["evaluation"]["seed"]
        conversations = baseline.inputs["conversations"]
    else:
        seed, conversations = 0, _learned_from(store, parts["merged_model"])
    return ModelReference(
        CHAMPION, record.kind, record.name, record.experiment, parts, served, conversations, seed, record=record
    )


def comparison_of(store: ArtifactStore) -> Artifact | None:
    """Return the current comparison, or None if there is none."""
    pointer = AssetPointers(store.root).read("comparison")
    return store.open(pointer.kind, pointer.fingerprint) if pointer else None


def _experiment(store: ArtifactStore, name: str) -> ModelReference | None:
    """Return the model of the experiment's last run, compared or not. Raises UserError if one of its checks failed."""
    pointer = AssetPointers(store.root).read("merged_model", name)
    if pointer is None:
        return None
    merged = store.require(pointer.kind, pointer.fingerprint)
    data = store.require(*merged.inputs["training_data"])
    failed = [gate for gate, passed in gates(data.summary, merged.summary).items() if not passed]
    if failed:
        raise UserError(
            f"{name} failed the check {failed[0]}. See the checks of training_data and merged_model, fix the cause, "
            f"and run `ft run --experiment {name}`."
        )
    settings = merged.spec["config"]["experiment"]
    served = {
        "technique": settings["technique"],
        "quantization": settings["quantization"] if settings["technique"] == "qlora" else None,
        "system_prompt": data.spec["config"]["experiment"]["data"]["system_prompt"],
    }
    parts = {role: merged.inputs[role][1] for role in ("base_model", "adapter")} | {"merged_model": merged.fingerprint}
    kind: Literal["adapter", "merged"] = "adapter" if merged.summary["mode"] == "none" else "merged"
    return ModelReference(name, kind, f"{name}/{kind}", name, parts, served, data.inputs["conversations"])


def _row(store: ArtifactStore, name: str) -> ModelReference:
    compared = comparison_of(store)
    rows = read_comparison(compared).rows if compared else []
    row = next((row for row in rows if row.name == name), None)
    if compared is None or row is None:
        raise UserError(f"There is no model {name!r} in this project. {_choice(store, rows)}")
    if row.kind == "teacher":
        raise UserError(
            f"{name!r} is the teacher, which this project only uses and does not contain. {_choice(store, rows)}"
        )
    scored = store.require(*compared.inputs[row.source])
    if row.kind in ("adapter", "merged"):
        parts = {role: scored.inputs[role][1] for role in ("base_model", "adapter", "merged_model")}
        keys = ("technique", "quantization", "system_prompt")
        served = {key: scored.spec["config"][key] for key in keys}
        learned = _learned_from(store, parts["merged_model"])
        return ModelReference(name, row.kind, name, row.experiment, parts, served, learned)
    parts = {"base_model": scored.inputs["base_model"][1]}
    variants = scored.spec["config"]["prompting"]["variants"]
    served = variants[row.source_row] if row.kind == "prompt" else {}
    seed = scored.spec["config"]["evaluation"]["seed"]
    kind: Literal["base", "prompt"] = "prompt" if row.kind == "prompt" else "base"
    return ModelReference(name, kind, name, None, parts, served, scored.inputs["conversations"], seed)


def _learned_from(store: ArtifactStore, merged_model: str) -> Reference:
    merged = store.require("merged_model", merged_model)
    return store.require(*merged.inputs["training_data"]).inputs["conversations"]


def _where_it_was_scored(store: ArtifactStore, record: ChampionRecord) -> Artifact:
    """Return the prompt baseline on which a prompt variant was promoted: its examples come from those rows."""
    comparison = store.require("comparison", record.evidence["comparison"])
    for key, reference in sorted(comparison.inputs.items()):
        if key.endswith("/prompt_baseline"):
            baseline = store.require(*reference)
            variants = baseline.spec["config"]["prompting"]["variants"]
            same_base = baseline.inputs["base_model"][1] == record.fingerprints["base_model"]
            if same_base and variants.get(record.name) == record.evidence["served"]:
                return baseline
    raise UserError(
        f"The scores on which {record.name} was promoted are not in comparison {comparison.fingerprint[:NAME_DIGITS]}. "
        f"Promote it again: `ft promote {record.name} --force --reason TEXT`."
    )


def _choice(store: ArtifactStore, rows: Sequence[ComparisonRow]) -> str:
    """Return the advice for an unknown name, as a sentence."""
    pointers = [
        pointer.partition
        for pointer in AssetPointers(store.root).all()
        if pointer.asset == "merged_model" and pointer.partition
    ]
    named = [row.name for row in rows if row.kind != "teacher"]
    champion = [CHAMPION] if current(store.root) else []
    names = ", ".join(dict.fromkeys([*champion, *pointers, *named]))
    return f"Choose one of {names}." if names else "Run `ft run` first."
