"""Axolotl's training YAML → an experiment."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ft_pipeline.exchange.axolotl_keys import (
    LOST,
    NOT_TRAINING,
    NOT_TRAINING_PREFIXES,
    OF_METHODS,
    ONLY_WITH,
    REFUSED,
    SPEED,
    SPEED_PREFIXES,
)
from ft_pipeline.exchange.experiment_draft import (
    ExperimentDraft,
    common_differences,
    refuse_methods,
    report_lost,
    report_packing,
    report_template,
    report_types,
    report_unknown,
    take_adam,
    take_epochs,
    take_label_smoothing,
    take_max_steps,
    take_noise,
    take_number,
    take_optimizer,
    take_schedule,
    take_seed,
    take_trackers,
    take_warmup,
)
from ft_pipeline.exchange.model_names import take_base_model
from ft_pipeline.exchange.their_settings import NotTakenOver, TheirSettings
from ft_pipeline.settings.chat_template import TemplateVariables, check_template_variables

TARGET_DEFAULT = ["q_proj", "v_proj"]
"""PEFT's target modules for Llama-like models, which theirs falls back to."""

LONG_ROWS = {"drop": "skip", "truncate": "truncate", "raise": "fail"}
"""Their way with rows that are too long → ours."""
_DROP = "excess_length_strategy (default: drop)"


def is_training(document: Any) -> bool:
    """Return whether a YAML is about a training."""
    return isinstance(document, dict) and bool(document.get("base_model")) and _has_data(document)


def _has_data(document: dict[str, Any]) -> bool:
    return bool(document.get("datasets") or document.get("pretraining_dataset"))


def draft_experiment(draft: ExperimentDraft, theirs: TheirSettings, folder: Path, objective: str) -> None:
    """Fill the draft from their settings. NotTakenOver if the method has no counterpart.

    folder: what is imported. objective: ours, as their data sets and `rl` say it.
    """
    refuse_methods(theirs, REFUSED)
    take_base_model(draft, theirs, "base_model", "revision_of_model", folder)
    rl = theirs.text("rl")
    draft.keep(theirs.say("rl") if rl else "the data sets' types", "objective", objective)
    technique = _take_technique(draft, theirs)
    _take_lora(draft, theirs, technique)
    draft.output = theirs.text("output_dir")
    draft.adapter = theirs.text("lora_model_dir")
    _take_training(draft, theirs)
    _take_lengths(draft, theirs, objective)
    if objective == "dpo":
        _take_dpo(draft, theirs)
    elif objective == "kto":
        _take_kto(draft, theirs)
    _take_evaluation(draft, theirs)
    _take_template(draft, theirs, objective)
    common_differences(draft)
    _report_rest(draft, theirs)


def method_of(theirs: TheirSettings) -> str:
    """Return the method that `rl` names, in lower case; empty for supervised training."""
    return (theirs.text("rl") or "").lower()


def objective_of(theirs: TheirSettings, types: list[str]) -> str:
    """Return our objective for `rl` and the formats of the data sets. NotTakenOver if there is none."""
    method = method_of(theirs)
    if method in ("dpo", "kto"):
        return method
    if method:
        raise NotTakenOver(
            f"`rl: {method}` has no counterpart here. Use `rl: dpo` or `kto`, or remove it for supervised training."
        )
    return "cpt" if types and set(types) == {"text"} else "sft"


def _take_technique(draft: ExperimentDraft, theirs: TheirSettings) -> str:
    """Set the technique and return it. NotTakenOver if it has no counterpart."""
    adapter = (theirs.text("adapter") or "").lower()
    four, eight = theirs.flag("load_in_4bit"), theirs.flag("load_in_8bit")
    if adapter not in ("", "none", "lora", "qlora"):
        raise NotTakenOver(f"`adapter: {adapter}` has no counterpart here. Use `lora`, `qlora` or none.")
    if eight and (four or adapter == "qlora"):
        raise NotTakenOver("A base model cannot be in 8 bits (`load_in_8bit`) and in 4. Remove one of them.")
    if adapter in ("", "none"):
        if four or eight:
            key, fitting = ("load_in_4bit", "qlora") if four else ("load_in_8bit", "lora")
            raise NotTakenOver(f"`{key}` without an adapter trains nothing. Set `adapter: {fitting}`.")
        line = theirs.say("adapter") if theirs.has("adapter") else "no adapter"
        draft.keep(line, "technique", "full")
        return "full"
    technique = "qlora" if four or adapter == "qlora" else "lora"
    line = theirs.say("adapter") + (f", {theirs.say('load_in_4bit')}" if theirs.has("load_in_4bit") else "")
    draft.keep(line, "technique", technique)
    if eight:
        effect = "Theirs holds the base model in 8 bits; ours in 16 bits, in twice the memory. `qlora` needs less."
        draft.change(theirs.say("load_in_8bit"), "technique: lora", effect)
    return technique


