"""The Modelfile of an exported GGUF file: what of a trained model it needs (release/export/ollama.py)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.gguf.ollama import ServedPrompt, modelfile
from ft_pipeline.gguf.scored_files import ScoredFiles
from ft_pipeline.models.generation_config import load_tokenizer_lazily
from ft_pipeline.release.card.usage import what_weights_lack
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import ArtifactStore

MODELFILE = "Modelfile"
"""The name of Ollama's file in an export of one type; of several, `Modelfile.TYPE`."""


@dataclass(frozen=True)
class Modelfiles:
    """The Modelfiles of an export, one for each GGUF file."""

    texts: Mapping[str, str] = field(default_factory=dict)
    """By name in the export. Empty if there can be none."""
    problem: str | None = None
    """Why there is none."""


def modelfiles_of(
    store: ArtifactStore, model: ModelReference, scored: ScoredFiles, types: Sequence[str], license_name: str | None
) -> Modelfiles:
    """Return the Modelfiles of a tuned model's GGUF files, or why Ollama cannot write its prompts.

    license_name: that of the base model, if it is known.
    """
    longest = max(row["max_new_tokens"] for row in scored.scores.summary["rows"])
    try:
        texts = {
            MODELFILE if len(types) == 1 else f"{MODELFILE}.{name}": _modelfile_of(
                store, model, scored.path(name), longest, license_name
            )
            for name in types
        }
    except UserError as error:
        return Modelfiles(problem=str(error))
    return Modelfiles(texts)


def _modelfile_of(
    store: ArtifactStore, model: ModelReference, gguf: Path, answer_tokens: int, license_name: str | None
) -> str:
    """Return the Modelfile of a GGUF file of a tuned model. answer_tokens: the longest answer while it was scored.

    Raises UserError, with the reason, if Ollama would not write the prompt that the model was scored with.
    """
    if what_weights_lack(model.serving):
        raise UserError(
            "Its prompt has examples or passages of your data, which Ollama does not look up. Use `ft serve`, or add "
            "them in your application."
        )
    merged_model = store.require("merged_model", model.fingerprints["merged_model"])
    calls_tools, reasons = _kinds_of_answers(store, model)
    architecture, adds_bos = _gguf_facts(gguf)
    return modelfile(
        gguf.name,
        tokenizer=load_tokenizer_lazily(merged_model.path),
        prompt=ServedPrompt(
            model.serving["system_prompt"],
            replace_system=model.serving.get("replace_system", False),
            calls_tools=calls_tools,
            reasons=reasons,
        ),
        window=_context_window(merged_model.path),
        adds_bos=adds_bos,
        architecture=architecture,
        answer_tokens=answer_tokens,
        license_text=license_name,
    )


def _kinds_of_answers(store: ArtifactStore, model: ModelReference) -> tuple[bool, bool]:
    """Return whether the rows that the model learned from have calls of tools, and whether they have reasoning."""
    rows = store.require(*model.conversations).path / "rows.parquet"
    calls_tools = reasons = False
    for batch in pq.ParquetFile(rows).iter_batches(columns=["messages"]):
        for messages in batch.column(0).to_pylist():
            calls_tools = calls_tools or any(turn.get("tool_calls") for turn in messages)
            reasons = reasons or any(turn.get("reasoning_content") for turn in messages)
    return calls_tools, reasons


def _gguf_facts(gguf: Path) -> tuple[str, bool]:
    """Return the architecture in a GGUF file, and whether llama.cpp adds a BOS token to its prompts."""
    from gguf import GGUFReader

    fields: dict[str, Any] = GGUFReader(gguf).fields
    adds_bos = fields.get("tokenizer.ggml.add_bos_token")
    return str(fields["general.architecture"].contents()), bool(adds_bos is not None and adds_bos.contents())


def _context_window(folder: Path) -> int | None:
    """Return the context window in the config.json of a model folder; None if it has none."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    window: int | None = config.get("text_config", config).get("max_position_embeddings")
    return window
