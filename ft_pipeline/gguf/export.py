"""Export a model as GGUF files, each with what it costs against the merged model."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.score import describe_score
from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.gguf.modelfile import Modelfiles
from ft_pipeline.gguf.scored_files import ScoredFiles
from ft_pipeline.models.generation_config import generation_config_as_scored, load_tokenizer_lazily
from ft_pipeline.release.card.usage import what_weights_lack
from ft_pipeline.release.export.huggingface import GENERATION_CONFIG
from ft_pipeline.release.export.target_folder import ReportBytes, copy_file, draft_folder, write_json
from ft_pipeline.release.intact import require_intact_artifact
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.atomic_files import translate_write_errors

_USAGE = "## How to use"


@dataclass(frozen=True)
class GgufExport:
    """The GGUF files that an export would write."""

    model: ModelReference
    """Of kind `merged`."""
    target: Path
    scored: ScoredFiles
    types: Sequence[str]
    failures: Mapping[str, Sequence[str]]
    """By type, what its file fails at the gate, as clauses."""
    merged_model: Path
    """The folder of the merged model, whose tokenizer and generation config apply."""
    modelfiles: Modelfiles

    @property
    def paths(self) -> list[Path]:
        return [self.scored.path(name) for name in self.types]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)


def require_mergeable(model: ModelReference) -> ModelReference:
    """Return the model in its merged form. UserError if it was not trained, or has no merged weights."""
    if model.kind not in TUNED:
        raise UserError(f"{model.name!r} was not trained, so there is no GGUF file of it. Choose an experiment.")
    if model.serving["technique"] == "prompt_tuning":
        raise UserError(
            f"{model.name!r} is a learned prompt without merged weights, so there is no GGUF file of it. Export it "
            "without --format gguf."
        )
    return model.as_kind("merged")


def require_writable(target: Path) -> None:
    """Raise UserError if `target` cannot be written, before the long work."""
    existing = next(folder for folder in (target, *target.parents) if folder.exists())
    try:
        Path(tempfile.mkdtemp(prefix=".export-", dir=existing)).rmdir()
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}). Choose another folder.") from error


def plan_gguf(
    store: ArtifactStore,
    model: ModelReference,
    target: Path,
    scored: ScoredFiles,
    types: Sequence[str],
    *,
    limits: Mapping[str, float],
    force: bool,
    modelfiles: Modelfiles,
) -> GgufExport:
    """Return what to write to `target`, a free folder.

    limits: GgufLimits. Raises UserError if a file fails the gate, unless `force`.
    """
    failures = {name: scored.failures(name, limits) for name in types}
    if any(failures.values()) and not force:
        reasons = ". ".join(f"{name}: {'; '.join(clauses)}" for name, clauses in failures.items() if clauses)
        raise UserError(
            f"The GGUF file fails its gate. {reasons}. Choose a larger type, raise evaluation.gguf in project.yaml, or "
            "export it with --force."
        )
    require_intact_artifact(store, scored.files)
    merged_model = store.require("merged_model", model.fingerprints["merged_model"])
    return GgufExport(model, target, scored, types, failures, merged_model.path, modelfiles)


def write_gguf(
    plan: GgufExport, describe: Callable[[Path], None], report_bytes: ReportBytes = lambda count: None
) -> None:
    """Write the folder, completely or not at all: the files, a Modelfile of each, and how to decode as scored.

    describe: writes the model card and what else is said about the files, as in write_export. Raises UserError if the
    disk is full or not writable.
    """
    decoding = generation_config_as_scored(plan.merged_model, load_tokenizer_lazily(plan.merged_model))
    with translate_write_errors(), draft_folder(plan.target) as folder:
        for path in plan.paths:
            copy_file(path, folder / path.name, report_bytes)
        for name, text in plan.modelfiles.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        write_json(folder / GENERATION_CONFIG, decoding)
        describe(folder)


def adapt_card(card: str, plan: GgufExport) -> str:
    """Return the card of the merged model with the GGUF files, their costs, and how to use them."""
    before, _, rest = card.replace("library_name: transformers", "library_name: gguf", 1).partition(f"{_USAGE}\n")
    after = rest[rest.index("\n## ") + 1 :]
    return f"{before}{_USAGE}\n\n{_usage(plan)}\n\n## GGUF files\n\n{files_table(plan)}\n\n{after}"


def files_table(plan: GgufExport) -> str:
    """Return the files and their costs as Markdown."""
    lines = ["| file | MB | loss per token | KL per token | agreement | identical |", "|---|---:|---:|---:|---:|---:|"]
    for name in plan.types:
        costs, path = plan.scored.costs(name), plan.scored.path(name)
        numbers = [describe_score(costs.loss_increase, 4, sign="+"), describe_score(costs.kl, 4)]
        numbers += [describe_score(costs.agreement), describe_score(costs.identical)]
        lines.append(f"| {path.name} | {path.stat().st_size / 1e6:.1f} | {' | '.join(numbers)} |")
    notes = [note for name in plan.types if (note := plan.scored.entry(name)["note"])]
    explanation = (
        "Scored by llama.cpp on the held-out rows, against the merged model in 32 bit, with 95 % intervals. "
        "Agreement: share of the answers that are the merged model's own, up to the first token whose two best "
        "candidates differ by less than 0.1 nats. Identical: share of the answers that are the same as a whole."
    )
    return "\n\n".join(["\n".join(lines), explanation, *notes])


def _usage(plan: GgufExport) -> str:
    prompt = plan.model.serving.get("system_prompt")
    command = f"```sh\nllama-server -m {plan.paths[0].name} --jinja\n```"
    text = f"{command}\n\nThe file contains the chat template, and decodes greedily."
    if plan.modelfiles.texts:
        name = next(iter(plan.modelfiles.texts))
        text += f" With Ollama:\n\n```sh\nollama create my-model -f {name}\n```"
    else:
        text += f"\n\nThere is no Modelfile for Ollama. {plan.modelfiles.problem}"
    if prompt:
        quoted = "\n".join(f"> {line}" for line in prompt.splitlines())
        text += f" It was scored with this system prompt, which must come first:\n\n{quoted}"
    lacks = what_weights_lack(plan.model.serving)
    scored = "\n\nThe GGUF files were scored without these additions." if lacks else ""
    return f"{text}\n\n{lacks}{scored}" if lacks else text


def results(plan: GgufExport) -> Mapping[str, object]:
    """Return by type what was exported, for `--json`."""
    return {
        name: {
            **plan.scored.entry(name),
            "costs": plan.scored.costs(name).model_dump(),
            "failures": list(plan.failures[name]),
        }
        for name in plan.types
    }
