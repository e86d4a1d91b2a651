"""project.yaml as typed models. Every setting has one place (docs/settings.md)."""

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, get_args
from zoneinfo import available_timezones

from pydantic import Field, field_validator, model_serializer, model_validator

from ft_pipeline.settings.contenders import ContenderSettings
from ft_pipeline.settings.prompt_variant import PromptVariant
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline.settings.yaml_file import Section, rule_error

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
"""Names of projects and experiments."""
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
CRON_RANGES = (range(60), range(24), range(1, 32), range(1, 13), range(8))
"""Valid numbers of minute, hour, day of the month, month and day of the week (0 and 7 are Sunday)."""
Share = Annotated[float, Field(ge=0, lt=1)]
RailName = Literal["cut_off", "repetition", "empty", "holes", "refusal", "personal_data", "format"]
Ceiling = Annotated[float, Field(ge=0, le=1)]


class SemanticSettings(Section):
    """Search for training rows that mean the same as a held-out row in other words, with an embedding model."""

    model: str
    """A hub id or a folder of an embedding model with safetensors, such as BAAI/bge-small-en-v1.5. The `embedded` model
    is only good to try the option: it compares form more than meaning."""
    revision: str | None = None
    """Commit of a hub model."""
    similarity: float = Field(0.9, gt=0, le=1)
    """Cosine similarity from which a row is set aside. Depends on the model: read what is set aside, then adjust it."""


MaskedEntity = Literal[
    "EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "CRYPTO", "US_SSN", "UK_NHS"
]
MaskedFormat = Literal["alpaca", "sharegpt", "chat", "traces", "text", "preferences", "unlabelled"]


class MaskSettings(Section):
    """Personal data that is masked when raw files are read. It needs the extra `masking`."""

    formats: tuple[MaskedFormat, ...] = Field(("traces",), min_length=1)
    """Folders of data/raw whose texts are masked. Raw files themselves are not changed."""
    entities: tuple[MaskedEntity, ...] = Field(
        ("EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS"), min_length=1
    )
    """What is masked. Patterns recognize it; names and addresses are not found."""


class DataSettings(Section):
    """How raw rows are assigned to splits."""

    validation_share: Share = 0.1
    """Share of the groups that are held out for early stopping and for the check of the merged model."""
    test_share: Share = 0.15
    """Share of the groups that are only used for scoring."""
    golden_test: Literal["only", "added"] = "only"
    """With golden test files (`split: test` in a sidecar), `only` their rows are test rows (`test_share` is not
    used), or they are `added` to the test share."""
    group_templates: bool = True
    """Keep rows of one template in one split: prompts that differ only in an order number, or long ones that differ in
    names."""
    max_quarantined: Share = 0.1
    """Largest allowed share of quarantined rows per format folder. Above it, the pipeline stops."""
    mask: MaskSettings | None = None
    """Personal data that is masked in the tables. Null: nothing is masked; warnings name rows that may hold some."""
    semantic_duplicates: SemanticSettings | None = None
    """Set training conversations aside that mean the same as a held-out one. Off by default: it takes an embedding of
    every row."""
    licenses: dict[str, str] = Field(default_factory=dict)
    """Licenses of data, by format or file: `alpaca` or `alpaca/support.jsonl` to an SPDX identifier or a text. Exports
    repeat them. They change no result."""

    @field_validator("licenses")
    @classmethod
    def _check_licenses(cls, licenses: dict[str, str]) -> dict[str, str]:
        for key in licenses:
            if key.partition("/")[0] not in get_args(MaskedFormat):
                raise ValueError(
                    f"`data.licenses` names {key!r}, which is in no folder of data/raw. Write FORMAT or FORMAT/FILE."
                )
        return licenses

    def config(self) -> dict[str, Any]:
        """Return the settings as a spec has them: those that were added later only if they are changed. `licenses`
        never is.

        `semantic_duplicates` concerns only the conversations, whose spec identifies its model, too. `mask` concerns
        only the tables of its formats.
        """
        later = {"golden_test", "group_templates"}
        return self.model_dump(
            mode="json", exclude={*later, "semantic_duplicates", "mask", "licenses"}
        ) | self.model_dump(mode="json", include=later, exclude_defaults=True)

    def masked(self, data_formats: Iterable[str]) -> dict[str, list[str]]:
        """Return what is masked in the rows of these formats, without formats in which nothing is."""
        mask = self.mask
        return {} if mask is None else {name: list(mask.entities) for name in data_formats if name in mask.formats}

    @model_validator(mode="after")
    def _check_shares(self) -> "DataSettings":
        if (sum_of_shares := self.validation_share + self.test_share) > 0.8:
            raise rule_error(
                "test_share" if "test_share" in self.model_fields_set else "validation_share",
                f"validation_share + test_share is {sum_of_shares:g}, which leaves too few training rows. "
                "Lower the sum to at most 0.8.",
            )
        return self


