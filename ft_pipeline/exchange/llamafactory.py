"""LLaMA-Factory's training YAML → an experiment."""

from pathlib import Path
from typing import Any

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
from ft_pipeline.exchange.llamafactory_keys import (
    LOST,
    MULTIMODAL_PREFIXES,
    NOT_TRAINING,
    NOT_TRAINING_PREFIXES,
    ONLY_WITH,
    REFUSED,
    SPEED,
    SPEED_PREFIXES,
)
from ft_pipeline.exchange.model_names import take_base_model
from ft_pipeline.exchange.their_settings import NotTakenOver, TheirSettings

OBJECTIVES = {"sft": "sft", "dpo": "dpo", "kto": "kto", "pt": "cpt"}
"""Their stage → our objective."""
DEFAULT_RANK = 8


def is_training(document: Any) -> bool:
    """Return whether a YAML is about a training, and not about serving, merging or an accelerator."""
    if not isinstance(document, dict) or not document.get("model_name_or_path"):
        return False
    return bool(document.get("dataset")) and bool(document.get("do_train", "stage" in document))


def draft_experiment(draft: ExperimentDraft, theirs: TheirSettings, folder: Path) -> None:
    """Fill the draft from their settings. NotTakenOver if the method has no counterpart. folder: what is imported."""
    stage = (theirs.text("stage") or "sft").lower()
    if stage not in OBJECTIVES:
        raise NotTakenOver(f"The stage {stage!r} has no counterpart here. Use `stage: sft`, `dpo`, `kto` or `pt`.")
    refuse_methods(theirs, REFUSED)
    take_base_model(draft, theirs, "model_name_or_path", "model_revision", folder)
    draft.keep(theirs.say("stage") if theirs.has("stage") else "stage (default: sft)", "objective", OBJECTIVES[stage])
    technique = _take_technique(draft, theirs)
    if technique != "full":
        _take_lora(draft, theirs)
    draft.data_sets = _names(theirs.take("dataset"))
    draft.output = theirs.text("output_dir")
    draft.adapter = theirs.text("adapter_name_or_path")
    _take_training(draft, theirs)
    _take_lengths(draft, theirs, stage)
    if stage == "dpo":
        _take_dpo(draft, theirs)
    elif stage == "kto":
        _take_kto(draft, theirs)
    _take_evaluation(draft, theirs)
    _take_template(draft, theirs)
    _take_precision(draft, theirs, technique)
    common_differences(draft)
    _report_rest(draft, theirs)


def evaluation_sets(theirs: TheirSettings) -> list[str]:
    """Return the names of the data sets on which theirs evaluates."""
    return _names(theirs.take("eval_dataset"))


def _names(value: Any) -> list[str]:
    names = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    return [str(name).strip() for name in names if str(name).strip()]


def _take_technique(draft: ExperimentDraft, theirs: TheirSettings) -> str:
    """Set the technique and return it. NotTakenOver if it has no counterpart."""
    method = (theirs.text("finetuning_type") or "lora").lower()
    line = theirs.say("finetuning_type") if theirs.has("finetuning_type") else "finetuning_type (default: lora)"
    bits = theirs.whole("quantization_bit")
    backend = str(theirs.take("quantization_method", "bnb")).lower().rpartition(".")[2]
    if method not in ("lora", "full"):
        raise NotTakenOver(f"`finetuning_type: {method}` has no counterpart here. Use `lora` or `full`.")
    if bits is not None and (bits != 4 or method == "full" or backend not in ("bnb", "bitsandbytes")):
        raise NotTakenOver(
            f"A base model in {bits} bits ({backend}, {method}) has no counterpart here. Use `finetuning_type: lora` "
            "with `quantization_bit: 4`, or without it."
        )
    if bits is None:
        draft.keep(line, "technique", method)
        return method
    draft.keep(f"{line}, {theirs.say('quantization_bit')}", "technique", "qlora")
    kind = theirs.text("quantization_type") or "nf4"
    double = theirs.flag("double_quantization", default=True)
    draft.keep(f"quantization_type: {kind}", "quantization.bnb_4bit_quant_type", kind)
    draft.keep(f"double_quantization: {str(double).lower()}", "quantization.bnb_4bit_use_double_quant", double)
    return "qlora"


