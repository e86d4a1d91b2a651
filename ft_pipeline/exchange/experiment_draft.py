"""An experiment in the making: our settings by dotted key, and a line of the report for each of theirs."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.exchange.import_report import ImportReport
from ft_pipeline.exchange.their_settings import NotTakenOver, TheirSettings, describe
from ft_pipeline.settings.experiment import ExperimentSettings

PLAIN_ADAMW = frozenset(
    {"adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "adamw", "adamw_torch_xla"}
)
"""Their names of AdamW with 32-bit states."""
OUR_OPTIMIZERS = {
    **dict.fromkeys(PLAIN_ADAMW, "adamw_torch"),
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
"""Their name of an optimizer → ours."""
NEAREST_OPTIMIZERS = {
    **dict.fromkeys(
        ("paged_adamw", "paged_adamw_32bit", "adamw_anyprecision", "ao_adamw"),
        ("adamw_torch", "Ours keeps the states of AdamW in 32 bits, on the device of the model."),
    ),
    **dict.fromkeys(
        ("adamw_torch_8bit", "adamw_torch_4bit", "ao_adamw_8bit", "ao_adamw_4bit"),
        ("adamw_8bit", "Ours keeps the states of AdamW in 8 bits of bitsandbytes, not of torchao."),
    ),
}
"""Another kind of AdamW → the nearest of ours, and the difference."""
OUR_SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
NEAREST_SCHEDULES = {
    "cosine_with_restarts": "cosine",
    "cosine_with_min_lr": "cosine",
    "cosine_warmup_with_min_lr": "cosine",
    "one_cycle": "cosine",
    "rex": "cosine",
    "polynomial": "linear",
    "warmup_stable_decay": "constant_with_warmup",
    "inverse_sqrt": "constant_with_warmup",
    "reduce_lr_on_plateau": "constant_with_warmup",
}
"""A schedule that has no counterpart → the one with the most similar course."""
MAX_SEED = 4_294_967_000


@dataclass
class ExperimentDraft:
    """Our settings of one of their experiments."""

    name: str
    source: str
    """The file that it is made from, relative to what was imported."""
    report: ImportReport
    settings: dict[str, Any] = field(default_factory=dict)
    """Dotted key → value."""
    data_sets: list[str] = field(default_factory=list)
    """The names of the data sets that it trains on."""
    validation: float = 0.0
    """Their validation share, or number of rows if it is 1 or more."""
    output: str | None = None
    """Where theirs writes the model, as their file says it."""
    their_model: str | None = None
    """The base model, as their file says it."""
    adapter: str | None = None
    """The folder of an adapter that it starts from, as their file says it."""

    def keep(self, theirs: str, key: str, value: Any) -> None:
        """Set one of our keys to what their line says."""
        self.settings[key] = value
        self.report.add("taken_over", self.source, theirs, f"{key}: {describe(value)}")

    def change(self, theirs: str, ours: str, effect: str) -> None:
        """Report a line of theirs that became something else."""
        self.report.add("changed", self.source, theirs, ours, effect)

    def lose(self, theirs: str, effect: str) -> None:
        """Report a line of theirs that has no counterpart."""
        self.report.add("no_counterpart", self.source, theirs, "", effect)

    def document(self) -> dict[str, Any]:
        """Return the settings as an experiment's YAML has them: nested, in the order of the sections."""
        nested: dict[str, Any] = {}
        for key, value in self.settings.items():
            *sections, last = key.split(".")
            place = nested
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        return {name: nested[name] for name in ExperimentSettings.model_fields if name in nested}


def experiment_name(stem: str, taken: set[str], folder: str = "") -> str:
    """Return a valid name of an experiment for a file. It is not one of `taken`, to which it is added."""
    for candidate in (stem, f"{folder}-{stem}" if folder else stem, *(f"{stem}-{number}" for number in range(2, 1000))):
        name = re.sub(r"[^a-z0-9_-]+", "-", candidate.lower()).strip("-_")[:63] or "experiment"
        if name not in taken:
            taken.add(name)
            return name
    raise NotTakenOver(f"There are too many files named {stem!r}. Import fewer at a time.")


def take_number(
    draft: ExperimentDraft, theirs: TheirSettings, key: str, ours: str, default: float, *, integer: bool = False
) -> None:
    """Set one of our numbers to theirs, or to their default, which is then written out."""
    number = theirs.whole(key) if integer else theirs.number(key)
    value = default if number is None else number
    draft.keep(theirs.say(key) if number is not None else f"{key} (default: {describe(value)})", ours, value)