class PromptingSettings(Section):
    """The prompt variants of `prompt_baseline`. `plain` (no prompt) is always scored too."""

    variants: dict[str, PromptVariant] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_names(self) -> "PromptingSettings":
        for name in self.variants:
            if name in {"plain", "champion", "teacher"}:
                raise rule_error(f"variants.{name}", f"the variant name {name!r} is reserved. Choose another name.")
        return self


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


class MetricSettings(Section):
    """A custom metric."""

    function: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
    """`checks.politeness` is the function `politeness` in checks.py of the project folder, or in an installed package.
    Its keyword arguments are `reference`, `answer` and, if it has that parameter, `messages`. It returns a number."""
    lower_is_better: bool = False
    decides: bool = False
    """Whether it decides which model is better, where `promotion.metric` is auto. For a metric that checks answers."""


class GgufLimits(Section):
    """What a GGUF file may cost against its merged model, in nats per token of the reference answers. `ft export`
    refuses a file that costs more."""

    max_loss_increase: float = Field(0.05, gt=0)
    """Limit for the upper 95 % bound of the increase in loss."""
    max_kl: float = Field(0.05, gt=0)
    """Limit for the mean KL(merged || GGUF)."""


class EvaluationSettings(Section):
    """What is scored, and how."""

    max_new_tokens: int = Field(96, ge=1, le=4096)
    """The longest answer, in tokens of `tokens_of`. A model with another tokenizer may write as much text."""
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
    """Custom metrics by name, in addition to loss, chrF and the others."""
    contenders: list[ContenderSettings] = Field(default_factory=list)
    """Further models that are compared: other base models, models behind endpoints, answers of production."""
    tasks: list[str] = Field(default_factory=list)
    """Names of tasks, either lm-eval's (their data come from the hub) or those in `include_path`. Every model runs
    them with its system prompt."""
    include_path: str | None = None
    """A folder of tasks in lm-eval's YAML. Their `data_files` are relative to it."""
    task_documents: int | None = Field(None, ge=1)
    """Only the first N documents of each task."""
    gguf: GgufLimits = GgufLimits()
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
    def _check_one_metric_decides(self) -> "EvaluationSettings":
        deciding = [name for name, metric in self.metrics.items() if metric.decides]
        if len(deciding) > 1:
            raise rule_error("metrics", f"{' and '.join(deciding)} have `decides: true`. Set it for one metric only.")
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

    def answer_metrics(self) -> list[str]:
        """Return the names of the metrics that this project's answers are scored with."""
        of_format = [] if self.answer_format is None else ["format_valid"]
        of_format += ["fields_match"] if self.answer_format and self.answer_format.type == "json" else []
        return [*ANSWER_METRICS, *of_format, *self.metrics]


class PromotionSettings(Section):
    """Requirements for a candidate to become champion."""

    metric: str = "auto"
    """What decides which model is better. auto: a check of the answers if there is one (a metric with `decides`, exact
    match, JSON fields), else the likelihood of the reference answers, and chrF must not be worse. Or nats_per_byte,
    chrf, rouge_l, exact_match, format_valid (with evaluation.answer_format), call_names, call_arguments, call_order
    (of test rows with tools), or one of evaluation.metrics. `loss`, of older projects, means auto."""
    answers_margin: float = Field(2.0, ge=0)
    """By how much the chrF of a candidate (0 to 100) may be worse where a likelihood decides."""
    false_moves: float = Field(0.05, gt=0, lt=0.5)
    """Largest probability that a comparison moves the champion to a model that is not better. It is divided among the
    candidates of the comparison: one candidate is tested at half of it, two at a third each, and so on."""
    min_test_rows: int = Field(50, ge=2)
    """Smallest number of test conversations for a decision. From 50 on, equal models are called different as rarely as
    promised; with fewer, do not trust a decision that you allow here."""
    forgetting_margin: float = Field(0.05, ge=0)
    """Largest allowed drop in general accuracy (absolute)."""
    incumbent_margin: float = Field(0.05, ge=0, lt=1)
    """By how much a model of one's own may be worse than the incumbent contender: absolute for shares, 100 times that
    for chrF, relative for likelihoods."""
    keeps: float = Field(0.8, gt=0, le=1)
    """Share of the best model's lead over the best baseline that a simpler technique must be shown to keep, to be
    recommended in its place."""
    rails: dict[RailName, Ceiling | None] = Field(default_factory=dict)
    """Other ceilings for the share of test answers with a fault: cut_off (0.1), repetition, empty, refusal and format
    (0.05 each), holes and personal_data (0.02 each). Null switches one off."""
    two_people: bool = False
    """Whether another person must approve each move of the champion, by the rules or by `ft promote`: `ft approve`."""

    @model_serializer(mode="wrap")
    def _without_later_keys(self, serialize: Callable[["PromotionSettings"], dict[str, Any]]) -> dict[str, Any]:
        """Leave out `two_people`, which does not change what the rules decide."""
        return {key: value for key, value in serialize(self).items() if key != "two_people"}


