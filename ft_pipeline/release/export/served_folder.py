"""Write the folder that an engine serves: the model's files, its prompt in the chat template, decoding as scored."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.scoring.prompt_sources import CONVERSATIONS, read_prompt
from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.evaluation.tuned_variants import looks_up, prompt_settings
from ft_pipeline.models.chat import pick_examples
from ft_pipeline.models.generation_config import generation_config_as_scored, load_tokenizer_lazily
from ft_pipeline.models.serving_engines import TurnForm
from ft_pipeline.models.turn_stream import AnswerForm
from ft_pipeline.release.export.chat_template import (
    Message,
    template_with_prompt,
    template_with_variables,
    template_with_whole_turns,
)
from ft_pipeline.release.export.huggingface import GENERATION_CONFIG, model_files
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import ArtifactStore

TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"


def require_servable(model: ModelReference) -> None:
    """Raise UserError, with the reason, if an engine would not answer as the model was scored."""
    if model.kind == "adapter" and model.serving["technique"] == "prompt_tuning":
        raise UserError(
            f"{model.name!r} is a learned prompt (virtual tokens), which no serving engine supports here. Load it with "
            f"PEFT (`ft export {model.name} DIR`), or serve another model."
        )
    if model.kind == "adapter":
        raise UserError(
            f"{model.name!r} is an unmerged adapter, which an engine rounds differently from how it was scored. Serve "
            f"its merged model: `ft serve {model.experiment}`."
        )
    if not Path(model.name).parts or Path(model.name).is_absolute() or ".." in Path(model.name).parts:
        raise UserError(f"{model.name!r} cannot be the name of a served model. Give the variant a plain name.")


@dataclass(frozen=True)
class ServedFolder:
    """A folder that an engine serves."""

    path: Path
    form: AnswerForm
    """How the model writes answers."""
    tokenizer: Any
    """The model's tokenizer. Its chat template contains the prompt, and takes turns as they are."""
    prompt: Prompt | None = None
    """The prompt, if it is different for each request: then it is not in the chat template."""


def write_served_folder(
    store: ArtifactStore, model: ModelReference, folder: Path, *, turns: TurnForm = "as_sent"
) -> ServedFolder:
    """Write `folder`/NAME for an engine: links to the store's files, chat template, generation config.

    NAME is the model's name. An engine that is started in `folder` uses this relative path as the name of the model.
    turns: how the engine is sent turns. packed: if calls can be read, `transformers serve` returns answers with the
    control tokens in them.
    """
    kind = "merged_model" if model.kind == "merged" else "base_model"
    weights = store.require(kind, model.fingerprints[kind])
    served = folder / model.name
    served.mkdir(parents=True)
    for name, path in model_files(weights).items():
        (served / name).symlink_to(path.resolve())
    tokenizer = load_tokenizer_lazily(weights.path)
    decoding = generation_config_as_scored(weights.path, tokenizer)
    (served / GENERATION_CONFIG).write_text(json.dumps(decoding, indent=2) + "\n", encoding="utf-8")
    template, prompt = tokenizer.get_chat_template(), None
    if looks_up(model.serving):
        prompt = scored_prompt(store, model)
    else:
        template = template_with_prompt(
            template,
            model.serving.get("system_prompt"),
            _few_shot_examples(store, model),
            replace_system=model.serving.get("replace_system", False),
        )
    tokenizer.chat_template = template
    form = AnswerForm.of(tokenizer)
    if turns == "packed" and form.family is not None:
        _return_unread_answers(served / TOKENIZER_CONFIG, form)
        template = template_with_whole_turns(template)
    if turns == "variables":
        template = template_with_variables(template)
    (served / TEMPLATE_NAME).unlink(missing_ok=True)
    (served / TEMPLATE_NAME).write_text(template, encoding="utf-8")
    return ServedFolder(served, form, tokenizer, prompt)


def scored_prompt(store: ArtifactStore, model: ModelReference) -> Prompt:
    """Return the prompt of a model under a prompt variant: from the texts and rows of its scores."""
    sources = {role: store.require(*reference).path for role, reference in model.prompt_sources.items()}
    return read_prompt(sources, prompt_settings(model.serving), model.seed)


def _return_unread_answers(config: Path, form: AnswerForm) -> None:
    """Change the tokenizer's config: `transformers serve` returns all of an answer up to its stop token as content."""
    settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    settings["response_template"] = {
        "start_anchor_pattern": r"\Z",  # the end of the prompt; without it, the prompt is a part of the answer
        "defaults": {"role": "assistant"},
        "fields": {"content": {"content": "text", "close": list(form.stops)}},
    }
    config.unlink(missing_ok=True)
    config.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _few_shot_examples(store: ArtifactStore, model: ModelReference) -> list[list[Message]]:
    """Return the fixed examples of a model's prompt."""
    count, named = model.serving.get("few_shot", 0), model.serving.get("example_rows", ())
    if not count:
        return []
    source = model.prompt_sources.get(CONVERSATIONS, model.conversations)
    rows = pq.read_table(store.require(*source).path / "rows.parquet").to_pylist()
    return [list(example) for example in pick_examples(rows, count, model.seed, named)]
