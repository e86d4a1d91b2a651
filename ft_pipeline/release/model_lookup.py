"""Find a model by name: its artifacts in the store, and the prompt that it was scored with.

A name is `champion`, an experiment (its merged model, or the adapter if the technique has none), or a row of the
comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ft_pipeline.decide.comparison import Row
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.released import MODEL_OF, ChampionRecord
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.model_kinds import WORD_MODEL
from ft_pipeline.evaluation.scoring.prompt_sources import CONVERSATIONS, TEXT
from ft_pipeline.evaluation.tuned_variants import scored_with, serving_of, variants_in
from ft_pipeline.release.candidates import check_results
from ft_pipeline.release.champion import current
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, current_artifact
from ft_pipeline.store.spec import NAME_DIGITS, ArtifactReference

CHAMPION = "champion"
_WEIGHTS = ("base_model", "adapter", "merged_model")
_NO_SOURCES: dict[str, ArtifactReference] = {}


@dataclass(frozen=True)
class ModelReference:
    """A model in the store, with everything that is needed to export or serve it."""

    name: str
    """The requested name."""
    kind: Literal["base", "prompt", "adapter", "merged", "classifier"]
    row: str
    """Its row in the comparison; for an experiment, the row that it would have."""
    experiment: str | None
    fingerprints: Mapping[str, str]
    """By role: `base_model`, and for a tuned model `adapter` and `merged_model`; for a classifier only `word_model`."""
    serving: Mapping[str, Any]
    """How to load and prompt it: `system_prompt`; for a tuned model `technique` and `quantization`, under a prompt
    variant its settings (see tuned_variants.serving_of). Empty for a base model."""
    conversations: ArtifactReference
    """The conversations artifact that it was trained on, or that its examples come from."""
    seed: int = 0
    """The seed that selected the few-shot examples."""
    prompt_sources: Mapping[str, ArtifactReference] = field(default_factory=dict)
    """What the examples and passages of its prompt come from: `conversations` and `text`, as it was scored."""
    record: ChampionRecord | None = field(default=None, compare=False)
    """The champion record, if it is the champion: who released it, and why."""

    @property
    def released_fingerprint(self) -> str:
        """The fingerprint of the model in this form, as `Candidate.fingerprint`. For a prompt variant that is not the
        champion: that of its weights."""
        if self.record is not None:
            return self.record.fingerprint
        return self.fingerprints[MODEL_OF.get(self.kind, "base_model")]

    def as_kind(self, kind: Literal["adapter", "merged"]) -> "ModelReference":
        """Return the same tuned model in this form. The champion record is kept only if the form does not change."""
        if kind == self.kind:
            return self
        return replace(self, kind=kind, row=f"{self.experiment}/{kind}", record=None)


def find_model(store: ArtifactStore, name: str) -> ModelReference:
    """Return the model of that name. Raises UserError if there is none, if it is the teacher, or if a check failed."""
    if name == CHAMPION:
        record = current(store.root)
        if record is None:
            raise UserError("There is no champion yet. Run `ft run` or `ft promote NAME` to release a model.")
        return model_of_record(store, record)
    return _find_experiment_model(store, name) or _find_row_model(store, name)


def model_of_record(store: ArtifactStore, record: ChampionRecord) -> ModelReference:
    """Return the model that a champion record released."""
    fingerprints = {role: record.fingerprints[role] for role in record.fingerprints if role in _WEIGHTS}
    if record.kind == "classifier":
        return _classifier(store, CHAMPION, record.name, record.fingerprint, record)
    served = record.evidence["served"]
    seed, sources = 0, _NO_SOURCES
    if record.kind == "prompt":
        seed, sources = _prompt_sources(_promoted_prompt_baseline(store, record))
        conversations = sources[CONVERSATIONS]
    else:
        conversations = _training_conversations(store, fingerprints["merged_model"])
        if "variant" in served:
            comparison = store.require("comparison", record.evidence["comparison"])
            seed, sources = _prompt_sources(store.require(*comparison.inputs[f"{record.experiment}/scores"]))
    return ModelReference(
        CHAMPION,
        record.kind,
        record.name,
        record.experiment,
        fingerprints,
        serving_of(served),
        conversations,
        seed,
        sources,
        record=record,
    )


def _prompt_sources(scores: Artifact) -> tuple[int, dict[str, ArtifactReference]]:
    """Return the seed that selected examples in some scores, and what the prompts come from."""
    sources = {role: reference for role, reference in scores.inputs.items() if role in (CONVERSATIONS, TEXT)}
    return scores.spec["config"]["evaluation"]["seed"], sources


def _find_experiment_model(store: ArtifactStore, name: str) -> ModelReference | None:
    """Return the model of an experiment's last run, or None if there is none. It need not be in the comparison.

    Raises UserError if one of its checks failed.
    """
    pointer = AssetPointers(store.root).read("merged_model", name)
    if pointer is None:
        return None
    merged = store.require(pointer.kind, pointer.fingerprint)
    training_data = store.require(*merged.inputs["training_data"])
    failed = [check for check, passed in check_results(training_data.summary, merged.summary).items() if not passed]
    if failed:
        raise UserError(
            f"{name} failed the check {failed[0]}. See the checks of training_data and merged_model, fix the cause, "
            f"and run `ft run --experiment {name}`."
        )
    settings = merged.spec["config"]["experiment"]
    serving = {
        "technique": settings["technique"],
        "quantization": settings["quantization"] if settings["technique"] == "qlora" else None,
        "system_prompt": training_data.spec["config"]["experiment"]["data"]["system_prompt"],
    }
    if training_data.spec["config"]["experiment"]["data"].get("reasoning") == "drop":
        serving["reasoning"] = "drop"
    fingerprints = {role: merged.inputs[role][1] for role in ("base_model", "adapter")}
    fingerprints["merged_model"] = merged.fingerprint
    kind: Literal["adapter", "merged"] = "adapter" if merged.summary["mode"] == "none" else "merged"
    conversations = training_data.inputs["conversations"]
    return ModelReference(name, kind, f"{name}/{kind}", name, fingerprints, serving, conversations)


def _find_row_model(store: ArtifactStore, name: str) -> ModelReference:
    """Return the model of a row of the current comparison. Raises UserError if there is no such row, or no model."""
    comparison_artifact = current_artifact(store, "comparison")
    comparison = read_comparison(comparison_artifact) if comparison_artifact else None
    rows = comparison.rows if comparison else ()
    row = comparison.row(name) if comparison else None
    if comparison_artifact is None or row is None:
        raise UserError(f"There is no model {name!r} in this project. {_advise_names(store, rows)}")
    if row.kind == "teacher":
        raise UserError(
            f"{name!r} is the teacher, which this project only uses and does not contain. {_advise_names(store, rows)}"
        )
    if row.kind == "gguf":
        raise UserError(
            f"{name!r} is a GGUF file of {row.experiment}/merged. Export it with `ft export {row.experiment} DIR "
            f"--format gguf --quantize {name.rpartition('-')[2]}`."
        )
    scores = store.require(*comparison_artifact.inputs[row.source])
    if row.kind == "classifier":
        return _classifier(store, name, name, scores.inputs[WORD_MODEL][1])
    if row.rights.without_model:
        raise UserError(f"{name!r} gives answers of the training rows, and is no model. {_advise_names(store, rows)}")
    if row.kind in ("adapter", "merged"):
        return _tuned_row_model(store, scores, row, row.kind)
    fingerprints = {"base_model": scores.inputs["base_model"][1]}
    serving = variants_in(scores.spec["config"])[row.source_row] if row.kind == "prompt" else {}
    seed, sources = _prompt_sources(scores)
    kind: Literal["base", "prompt"] = "prompt" if row.kind == "prompt" else "base"
    return ModelReference(name, kind, name, None, fingerprints, serving, sources[CONVERSATIONS], seed, sources)


def _classifier(
    store: ArtifactStore, name: str, row: str, fingerprint: str, record: ChampionRecord | None = None
) -> ModelReference:
    conversations = store.require(WORD_MODEL, fingerprint).inputs["conversations"]
    parts = {WORD_MODEL: fingerprint}
    return ModelReference(name, "classifier", row, None, parts, {}, conversations, record=record)


def _tuned_row_model(
    store: ArtifactStore, scores: Artifact, row: Row, kind: Literal["adapter", "merged"]
) -> ModelReference:
    fingerprints = {role: scores.inputs[role][1] for role in _WEIGHTS}
    serving = serving_of(scored_with(scores.spec["config"], row.source_row))
    conversations = _training_conversations(store, fingerprints["merged_model"])
    seed, sources = _prompt_sources(scores) if row.variant else (0, _NO_SOURCES)
    return ModelReference(row.name, kind, row.name, row.experiment, fingerprints, serving, conversations, seed, sources)


def _training_conversations(store: ArtifactStore, merged_model: str) -> ArtifactReference:
    """Return the conversations that a merged model (its fingerprint) was trained on."""
    merged = store.require("merged_model", merged_model)
    return store.require(*merged.inputs["training_data"]).inputs["conversations"]


def _promoted_prompt_baseline(store: ArtifactStore, record: ChampionRecord) -> Artifact:
    """Return the prompt_baseline artifact with the scores on which a prompt variant was promoted.

    The variant's examples come from the conversations of that artifact.
    """
    comparison = store.require("comparison", record.evidence["comparison"])
    for key, reference in sorted(comparison.inputs.items()):
        if key.endswith("/prompt_baseline") and not key.startswith(f"{CHAMPION}/"):
            baseline = store.require(*reference)
            variants = variants_in(baseline.spec["config"])
            same_base = baseline.inputs["base_model"][1] == record.fingerprints["base_model"]
            if same_base and variants.get(record.name.partition("@")[0]) == record.evidence["served"]:
                return baseline
    raise UserError(
        f"The scores on which {record.name} was promoted are not in comparison {comparison.fingerprint[:NAME_DIGITS]}. "
        f"Promote it again: `ft promote {record.name} --force --reason TEXT`."
    )


def _advise_names(store: ArtifactStore, rows: Sequence[Row]) -> str:
    """Return the advice for an unknown name, as a sentence."""
    experiments = [
        pointer.partition
        for pointer in AssetPointers(store.root).all()
        if pointer.asset == "merged_model" and pointer.partition
    ]
    row_names = [row.name for row in rows if row.kind not in ("teacher", "search", "constant")]
    champion = [CHAMPION] if current(store.root) else []
    names = ", ".join(dict.fromkeys([*champion, *experiments, *row_names]))
    return f"Choose one of {names}." if names else "Run `ft run` first."