def _take_lora(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    take_number(draft, theirs, "lora_rank", "lora.r", DEFAULT_RANK, integer=True)
    twice = 2 * draft.settings["lora.r"]
    if theirs.has("lora_alpha"):
        take_number(draft, theirs, "lora_alpha", "lora.lora_alpha", twice, integer=True)
    else:
        draft.keep(f"lora_alpha (default: 2 × rank = {twice})", "lora.lora_alpha", twice)
    take_number(draft, theirs, "lora_dropout", "lora.lora_dropout", 0.0)
    target = theirs.take("lora_target", "all")
    modules = _names(target)
    line = theirs.say("lora_target") if theirs.has("lora_target") else "lora_target (default: all)"
    draft.keep(line, "lora.target_modules", "all-linear" if modules in (["all"], []) else modules)
    for key in ("use_rslora", "use_dora"):
        if theirs.flag(key):
            draft.keep(theirs.say(key), f"lora.{key}", True)


def _take_training(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    take_number(draft, theirs, "learning_rate", "training.learning_rate", 5e-5)
    take_epochs(draft, theirs, "num_train_epochs", 3.0)
    take_max_steps(draft, theirs)
    name = "training.per_device_train_batch_size"
    take_number(draft, theirs, "per_device_train_batch_size", name, 8, integer=True)
    name = "training.gradient_accumulation_steps"
    take_number(draft, theirs, "gradient_accumulation_steps", name, 1, integer=True)
    take_optimizer(draft, theirs, "optim", "adamw_torch")
    take_schedule(draft, theirs, "lr_scheduler_type", "linear")
    take_warmup(draft, theirs, 0.0)
    take_number(draft, theirs, "weight_decay", "training.weight_decay", 0.0)
    take_number(draft, theirs, "max_grad_norm", "training.max_grad_norm", 1.0)
    take_noise(draft, theirs)
    take_adam(draft, theirs)
    take_seed(draft, theirs)
    theirs.present(["data_seed"])
    off = theirs.flag("disable_gradient_checkpointing")
    line = f"disable_gradient_checkpointing{': true' if off else ' (default: false)'}"
    draft.keep(line, "training.gradient_checkpointing", not off)
    take_trackers(draft, theirs)


def _take_lengths(draft: ExperimentDraft, theirs: TheirSettings, stage: str) -> None:
    length = theirs.whole("cutoff_len") or 2048
    line = theirs.say("cutoff_len") if theirs.has("cutoff_len") else "cutoff_len (default: 2048)"
    draft.settings["training.max_length"] = length
    if stage == "pt":
        draft.change(line, f"training.max_length: {length}", "The length of a block, in both. Ours cuts no text off.")
    else:
        draft.settings["training.long_rows"] = "truncate"
        effect = (
            "Theirs shortens the prompt and the answer of a longer row in proportion; ours cuts off its end, and "
            "leaves it out if no answer remains."
        )
        draft.change(line, f"training.max_length: {length}, long_rows: truncate", effect)
    if theirs.flag("packing") and stage != "pt":
        report_packing(draft, theirs, "packing", length)
    theirs.present(["packing", "neat_packing"])
    if theirs.flag("enable_liger_kernel"):
        effect = "The same results. Set `training.use_liger_kernel: true` on a GPU for Liger's kernels."
        draft.change(theirs.say("enable_liger_kernel"), "", effect)


def _take_dpo(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    loss = (theirs.text("pref_loss") or "sigmoid").lower()
    if loss != "sigmoid":
        raise NotTakenOver(f"`pref_loss: {loss}` has no counterpart here. Use `pref_loss: sigmoid`.")
    if theirs.number("pref_ftx"):
        raise NotTakenOver("`pref_ftx` adds the SFT loss, which has no counterpart here. Remove it.")
    take_number(draft, theirs, "pref_beta", "dpo.beta", 0.1)
    take_label_smoothing(draft, theirs)


def _take_kto(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    if theirs.number("pref_ftx"):
        raise NotTakenOver("`pref_ftx` adds the SFT loss, which has no counterpart here. Remove it.")
    take_number(draft, theirs, "pref_beta", "kto.beta", 0.1)
    take_number(draft, theirs, "kto_chosen_weight", "kto.desirable_weight", 1.0)
    take_number(draft, theirs, "kto_rejected_weight", "kto.undesirable_weight", 1.0)


def _take_evaluation(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    draft.validation = theirs.number("val_size") or 0.0
    steps, strategy = (
        theirs.whole("eval_steps"),
        str(theirs.take("eval_strategy", theirs.take("evaluation_strategy", ""))),
    )
    if strategy == "epoch":
        draft.keep("eval_strategy: epoch", "training.evals_per_epoch", 1)
    elif steps and strategy != "no":
        draft.keep(theirs.say("eval_steps"), "training.eval_steps", steps)
    patience = theirs.whole("early_stopping_steps")
    line = theirs.say("early_stopping_steps") if patience else "early_stopping_steps (default: never)"
    draft.keep(line, "training.early_stopping_patience", patience)


def _take_template(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    system = theirs.text("default_system")
    if system and draft.settings["objective"] != "cpt":
        draft.keep(theirs.say("default_system"), "data.system_prompt", system)
    if theirs.text("template"):
        report_template(draft, theirs, "template")
    _take_thinking(draft, theirs)


def _take_thinking(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    if not theirs.has("enable_thinking"):
        return
    line = theirs.say("enable_thinking")
    if theirs.flag("enable_thinking", default=True) or draft.settings["objective"] == "cpt":
        effect = "Theirs trains an empty thought in rows without one; ours writes the thoughts that a row has."
        draft.change(line, "the model's chat template", effect)
        return
    draft.settings["data.reasoning"] = "drop"
    effect = (
        "Both leave thoughts out of rows. Theirs also puts an empty thought into each prompt: if the chat template "
        "reads enable_thinking, set `chat_template_kwargs: {enable_thinking: false}`."
    )
    draft.change(line, "data.reasoning: drop", effect)


def _take_precision(draft: ExperimentDraft, theirs: TheirSettings, technique: str) -> None:
    if theirs.flag("pure_bf16") and technique == "full" and draft.settings["training.optim"] != "adamw_torch":
        draft.keep(theirs.say("pure_bf16"), "training.pure_bf16", True)
    report_types(draft, theirs, ["bf16", "fp16", "pure_bf16", "compute_dtype", "infer_dtype"])


def _report_rest(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    if theirs.flag("trust_remote_code"):
        effect = "Theirs runs code from the model's repository; ours never does, and refuses a model that needs it."
        draft.lose(theirs.say("trust_remote_code"), effect)
    report_lost(draft, theirs, LOST)
    draft.report.ignore(
        [*theirs.present([*NOT_TRAINING, *SPEED, *REFUSED]), *theirs.present_with(NOT_TRAINING_PREFIXES)]
    )
    draft.report.ignore(
        [
            *theirs.present_with(MULTIMODAL_PREFIXES),
            *theirs.present_with(SPEED_PREFIXES),
            *theirs.present_with(ONLY_WITH),
        ]
    )
    unused = ["lora_rank", "lora_alpha", "lora_dropout", "lora_target", "use_rslora", "use_dora"]
    unused += ["pref_beta", "pref_loss", "pref_ftx", "dpo_label_smoothing", "quantization_type", "double_quantization"]
    if names := theirs.present([name for name in unused if name in theirs.unread()]):
        draft.lose(", ".join(names), "Theirs does not use them in this stage and method either.")
    report_unknown(draft, theirs)