def _take_lora(draft: ExperimentDraft, theirs: TheirSettings, technique: str) -> None:
    names = (
        *("lora_r", "lora_alpha", "lora_dropout", "lora_target_linear", "lora_target_modules", "lora_rank_pattern"),
        *("lora_alpha_pattern", "peft_use_rslora", "peft_use_dora"),
    )
    if technique == "full":
        if unused := theirs.present(names):
            draft.lose(", ".join(unused), "Theirs does not use them without an adapter either.")
        return
    take_number(draft, theirs, "lora_r", "lora.r", 8, integer=True)
    if theirs.has("lora_alpha"):
        take_number(draft, theirs, "lora_alpha", "lora.lora_alpha", 16, integer=True)
    take_number(draft, theirs, "lora_dropout", "lora.lora_dropout", 0.0)
    _take_targets(draft, theirs)
    for key, ours in (("lora_rank_pattern", "lora.rank_pattern"), ("lora_alpha_pattern", "lora.alpha_pattern")):
        pattern = theirs.take(key)
        if isinstance(pattern, dict) and pattern:
            draft.keep(theirs.say(key), ours, pattern)
    for key, ours in (("peft_use_rslora", "lora.use_rslora"), ("peft_use_dora", "lora.use_dora")):
        if theirs.flag(key):
            draft.keep(theirs.say(key), ours, True)


