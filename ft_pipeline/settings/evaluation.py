"""Settings of the evaluation: contenders, metrics, tasks and limits."""

import re
from typing import Literal, get_args

from pydantic import Field, model_validator

from ft_pipeline.settings.checks import ArgumentRule, MetricSettings, values_of
from ft_pipeline.settings.contenders import ContenderSettings
from ft_pipeline.settings.feature_keys import open_to_features
from ft_pipeline.settings.probes import PROBE_NAME_PATTERN, ProbeSettings, TaskSettings
from ft_pipeline.settings.slices import SliceSettings, check_slices
from ft_pipeline.settings.yaml_file import Section, later, rule_error

METRIC_NAME_PATTERN = r"[a-z][a-z0-9_]{0,39}"
"""Names of custom metrics."""
ANSWER_METRICS = ("nats_per_byte", "chrf", "rouge_l", "exact_match")
"""Metrics that the answers of every project are scored with."""
CALL_METRICS = ("call_names", "call_arguments", "call_order")
"""Metrics that the answers are also scored with if test rows have tools. Of the other rows they say nothing."""
RESERVED_METRIC_NAMES = frozenset(
    {*ANSWER_METRICS, "loss", "stop_nats", "format_valid", "fields_match", "length_ratio"}
    | {*CALL_METRICS, "call_items"}
    | {"general_accuracy", "general_loss", "general_nats_per_byte", "auto"}
    | {"content_nats", "content_bytes", "answer_bytes", "question_key"}
    | {"name", "item", "group", "prompt", "reference", "answer", "loss_sum", "answer_tokens", "prompt_tokens"}
    | {"generated_tokens", "finish_reason"}
)
"""Names that a custom metric cannot have: other metrics, and the other columns of a sample."""


RivalName = Literal["majority", "nearest_answer", "word_model", "calibrated", "retrieved_examples"]
"""A row that is compared without being asked for."""


class AnswerFormat(Section):
    """The format that every answer must have. `format_valid` is the share of answers that have it."""

    type: Literal["json", "regex"]
    pattern: str | None = None
    """For `regex` (Python syntax): it must match the whole answer."""
    keys: list[str] = Field(default_factory=list)
    """For `json`: the answer must be an object with these keys. Empty: any JSON is valid."""

    @model_validator(mode="after")
    def _check_type(self) -> "AnswerFormat":
        if (self.type == "regex") != (self.pattern is not None):
            raise rule_error(
                "type", "`answer_format`: `type: regex` and `pattern` need each other. Set both or neither."
            )
        if self.keys and self.type != "json":
            raise rule_error("keys", "`answer_format`: `keys` needs `type: json`. Remove `keys`, or change the type.")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise rule_error(
                "pattern",
                f"`answer_format.pattern` is {self.pattern!r}, which is not a valid regular expression ({error}). "
                "Correct it.",
            ) from None
        return self


