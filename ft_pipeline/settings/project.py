"""project.yaml as typed models. Every setting has one place (docs/settings.md)."""

from typing import get_args

from pydantic import Field, model_validator

from ft_pipeline.settings.automation import NotificationSettings, RetentionSettings, RetrainingSettings
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.settings.evaluation import CALL_METRICS, EvaluationSettings, RivalName
from ft_pipeline.settings.feature_keys import open_to_features
from ft_pipeline.settings.instance import DagsterSettings
from ft_pipeline.settings.machine import MachineSettings
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.settings.prompt_variant import (
    MAX_INSTRUCTION_TOKENS,
    RETRIEVED,
    RETRIEVED_COUNT,
    SEARCHED,
    PromptSearchSettings,
    PromptVariant,
)
from ft_pipeline.settings.teacher import EndpointSettings, TeacherSettings
from ft_pipeline.settings.yaml_file import Section, later, rule_error

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
"""Names of projects and experiments."""


class PromptingSettings(Section):
    """The prompt variants of `prompt_baseline`. `plain` (no prompt) is always scored too."""

    variants: dict[str, PromptVariant] = Field(default_factory=dict)
    tuned_with: list[str] = later(default_factory=list)
    """Names of `variants` under which tuned models are scored, too. Retrieved texts are read for each question, so that
    such a variant takes several times as long as the model's own prompt."""
    search: PromptSearchSettings | None = later(None)
    """Whether a prompt is searched, and how. Null: it is not, and the verdict says so."""

    @model_validator(mode="after")
    def _check_names(self) -> "PromptingSettings":
        for name in self.variants:
            if name in {"plain", "champion", "teacher", SEARCHED, *get_args(RivalName)}:
                raise rule_error(f"variants.{name}", f"the variant name {name!r} is reserved. Choose another name.")
        for name in self.tuned_with:
            if name not in self.variants:
                names = ", ".join(self.variants) or "none: there are no variants"
                raise rule_error("tuned_with", f"there is no prompt variant {name!r}. Choose from: {names}.")
        return self

    @property
    def of_tuned_models(self) -> dict[str, PromptVariant]:
        """The variants under which tuned models are scored."""
        return {name: self.variants[name] for name in self.tuned_with}


class CostSettings(Section):
    """Prices in any one currency, for the comparison's cost per call and break-even. Null: unknown."""

    gpu_hour: float | None = Field(None, ge=0)
    """One hour of one GPU, or of this machine if it has none."""
    input_per_million: float | None = Field(None, ge=0)
    """A million prompt tokens of the base model, if a provider serves it. Calls are then priced by tokens."""
    output_per_million: float | None = Field(None, ge=0)
    cached_input_per_million: float | None = later(None, ge=0)
    """A million prompt tokens that all calls begin with, such as a system prompt and its examples: providers cache
    them. Null: they cost as much as others."""
    label: float | None = later(None, ge=0)
    """A row that people wrote or labeled. A training costs those that it learned from, too."""


@open_to_features("project")
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
    notifications: NotificationSettings = NotificationSettings()
    retention: RetentionSettings = RetentionSettings()
    machine: MachineSettings = MachineSettings()
    dagster: DagsterSettings = DagsterSettings()

    @model_validator(mode="after")
    def _check_promotion_metric(self) -> "ProjectSettings":
        metrics = ["auto", *self.evaluation.answer_metrics(), *CALL_METRICS]
        if self.promotion.wanted_metric not in metrics:
            hint = ", or set evaluation.answer_format" if self.promotion.metric == "format_valid" else ""
            raise rule_error(
                "promotion.metric",
                f"`promotion.metric` is {self.promotion.metric!r}. Choose one of {', '.join(metrics)}{hint}.",
            )
        return self

    @model_validator(mode="after")
    def _check_reflector(self) -> "ProjectSettings":
        name = self.prompting.search.reflector if self.prompting.search else None
        if name is not None and self.reflector() is None:
            names = ", ".join(name for name, (_, endpoint) in self._asked_models().items() if endpoint)
            raise rule_error(
                "prompting.search.reflector",
                f"`prompting.search.reflector` is {name!r}, which is no model with an `endpoint`. "
                + (f"Choose from: {names}." if names else "Give `teacher.endpoint`, or remove the key."),
            )
        return self

    def _asked_models(self) -> dict[str, tuple[str | None, EndpointSettings | None]]:
        """Return the models that may have an endpoint, by name."""
        contenders = {each.name: (each.model, each.endpoint) for each in self.evaluation.contenders}
        return {"teacher": (self.teacher.model, self.teacher.endpoint), **contenders}

    def reflector(self) -> TeacherSettings | None:
        """Return the model that writes instructions as a teacher without a prompt of its own; None if there is none.

        A reply that is no instruction is no failure of the run: the share of failures is not limited.
        """
        name = self.prompting.search.reflector if self.prompting.search else None
        model, endpoint = self._asked_models().get(name or "", (None, None))
        if model is None or endpoint is None:
            return None
        tolerant = endpoint.model_copy(update={"max_failed": 1.0})
        return TeacherSettings(model=model, endpoint=tolerant, few_shot=0, max_new_tokens=MAX_INSTRUCTION_TOKENS)

    def scored_prompts(self) -> dict[str, PromptVariant]:
        """Return the variants under which base models are scored: those of the project, and one whose examples are
        retrieved, if it has none and wants that rival.

        Its system prompt and the number of its examples are those of the variant with the most examples.
        """
        variants = self.prompting.variants
        if RETRIEVED not in self.evaluation.rivals or any(each.examples == "retrieved" for each in variants.values()):
            return variants
        fixed = [each for each in variants.values() if not each.passages]
        best = max(fixed, key=lambda each: each.few_shot, default=PromptVariant())
        changed = {"examples": "retrieved", "few_shot": best.few_shot or RETRIEVED_COUNT}
        return {**variants, RETRIEVED: best.model_copy(update=changed)}