def _take_targets(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    modules, linear = theirs.take("lora_target_modules"), theirs.flag("lora_target_linear")
    key = "lora.target_modules"
    if linear:
        draft.keep(theirs.say("lora_target_linear"), key, "all-linear")
    elif isinstance(modules, list) and modules:
        draft.keep(theirs.say("lora_target_modules"), key, [str(name) for name in modules])
    elif isinstance(modules, str):
        is_name = modules.replace("_", "").isalnum()
        draft.keep(theirs.say("lora_target_modules"), key, [modules] if is_name else modules)
    else:
        draft.settings[key] = TARGET_DEFAULT
        effect = "Theirs leaves the choice to PEFT, which is these two for Llama-like models."
        draft.change("no lora_target_modules", f"{key}: {', '.join(TARGET_DEFAULT)}", effect)


def _take_training(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    if not theirs.has("learning_rate"):
        raise NotTakenOver("There is no `learning_rate`, which theirs needs too. Add it and import again.")
    take_number(draft, theirs, "learning_rate", "training.learning_rate", 2e-4)
    take_epochs(draft, theirs, "num_epochs", 1.0)
    take_max_steps(draft, theirs)
    take_number(draft, theirs, "micro_batch_size", "training.per_device_train_batch_size", 1, integer=True)
    batch, micro = theirs.whole("batch_size"), draft.settings["training.per_device_train_batch_size"]
    if batch and not theirs.has("gradient_accumulation_steps"):
        draft.keep(theirs.say("batch_size"), "training.gradient_accumulation_steps", max(1, batch // micro))
    else:
        ours = "training.gradient_accumulation_steps"
        take_number(draft, theirs, "gradient_accumulation_steps", ours, 1, integer=True)
    take_optimizer(draft, theirs, "optimizer", "adamw_torch_fused")
    take_schedule(draft, theirs, "lr_scheduler", "cosine")
    take_warmup(draft, theirs, 0.03)
    take_number(draft, theirs, "weight_decay", "training.weight_decay", 0.0)
    take_number(draft, theirs, "max_grad_norm", "training.max_grad_norm", 1.0)
    if theirs.number("noisy_embedding_alpha"):
        take_number(draft, theirs, "noisy_embedding_alpha", "training.neftune_noise_alpha", 5.0)
    take_noise(draft, theirs)
    take_adam(draft, theirs)
    take_seed(draft, theirs)
    checkpointing = theirs.take("gradient_checkpointing", False)
    on = checkpointing is True or isinstance(checkpointing, str)
    line = theirs.say("gradient_checkpointing") if theirs.has("gradient_checkpointing") else "no gradient_checkpointing"
    draft.keep(line, "training.gradient_checkpointing", on)
    take_trackers(draft, theirs)


def _take_lengths(draft: ExperimentDraft, theirs: TheirSettings, objective: str) -> None:
    length = theirs.whole("sequence_len") or 512
    line = theirs.say("sequence_len") if theirs.has("sequence_len") else "sequence_len (default: 512)"
    strategy = (theirs.text("excess_length_strategy") or "drop").lower()
    draft.settings["training.max_length"] = length
    if objective == "cpt":
        effect = "The length of a block, in both. Ours cuts no text off."
        draft.change(line, f"training.max_length: {length}", effect)
    else:
        draft.keep(line, "training.max_length", length)
        line = theirs.say("excess_length_strategy") if theirs.has("excess_length_strategy") else _DROP
        draft.keep(line, "training.long_rows", LONG_ROWS.get(strategy, "skip"))
    if theirs.flag("sample_packing") and objective != "cpt":
        report_packing(draft, theirs, "sample_packing", length)


def _take_dpo(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    losses = theirs.take("dpo_loss_type", ["sigmoid"])
    losses = [losses] if isinstance(losses, str) else losses
    if losses != ["sigmoid"] or theirs.take("dpo_loss_weights"):
        raise NotTakenOver(f"{theirs.say('dpo_loss_type')} has no counterpart here. Use `dpo_loss_type: [sigmoid]`.")
    _take_beta(draft, theirs, "dpo.beta")
    take_label_smoothing(draft, theirs)


def _take_kto(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    _take_beta(draft, theirs, "kto.beta")
    take_number(draft, theirs, "kto_desirable_weight", "kto.desirable_weight", 1.0)
    take_number(draft, theirs, "kto_undesirable_weight", "kto.undesirable_weight", 1.0)


def _take_beta(draft: ExperimentDraft, theirs: TheirSettings, ours: str) -> None:
    trl = theirs.take("trl")
    nested = TheirSettings(trl, theirs.name) if isinstance(trl, dict) else None
    key = "rl_beta" if theirs.has("rl_beta") or nested is None or not nested.has("beta") else "beta"
    take_number(draft, theirs if key == "rl_beta" or nested is None else nested, key, ours, 0.1)
    if nested is not None and nested.unread():
        draft.lose(f"trl: {', '.join(nested.unread())}", LOST["trl"])


def _take_evaluation(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    draft.validation = theirs.number("val_set_size") or 0.0
    steps, per_epoch = theirs.number("eval_steps"), theirs.whole("evals_per_epoch")
    theirs.present(["eval_strategy"])
    if per_epoch:
        draft.keep(theirs.say("evals_per_epoch"), "training.evals_per_epoch", per_epoch)
    elif steps and steps >= 1:
        draft.keep(theirs.say("eval_steps"), "training.eval_steps", int(steps))
    elif steps:
        count = max(1, round(1 / steps / draft.settings["training.num_train_epochs"]))
        draft.keep(theirs.say("eval_steps"), "training.evals_per_epoch", count)
    patience = theirs.whole("early_stopping_patience")
    line = theirs.say("early_stopping_patience") if patience else "early_stopping_patience (default: never)"
    draft.keep(line, "training.early_stopping_patience", patience or None)


def _take_template(draft: ExperimentDraft, theirs: TheirSettings, objective: str) -> None:
    system = theirs.text("default_system_message")
    if system and objective != "cpt":
        draft.keep(theirs.say("default_system_message"), "data.system_prompt", system)
    template = theirs.text("chat_template")
    if template and not template.startswith("tokenizer_default"):
        report_template(draft, theirs, "chat_template")
    _take_template_variables(draft, theirs)
    report_types(draft, theirs, ["bf16", "fp16", "bfloat16", "float16", "float32"])
    if theirs.flag("dataset_exact_deduplication"):
        effect = "Ours removes equal rows in any case, and near ones too."
        draft.change(theirs.say("dataset_exact_deduplication"), "duplicates are set aside", effect)


def _take_template_variables(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    variables = theirs.take("chat_template_kwargs")
    if not variables:
        return
    try:
        kept = TypeAdapter(TemplateVariables).validate_python(variables, strict=True)
        draft.keep(theirs.say("chat_template_kwargs"), "chat_template_kwargs", check_template_variables(kept))
    except ValueError:
        effect = "Ours takes texts, numbers, true and false, for variables that no conversation sets."
        draft.lose(theirs.say("chat_template_kwargs"), effect)


def _report_rest(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    has_beta = draft.settings["objective"] in ("dpo", "kto")
    report_lost(draft, theirs, {key: effect for key, effect in LOST.items() if key != "trl" or not has_beta})
    draft.report.ignore(
        [*theirs.present([*NOT_TRAINING, *SPEED, *REFUSED]), *theirs.present_with(NOT_TRAINING_PREFIXES)]
    )
    draft.report.ignore([*theirs.present_with(SPEED_PREFIXES), *theirs.present_with(ONLY_WITH)])
    if unused := theirs.present([key for key in theirs.unread() if key in OF_METHODS]):
        draft.lose(", ".join(unused), "Theirs does not use them in this method either.")
    report_unknown(draft, theirs)
