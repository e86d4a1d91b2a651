"""What an export of a tuned model says of its prompt variant: the weights do not contain examples and passages."""

import json
from collections.abc import Iterable
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.tuned_variants import prompt_settings
from ft_pipeline.release.export.served_folder import scored_prompt
from ft_pipeline.release.export.target_folder import write_json
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import ArtifactStore

SETTINGS, PASSAGES, EXAMPLES = "prompt.json", "passages.jsonl", "examples.jsonl"


def require_prompt_texts(model: ModelReference) -> None:
    """Raise UserError if a model has no examples and no passages that could be exported."""
    if "variant" not in model.serving:
        raise UserError(f"{model.name!r} has no prompt variant, so nothing is looked up for it. Remove --with-texts.")


def write_prompt_files(store: ArtifactStore, model: ModelReference, folder: Path, *, with_texts: bool) -> None:
    """Write the settings of a tuned model's prompt variant to `folder`; nothing for a model without one.

    with_texts: also write the passages and examples, which are rows and texts of the project's data.
    """
    if "variant" not in model.serving:
        return
    write_json(folder / SETTINGS, prompt_settings(model.serving))
    if not with_texts:
        return
    prompt = scored_prompt(store, model)
    if prompt.passage_pool is not None:
        _write_lines(folder / PASSAGES, ({"text": passage} for passage in prompt.passage_pool.passages))
    examples = prompt.example_pool.examples if prompt.example_pool is not None else prompt.examples
    if examples:
        _write_lines(folder / EXAMPLES, ({"messages": list(example)} for example in examples))


def _write_lines(path: Path, rows: Iterable[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
