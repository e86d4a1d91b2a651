"""Base models in imported experiments: hub ids, folders, and the outputs of other experiments."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from ft_pipeline.exchange.experiment_draft import ExperimentDraft
from ft_pipeline.exchange.their_settings import NotTakenOver, TheirSettings


def take_base_model(draft: ExperimentDraft, theirs: TheirSettings, key: str, revision_key: str, folder: Path) -> None:
    """Set the base model. A hub id stays as it is; a folder that is there becomes its full path."""
    model = theirs.text(key)
    if not model:
        raise NotTakenOver(f"There is no `{key}`. Name the base model.")
    draft.their_model = model
    local = (folder / Path(model).expanduser()).resolve()
    if local.is_dir():
        draft.keep(theirs.say(key), "base_model", str(local))
    elif is_folder_name(model):
        draft.settings["base_model"] = model
        draft.change(
            theirs.say(key),
            f"base_model: {model}",
            "This folder is not here. Correct `base_model`, or import again with --base-model.",
        )
    else:
        draft.keep(theirs.say(key), "base_model", model)
    revision = theirs.text(revision_key)
    if revision and revision != "main":
        draft.keep(theirs.say(revision_key), "revision", revision)


def is_folder_name(model: str) -> bool:
    """Return whether a name cannot be a hub id (`owner/name`), so that it is a path."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model


def link_chains(drafts: Sequence[ExperimentDraft], merged: Mapping[str, str]) -> None:
    """Set `start_from` where an experiment starts from what another one wrote.

    merged: the folder of a merged model → the folder of the adapter in it.
    """
    outputs = {_normal(draft.output): draft for draft in drafts if draft.output}
    outputs |= {_normal(folder): outputs[_normal(of)] for folder, of in merged.items() if _normal(of) in outputs}
    for draft in drafts:
        start = draft.adapter or draft.their_model or ""
        earlier = outputs.get(_normal(start))
        if earlier is not None and earlier is not draft:
            draft.keep(f"starts from {start}", "start_from", earlier.name)
        elif draft.adapter:
            effect = "No imported experiment writes this adapter, so ours starts from the base model."
            draft.lose(f"starts from {start}", effect)
    by_name = {draft.name: draft for draft in drafts}
    for draft in drafts:
        _same_base(draft, by_name)


def _same_base(draft: ExperimentDraft, by_name: dict[str, ExperimentDraft]) -> None:
    """Give an experiment the base model of the first one in its chain. Their files chain output folders."""
    seen, first = {draft.name}, draft
    while (previous := first.settings.get("start_from")) is not None:
        if previous in seen:
            raise NotTakenOver(f"{draft.source} starts from itself, by way of {previous}. Correct the output folders.")
        seen.add(previous)
        first = by_name[previous]
    for key in ("base_model", "revision", "chat_template_kwargs"):
        if key in first.settings:
            draft.settings[key] = first.settings[key]
        else:
            draft.settings.pop(key, None)


def _normal(path: str | None) -> str:
    return str(PurePosixPath((path or "").rstrip("/")))


def replace_base_models(drafts: Sequence[ExperimentDraft], model: str) -> None:
    """Set the base model of all experiments to one that the user names."""
    local = Path(model).expanduser()
    name = str(local.resolve()) if local.is_dir() else model
    for draft in drafts:
        theirs = draft.settings.get("base_model", "none")
        draft.settings["base_model"] = name
        draft.settings.pop("revision", None)
        if theirs != name and draft.settings.pop("chat_template_kwargs", None):
            effect = "Another chat template may have other variables. Set `chat_template_kwargs` if it has them."
            draft.lose("chat_template_kwargs", effect)
        if theirs != name:
            draft.change(f"base model {theirs}", f"base_model: {name}", "You named this base model with --base-model.")