class CostSettings(Section):
    """Prices in any one currency, for the comparison's cost per call and break-even. Null: unknown."""

    gpu_hour: float | None = Field(None, ge=0)
    """One hour of one GPU, or of this machine if it has none."""
    input_per_million: float | None = Field(None, ge=0)
    """A million prompt tokens of the base model, if a provider serves it. Calls are then priced by tokens."""
    output_per_million: float | None = Field(None, ge=0)
    cached_input_per_million: float | None = Field(None, ge=0)
    """A million prompt tokens that all calls begin with, such as a system prompt and its examples: providers cache
    them. Null: they cost as much as others."""

    @model_serializer(mode="wrap")
    def _without_later_keys(self, serialize: Callable[["CostSettings"], dict[str, Any]]) -> dict[str, Any]:
        """Leave out `cached_input_per_million` if it is not set, as in the specs of older versions."""
        return {key: value for key, value in serialize(self).items() if value is not None or key[:6] != "cached"}


class RetrainingSettings(Section):
    """When the nightly schedule retrains experiments with `retrain: true`, and the champion's experiment."""

    min_new_rows: int = Field(50, ge=1)
    """Smallest number of train rows that the last training did not use."""
    schedule: str = "0 2 * * *"
    """When to check: minute, hour, day of the month, month, day of the week (0 is Sunday), as in cron."""
    timezone: str = "UTC"
    """Time zone of the schedule, e.g. `Europe/Berlin`."""

    @field_validator("schedule")
    @classmethod
    def _check_schedule(cls, schedule: str) -> str:
        fields = schedule.split()
        if len(fields) != len(CRON_RANGES) or not all(map(_is_cron_field, fields, CRON_RANGES)):
            raise ValueError(
                f"{schedule!r} is not a cron schedule of five numeric fields. Write one such as `0 2 * * *`."
            )
        return schedule

    @model_validator(mode="after")
    def _check_timezone(self) -> "RetrainingSettings":
        if self.timezone not in available_timezones():
            raise rule_error(
                "timezone", f"unknown time zone {self.timezone!r}. Use a name such as UTC or Europe/Berlin."
            )
        return self


class InboxSettings(Section):
    """Served answers that people corrected, which a person may accept as training data (docs/inbox.md)."""

    log: str | None = Field(None, min_length=1)
    """The log of `ft serve --log`: a folder, or a .jsonl file, in the project folder and outside data/raw. Null:
    `ft inbox` needs --log."""


class NotificationSettings(Section):
    """Where failed runs, failed checks and new champions are reported, besides data/store/notifications.jsonl."""

    webhook_env: str = Field("FT_WEBHOOK_URL", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that contains the URL of a Slack-compatible webhook. If it is not set, no
    webhook is called."""
    ui_url: str | None = None
    """The URL at which your team opens the UI, for links, e.g. `https://dagster.example.org`."""


class RetentionSettings(Section):
    """What `ft gc` keeps in the store in addition to what is in use."""

    keep_days: float = Field(30, ge=0)
    """Artifacts and checkpoints younger than this many days are always kept."""


class ProjectSettings(Section):
    """project.yaml: the settings of the task."""

    name: str = Field(pattern=NAME_PATTERN)
    task: str = ""
    data: DataSettings = DataSettings()
    prompting: PromptingSettings = PromptingSettings()
    teacher: TeacherSettings = TeacherSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    promotion: PromotionSettings = PromotionSettings()
    costs: CostSettings = CostSettings()
    retraining: RetrainingSettings = RetrainingSettings()
    inbox: InboxSettings = InboxSettings()
    notifications: NotificationSettings = NotificationSettings()
    retention: RetentionSettings = RetentionSettings()

    @model_validator(mode="after")
    def _check_promotion_metric(self) -> "ProjectSettings":
        metrics = ["auto", *self.evaluation.answer_metrics(), *CALL_METRICS]
        if self.promotion.metric == "loss":
            return self
        if self.promotion.metric not in metrics:
            hint = ", or set evaluation.answer_format" if self.promotion.metric == "format_valid" else ""
            raise rule_error(
                "promotion.metric",
                f"`promotion.metric` is {self.promotion.metric!r}. Choose one of {', '.join(metrics)}{hint}.",
            )
        return self


def _is_cron_field(field: str, allowed: range) -> bool:
    """Return whether `field` is a list of `*`, numbers and ranges, each with an optional step, all within `allowed`."""
    parts = [re.fullmatch(r"(?:\*|(\d+)(?:-(\d+))?)(?:/[1-9]\d*)?", part) for part in field.split(",")]
    return all(part and all(int(number) in allowed for number in part.groups() if number) for part in parts)