def take_epochs(draft: ExperimentDraft, theirs: TheirSettings, key: str, default: float) -> None:
    """Set the number of epochs. Ours are whole."""
    given = theirs.number(key)
    epochs = default if given is None else given
    line = theirs.say(key) if given is not None else f"{key} (default: {epochs:g})"
    whole = max(1, math.ceil(epochs))
    if whole == epochs:
        draft.keep(line, "training.num_train_epochs", whole)
        return
    draft.settings["training.num_train_epochs"] = whole
    draft.change(
        line,
        f"training.num_train_epochs: {whole}",
        f"Theirs trains {epochs:g} epochs; ours trains whole ones. Set `training.max_steps` to stop earlier.",
    )


def take_max_steps(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    """Set the number of steps, if theirs limits it."""
    steps = theirs.whole("max_steps")
    if steps is not None and steps > 0:
        draft.keep(theirs.say("max_steps"), "training.max_steps", steps)


def take_warmup(draft: ExperimentDraft, theirs: TheirSettings, default: float) -> None:
    """Set the warmup. Ours is a share of the steps."""
    ratio, steps = theirs.number("warmup_ratio"), theirs.number("warmup_steps")
    max_steps = draft.settings.get("training.max_steps")
    key = "training.warmup_ratio"
    if steps is not None and steps >= 1 and max_steps and steps < max_steps:
        draft.keep(theirs.say("warmup_steps"), key, round(steps / max_steps, 6))
    elif steps is not None and steps >= 1:
        share = ratio if ratio is not None and 0 <= ratio < 1 else 0.05
        draft.settings[key] = share
        draft.change(
            theirs.say("warmup_steps"),
            f"{key}: {share:g}",
            f"Theirs warms up for {steps:g} steps; ours for a share of all steps, which is {share:.0%} here.",
        )
    elif steps:  # transformers 5 reads a number below 1 as a share
        draft.keep(theirs.say("warmup_steps"), key, steps)
    else:
        draft.keep(
            theirs.say("warmup_ratio") if ratio is not None else f"warmup_ratio (default: {default:g})",
            key,
            default if ratio is None else ratio,
        )


def take_optimizer(draft: ExperimentDraft, theirs: TheirSettings, key: str, default: str) -> None:
    """Set the optimizer. NotTakenOver if it is not a kind of AdamW."""
    given = theirs.text(key)
    name = (given or default).lower().removeprefix("optimizernames.")
    line = theirs.say(key) if given else f"{key} (default: {default})"
    if name in NEAREST_OPTIMIZERS:
        ours, effect = NEAREST_OPTIMIZERS[name]
        draft.settings["training.optim"] = ours
        draft.change(line, f"training.optim: {ours}", effect)
    elif name in OUR_OPTIMIZERS:
        draft.keep(line, "training.optim", OUR_OPTIMIZERS[name])
    else:
        raise NotTakenOver(
            f"The optimizer {name!r} has no counterpart here. Set `{key}: adamw_torch`, with a learning rate for it."
        )


def take_schedule(draft: ExperimentDraft, theirs: TheirSettings, key: str, default: str) -> None:
    """Set the schedule of the learning rate, or the most similar one."""
    given = theirs.text(key)
    name = (given or default).lower()
    line = theirs.say(key) if given else f"{key} (default: {default})"
    if name in OUR_SCHEDULES:
        draft.keep(line, "training.lr_scheduler_type", name)
        return
    nearest = NEAREST_SCHEDULES.get(name, "cosine")
    draft.settings["training.lr_scheduler_type"] = nearest
    effect = f"Ours has no schedule {name!r}; the learning rate now falls as in {nearest!r}."
    draft.change(line, f"training.lr_scheduler_type: {nearest}", effect)


def take_adam(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    """Report the constants of AdamW that are not its defaults, which are ours."""
    for key, default in {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "adam_eps": 1e-8}.items():
        value = theirs.number(key)
        if value is not None and value != default:
            draft.lose(theirs.say(key), f"Ours has AdamW's default, {default:g}.")


def take_seed(draft: ExperimentDraft, theirs: TheirSettings, key: str = "seed") -> None:
    """Set the seed. Both trainers have transformers' default, 42, as we do."""
    seed = theirs.whole(key)
    if seed is None:
        return
    if not 0 <= seed <= MAX_SEED:
        raise NotTakenOver(f"`{key}` is {seed}. Use a number from 0 to {MAX_SEED}.")
    draft.keep(theirs.say(key), "training.seed", seed)


def take_noise(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    """Set NEFTune's noise, if theirs has it."""
    noise = theirs.number("neftune_noise_alpha")
    if noise:
        draft.keep(theirs.say("neftune_noise_alpha"), "training.neftune_noise_alpha", noise)


def take_trackers(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    """Report the trackers. They are not set, because a tracker that is not installed stops a training."""
    names = theirs.take("report_to")
    known = [name for name in ([names] if isinstance(names, str) else names or []) if name not in ("none", "all")]
    if known:
        draft.change(
            theirs.say("report_to"),
            "",
            "Theirs logs there; ours only in the UI. If the tracker is installed, set `training.report_to` "
            "(tensorboard, wandb, mlflow).",
        )


def refuse_methods(theirs: TheirSettings, refused: Mapping[str, str]) -> None:
    """NotTakenOver if a key of a method that has no counterpart is set. refused: key → what it is."""
    for key, method in refused.items():
        if theirs.take(key):
            raise NotTakenOver(f"`{key}` ({method}) has no counterpart here. Remove it, or train that one elsewhere.")


def report_packing(draft: ExperimentDraft, theirs: TheirSettings, key: str, length: int) -> None:
    """Report that rows are not packed. Theirs packs them into blocks of `length` tokens."""
    draft.change(
        theirs.say(key),
        "training.padding_free (automatic)",
        f"Theirs fills blocks of {length:,} tokens, so that a step has more rows; ours batches rows one by one, "
        "without padding where it can.",
    )


def report_template(draft: ExperimentDraft, theirs: TheirSettings, key: str) -> None:
    """Report that turns are written by the base model's chat template and not by the one that `key` names."""
    effect = (
        f"Theirs writes turns as its template {theirs.text(key)!r} does; ours as the base model's own chat template "
        "does."
    )
    draft.change(theirs.say(key), "the model's chat template", effect)


def report_types(draft: ExperimentDraft, theirs: TheirSettings, keys: Iterable[str]) -> None:
    """Report the keys that choose the type of numbers. Ours follows from the hardware."""
    if types := theirs.present(keys):
        effect = "Ours computes in the 16-bit type that the hardware has (`ft doctor` shows it)."
        draft.change(", ".join(theirs.say(key) for key in types), "", effect)


def take_label_smoothing(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    """Set the label smoothing of DPO, if theirs has it."""
    if theirs.number("dpo_label_smoothing"):
        take_number(draft, theirs, "dpo_label_smoothing", "dpo.label_smoothing", 0.0)


def report_lost(draft: ExperimentDraft, theirs: TheirSettings, lost: Mapping[str, str]) -> None:
    """Report the keys that have no counterpart, if they are set. lost: key → effect."""
    for key, effect in lost.items():
        value = theirs.take(key)
        if value is not None and value is not False:
            draft.lose(theirs.say(key), effect)


def report_unknown(draft: ExperimentDraft, theirs: TheirSettings) -> None:
    """Report the keys that nothing has read."""
    for name in theirs.unread():
        draft.lose(
            name, "This key is unknown to the import. Look up what it does, and check our docs/settings.md for it."
        )


def common_differences(draft: ExperimentDraft) -> None:
    """Report what is different for every experiment, whatever its file says."""
    draft.change(
        "the last weights",
        "the best checkpoint",
        "Theirs keeps the weights of the last step; ours those with the lowest held-out loss.",
    )


def check_draft(draft: ExperimentDraft) -> None:
    """NotTakenOver if our settings refuse what was taken over, such as a rank above 1,024."""
    try:
        ExperimentSettings.model_validate(draft.document())
    except ValueError as error:
        fault = error.errors()[0]  # type: ignore[attr-defined]
        key = ".".join(str(part) for part in fault["loc"] if isinstance(part, str) and "[" not in part)
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "rule":
            raise NotTakenOver(message) from None
        raise NotTakenOver(
            f"Our `{key}` cannot be {describe(fault['input'])}: {message[:1].lower()}{message[1:]}. Change it in their "
            "file and import again."
        ) from None
