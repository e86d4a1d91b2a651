"""The section `evaluation.contenders` of project.yaml: further models that are compared, wherever they run."""

from datetime import date

from pydantic import Field, model_validator

from ft_pipeline.settings.prompt_variant import PromptVariant
from ft_pipeline.settings.teacher import EndpointSettings
from ft_pipeline.settings.yaml_file import Section, rule_error


class ContenderSettings(Section):
    """A further model, with prompt variants of its own: another base model, a model behind an endpoint, or answers that
    were logged in production."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")
    """Its name in the comparison. No experiment may have it."""
    base_model: str | None = Field(None, min_length=1)
    """A base model that runs on this machine, as experiments name it."""
    revision: str | None = None
    model: str | None = Field(None, min_length=1)
    """The endpoint's name for the model, such as `ft:gpt-4o-mini-2024-07-18:acme::abc`."""
    endpoint: EndpointSettings | None = None
    """Where the model is served. It gets the test prompts; budget, log and retries are those of a teacher."""
    answers: str | None = None
    """A JSON Lines file with answers that were logged: `answer`, and `messages` or `query` as in the test rows. No
    request is sent."""
    variants: dict[str, PromptVariant] = Field(default_factory=dict)
    """Its prompts. Empty: `plain`, without any."""
    incumbent: bool = False
    """Whether this is what answers today. The question is then whether a model of one's own is not worse."""
    ends: date | None = None
    """The day on which it is switched off. A model that ends is never what is recommended."""

    @model_validator(mode="after")
    def _check_source(self) -> "ContenderSettings":
        sources = [name for name in ("base_model", "endpoint", "answers") if getattr(self, name) is not None]
        if len(sources) != 1:
            given = " and ".join(f"`{name}`" for name in sources) or "none"
            raise rule_error(
                "name", f"contender {self.name!r} has {given}. Give one of `base_model`, `endpoint` and `answers`."
            )
        if (self.model is None) != (self.endpoint is None):
            raise rule_error("model", f"contender {self.name!r}: `model` and `endpoint` belong together. Give both.")
        if self.answers is not None and self.variants:
            raise rule_error("variants", f"contender {self.name!r}: logged answers have no variants. Remove them.")
        if self.endpoint is not None and any(variant.passages for variant in self.variants.values()):
            raise rule_error(
                "variants", f"contender {self.name!r}: `passages` are not retrieved for an endpoint. Remove them."
            )
        return self
