"""A fine-tuning job of a provider, as its API returns it → an experiment."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.exchange.experiment_draft import ExperimentDraft, common_differences
from ft_pipeline.exchange.import_report import ImportReport
from ft_pipeline.exchange.their_settings import NotTakenOver, TheirSettings, describe
from ft_pipeline.tables.reading.graders import grader_advice

OBJECTIVES = {"supervised": "sft", "dpo": "dpo", "reinforcement": "sft"}
MAX_LENGTH = 4096
"""Tokens of the longest row. Theirs takes as many as the model's context has, and cuts longer rows off."""
MAX_BATCH = 8
"""Rows per device; a larger batch is accumulated."""
REINFORCEMENT = (
    "Theirs rewards sampled answers; ours lets a teacher answer the prompts, checks the answers by the reference, and "
    "trains on them. To reward answers, set `objective: grpo`, and put prompts with their reference as the last turn "
    "into data/raw/chat (docs/rewards.md)."
)
"""What becomes of reinforcement."""
NOT_TRAINING = (
    *("object", "id", "created_at", "finished_at", "estimated_finish", "status", "error", "organization_id"),
    *("result_files", "trained_tokens", "training_file", "validation_file", "integrations", "user_provided_suffix"),
    *("metadata", "usage_metrics", "shared_with_openai", "eval_id", "trainingType", "model_id", "level", "events"),
    *("suffix", "fine_tuned_model", "checkpoints"),
)


def find_jobs(document: Any) -> list[dict[str, Any]]:
    """Return the fine-tuning jobs in a JSON document: one, or a list of them."""
    if isinstance(document, dict) and isinstance(document.get("data"), list):
        document = document["data"]
    jobs = document if isinstance(document, list) else [document]
    return [job for job in jobs if isinstance(job, dict) and is_job(job)]


def is_job(job: dict[str, Any]) -> bool:
    """Return whether an object is a fine-tuning job."""
    return job.get("object") == "fine_tuning.job" or (
        "hyperparameters" in job and "model" in job and "messages" not in job
    )


def fill_default(draft: ExperimentDraft, objective: str) -> None:
    """Fill the draft of an experiment for which there is no job."""
    draft.settings |= {"base_model": "embedded", "objective": objective, "technique": "qlora"}
    draft.settings["training.max_length"] = MAX_LENGTH
    _report_start(draft, "the provider's model", full=False)


def fill_from_job(draft: ExperimentDraft, theirs: TheirSettings, objectives: set[str]) -> None:
    """Fill the draft from a job. NotTakenOver if its method has no counterpart.

    objectives: those for which there are files.
    """
    method = theirs.take("method")
    kind = str(method.get("type", "supervised")) if isinstance(method, dict) else "supervised"
    if kind not in OBJECTIVES:
        raise NotTakenOver(f"The method {kind!r} has no counterpart here. Use supervised, dpo or reinforcement.")
    part = method.get(kind) if isinstance(method, dict) else None
    part = part if isinstance(part, dict) else {}
    values = {**_mapping(theirs.take("hyperparameters")), **_mapping(part.get("hyperparameters"))}
    draft.settings |= {"base_model": "embedded", "objective": OBJECTIVES[kind], "technique": "qlora"}
    if kind == "reinforcement":
        _report_method(draft, part.get("grader"))
    else:
        draft.keep(f"method: {kind}", "objective", OBJECTIVES[kind])
    _report_start(draft, str(theirs.take("model", "the provider's model")), full=True)
    _take_hyperparameters(draft, TheirSettings(values, draft.source))
    seed = theirs.whole("seed")
    if seed is not None:
        draft.keep(f"seed: {seed}", "training.seed", seed % 4_294_967_000)
    theirs.take("fine_tuned_model")  # see hosted_model.py
    draft.settings["training.max_length"] = MAX_LENGTH
    draft.report.ignore([name for name in theirs.present(NOT_TRAINING) if name != "fine_tuned_model"])
    for name in theirs.unread():
        draft.lose(name, "This key is unknown to the import.")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _report_start(draft: ExperimentDraft, model: str, *, full: bool) -> None:
    draft.change(
        f"model: {describe(model)}",
        "base_model: embedded",
        "Its weights are not published; ours tunes the embedded model. Name a larger one with --base-model.",
    )
    draft.change(
        "the provider's training" if not full else "the provider's method of tuning",
        "technique: qlora, with our defaults",
        "The provider does not say how it trains. Ours trains LoRA matrices on a 4-bit base.",
    )
    effect = f"Theirs cuts rows off at the model's context; ours refuses rows of more than {MAX_LENGTH:,} tokens."
    draft.change("no limit on the length", f"training.max_length: {MAX_LENGTH}", effect)
    common_differences(draft)


def _take_hyperparameters(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    automatic = theirs.present([key for key in theirs.unread() if str(theirs.take(key)).lower() == "auto"])
    if automatic:
        effect = "The provider chose them and does not say how; ours has its defaults."
        draft.change(", ".join(f"{name}: auto" for name in automatic), "our defaults", effect)
    if "n_epochs" not in automatic and (epochs := theirs.whole("n_epochs")):
        draft.keep(f"n_epochs: {epochs}", "training.num_train_epochs", epochs)
    if "batch_size" not in automatic and (batch := theirs.whole("batch_size")):
        if batch < 1:
            raise NotTakenOver(f"`batch_size` is {batch}. Use a whole number above 0, or auto.")
        rows = next(size for size in range(min(batch, MAX_BATCH), 0, -1) if batch % size == 0)
        draft.settings["training.gradient_accumulation_steps"] = batch // rows
        ours = "training.per_device_train_batch_size"
        draft.keep(f"batch_size: {batch} (accumulated {batch // rows} ×)", ours, rows)
    if "learning_rate_multiplier" not in automatic and theirs.number("learning_rate_multiplier") is not None:
        effect = "It multiplies a rate that the provider does not publish; ours has its default."
        draft.lose(theirs.say("learning_rate_multiplier"), effect)
    if draft.settings["objective"] == "dpo" and "beta" not in automatic and theirs.number("beta"):
        draft.keep(theirs.say("beta"), "dpo.beta", theirs.number("beta"))
    theirs.present(["n_epochs", "batch_size", "learning_rate_multiplier"])
    for name in theirs.unread():
        draft.lose(theirs.say(name), "Ours has no such setting.")


def _report_method(draft: ExperimentDraft, grader: Any) -> None:
    draft.change("method: reinforcement", "the teacher's answers", REINFORCEMENT)
    if isinstance(grader, dict) and grader.get("type"):
        report_grader(draft.report, draft.source, grader)


def report_grader(report: ImportReport, source: str, grader: Mapping[str, Any]) -> None:
    """Report what does here what a grader does."""
    report.add("no_counterpart", source, f"grader: {describe(grader['type'])}", "", grader_advice(grader))