@open_to_features("evaluation")
class EvaluationSettings(Section):
    """What is scored, and how."""

    max_new_tokens: int | None = Field(None, ge=1, le=4096)
    """The longest answer, in tokens of `tokens_of`. A model with another tokenizer may write as much text. Null: the
    length that 99 % of the reference answers do not exceed, in each model's own tokens, and a third more; at least
    16."""
    tokens_of: str | None = Field(None, min_length=1)
    """The base model in whose tokens `max_new_tokens` is counted, as experiments name it. Null: the embedded model, if
    an experiment uses it; otherwise each model counts in its own tokens."""
    batch_size: int = Field(16, ge=1)
    max_test_rows: int | None = Field(None, ge=2)
    """Score only the first N test rows (in order of their hash). Null: all rows."""
    general_questions: str = "data/general/questions.jsonl"
    general_texts: str = "data/general/texts.jsonl"
    answer_format: AnswerFormat | None = None
    metrics: dict[str, MetricSettings] = Field(default_factory=dict)
    """Checks of the answers and own functions by name, in addition to loss, chrF and the others."""
    call_arguments: dict[str, ArgumentRule] = Field(default_factory=dict)
    """By `TOOL.ARGUMENT`, how an argument of a call is compared, as the fields of a JSON answer are. Arguments that are
    not named must have the reference's value exactly."""
    contenders: list[ContenderSettings] = Field(default_factory=list)
    """Further models that are compared: other base models, models behind endpoints, answers of production."""
    rivals: list[RivalName] = later(default_factory=lambda: list(get_args(RivalName)))
    """What is compared in every project: the most frequent answer, that of the most similar training question, a
    classifier on words, the base model's choice among labels, and the base model with the most similar training
    questions as its examples, if no variant has these. Empty: none, and the verdict says so."""
    tasks: list[str | TaskSettings] = Field(default_factory=list)
    """Names of tasks, either lm-eval's (their data come from the hub) or those in `include_path`. Every model runs
    them with its system prompt. `{task: NAME, must_hold: true, margin: 0.05}`: a tuned model is released only if it is
    shown to be no worse than its own base model by the margin."""
    include_path: str | None = None
    """A folder of tasks in lm-eval's YAML. Their `data_files` are relative to it."""
    task_documents: int | None = Field(None, ge=1)
    """Only the first N documents of each task."""
    probes: dict[str, ProbeSettings] = Field(default_factory=dict)
    """Questions that show whether a tuned model still declines, answers or keeps to a rule as its own base model does.
    It is released only if that is shown. data/probes has some to begin with."""
    slices: dict[str, SliceSettings] = Field(default_factory=dict)
    """Parts of the test conversations by name, in addition to those by tag, source, language, length and turns."""
    bootstrap_resamples: int = Field(10_000, ge=100)
    """Not used any more: intervals need no random numbers. Older projects may name it."""
    seed: int = 0

    @model_validator(mode="after")
    def _check_contenders(self) -> "EvaluationSettings":
        names = [contender.name for contender in self.contenders]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise rule_error("contenders", f"two contenders have the name {twice!r}. Give each a name of its own.")
        if sum(contender.incumbent for contender in self.contenders) > 1:
            raise rule_error("contenders", "two contenders have `incumbent: true`. Set it for the one in use.")
        return self

    @model_validator(mode="after")
    def _check_slices(self) -> "EvaluationSettings":
        check_slices(self.slices)
        return self

    @model_validator(mode="after")
    def _check_one_metric_decides(self) -> "EvaluationSettings":
        deciding = [name for name, metric in self.metrics.items() if metric.decides]
        if len(deciding) > 1:
            raise rule_error("metrics", f"{' and '.join(deciding)} have `decides: true`. Set it for one metric only.")
        return self

    @model_validator(mode="after")
    def _check_call_arguments(self) -> "EvaluationSettings":
        for path in self.call_arguments:
            if "." not in path or not all(path.split(".")):
                raise rule_error(
                    "call_arguments", f"`call_arguments` has the key {path!r}. Write the tool, a dot and its argument."
                )
        return self

    @model_validator(mode="after")
    def _check_metric_names(self) -> "EvaluationSettings":
        for name in self.metrics:
            if not re.fullmatch(METRIC_NAME_PATTERN, name):
                raise rule_error(
                    "metrics",
                    f"the metric name {name!r} is invalid. Use at most 40 lowercase letters, digits and _, "
                    "starting with a letter.",
                )
            if name in RESERVED_METRIC_NAMES:
                raise rule_error(f"metrics.{name}", f"the metric name {name!r} is reserved. Choose another name.")
        return self

    @model_validator(mode="after")
    def _check_names_of_probes_and_tasks(self) -> "EvaluationSettings":
        for name in self.probes:
            if not re.fullmatch(PROBE_NAME_PATTERN, name):
                raise rule_error(
                    "probes",
                    f"the name {name!r} of probes is invalid. Use at most 40 lowercase letters, digits and _, starting "
                    "with a letter.",
                )
        twice = next((name for name in self.task_names if self.task_names.count(name) > 1), None)
        if twice is not None:
            raise rule_error("tasks", f"the task {twice!r} is named twice. Name it once.")
        return self

    @property
    def task_names(self) -> list[str]:
        """The names of the tasks."""
        return [entry if isinstance(entry, str) else entry.task for entry in self.tasks]

    def tasks_that_must_hold(self) -> dict[str, float]:
        """Return task → margin of the tasks on which a tuned model must not be worse than its own base model."""
        entries = [entry for entry in self.tasks if isinstance(entry, TaskSettings)]
        return {entry.task: entry.margin for entry in entries if entry.must_hold}

    def answer_metrics(self) -> list[str]:
        """Return the names of the metrics that this project's answers are scored with."""
        of_format = [] if self.answer_format is None else ["format_valid"]
        of_format += ["fields_match"] if self.answer_format and self.answer_format.type == "json" else []
        own = [value for name, metric in self.metrics.items() for value in values_of(name, metric)]
        return [*ANSWER_METRICS, *of_format, *own]
