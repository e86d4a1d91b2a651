"""The section `evaluation.judge` of project.yaml: a model that says which of two answers is better."""

from pydantic import BaseModel, Field, model_validator

from ft_pipeline.settings.feature_keys import FeatureKeys
from ft_pipeline.settings.teacher import BudgetSettings, EndpointSettings, PriceSettings, TeacherSettings
from ft_pipeline.settings.yaml_file import Section, rule_error

MAX_REPLY_TOKENS = 300
"""The longest reply of a judge, in its own tokens."""


class JudgeSettings(Section):
    """A model behind an endpoint that compares answers in pairs. It gets test rows and the answers to them."""

    model: str = Field(min_length=1)
    """The endpoint's name for the model. It should be neither your teacher nor the base of a model that you compare."""
    endpoint: EndpointSettings
    """Where it is served; settings and log as those of a teacher. A server on this machine (127.0.0.1) may be one."""
    rubric: str | None = Field(None, min_length=1)
    """What makes an answer better. Null: right, answers what was asked, says the next step, tone; not length."""
    rows: int | None = Field(None, ge=2)
    """Ask only about the first N test answers (in order of a hash). Null: about all."""
    budget: BudgetSettings = BudgetSettings()

    @model_validator(mode="after")
    def _check_budget(self) -> "JudgeSettings":
        if self.endpoint.budget != BudgetSettings():
            raise rule_error(
                "endpoint.budget", "the budget of a judge is `evaluation.judge.budget`. Move `endpoint.budget` there."
            )
        if self.budget.money is not None and self.endpoint.prices == PriceSettings():
            raise rule_error(
                "budget.money", "`evaluation.judge.budget.money` needs prices. Set `evaluation.judge.endpoint.prices`."
            )
        return self

    def as_teacher(self) -> TeacherSettings:
        """Return the judge as a teacher without a prompt of its own, which decodes greedily.

        A reply that is no verdict is no failure of the run: the share of failures is not limited.
        """
        endpoint = self.endpoint.model_copy(update={"budget": self.budget, "max_failed": 1.0})
        return TeacherSettings(model=self.model, endpoint=endpoint, few_shot=0, max_new_tokens=MAX_REPLY_TOKENS)


class JudgeKeys(FeatureKeys):
    """What the section `evaluation` of project.yaml may say."""

    judge: JudgeSettings | None = None
    """A model that compares the answers of candidates with those of their rivals. Null: no test row is sent."""


def judge_of(evaluation: BaseModel) -> JudgeSettings | None:
    """Return the judge of a project; None if it has none."""
    return JudgeKeys.of(evaluation).judge
