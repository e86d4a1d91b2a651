"""The section `teacher` of project.yaml: the model that answers the unlabelled prompts, and what it may cost."""

import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from ft_pipeline.settings.chat_template import TemplateVariables, check_template_variables
from ft_pipeline.settings.raw_formats import CONVERSATIONAL
from ft_pipeline.settings.yaml_file import Section, later, rule_error

_NOT_IN_LOCAL_CONFIG = {"terms", "model", "revision", "endpoint", "in_comparison", "engine"}
"""Settings of a local teacher that change no answer, or only through the model's fingerprint."""
_NOT_IN_ENDPOINT_CONFIG = {"terms", "revision", "batch_size", "endpoint", "in_comparison", "engine"}
"""Settings of an endpoint teacher that change no answer; `endpoint` itself is divided by _ENDPOINT_KEYS_IN_CONFIG."""
_ENDPOINT_KEYS_IN_CONFIG = {"url", "limit_field", "send_seed"}
"""Endpoint settings that answers depend on. The others, such as rates and budget, control how requests are sent."""


class PriceSettings(Section):
    """The provider's prices per million tokens, in the same currency as `budget.money`."""

    input_per_million: float = Field(0.0, ge=0)
    output_per_million: float = Field(0.0, ge=0)


class BudgetSettings(Section):
    """Limits on what this project spends on this teacher in all runs together. A run stops before it exceeds one."""

    tokens: int | None = Field(None, ge=1)
    """Sum of prompt and answer tokens."""
    money: float | None = Field(None, gt=0)
    """Needs `prices`."""


class EndpointSettings(Section):
    """A server with an OpenAI-compatible API: OpenAI, vLLM, llama.cpp, Ollama, Together, Fireworks and others."""

    url: str
    """The URL up to and including `/v1`, e.g. `http://127.0.0.1:8000/v1`."""
    api_key_env: str | None = None
    """The NAME of the environment variable that contains the key. Null: the server needs no key."""
    concurrency: int = Field(16, ge=1, le=1024)
    """Number of concurrent requests."""
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    timeout_seconds: float = Field(120.0, gt=0)
    """Time limit for one request, from first byte to last."""
    attempts: int = Field(6, ge=1, le=100)
    """Number of requests for one answer before it counts as failed, while other requests succeed."""
    patience_seconds: float = Field(600.0, ge=0)
    """How long the server may be down, after it has answered once, before prompts count as failed."""
    max_failed: float = Field(0.1, ge=0, le=1)
    """Largest allowed share of prompts without a usable answer. Above it, the asset fails."""
    reply_models: list[str] = Field(default_factory=list)
    """Further model names that are accepted in a reply. `model` is always accepted, also with a version appended."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The server's name for the limit on an answer's tokens. OpenAI's newer models need the longer name."""
    send_seed: bool = True
    """Whether to send `seed`. Some servers refuse it."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request, e.g. `{reasoning_effort: none}`. Null removes a field: `{temperature: null}` if a
    model refuses a temperature."""
    prices: PriceSettings = PriceSettings()
    budget: BudgetSettings = BudgetSettings()

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("`endpoint.url` is not an http(s) URL. Write one like https://host/v1.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "`endpoint.url` contains more than host and path. Put a key into the environment variable that "
                "`api_key_env` names."
            )
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _check_api_key_env(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            # The value may be the key itself, so the message does not repeat it.
            raise ValueError(
                "`endpoint.api_key_env` is not the name of an environment variable. Set it to a name such as "
                "OPENAI_API_KEY, not to the key."
            )
        return name

    @model_validator(mode="after")
    def _check_money(self) -> "EndpointSettings":
        if self.budget.money is not None and self.prices == PriceSettings():
            raise rule_error(
                "budget.money", "`endpoint.budget.money` needs `prices`. Set the prices per million tokens."
            )
        return self


class TeacherSettings(Section):
    """The model that answers the unlabelled prompts."""

    model: str = "embedded"
    """`embedded`, a folder or a hub id. With an endpoint: the server's name for the model."""
    revision: str | None = None
    chat_template_kwargs: TemplateVariables = later(default_factory=dict)
    """Only for a model that runs on this machine: variables of its chat template, such as `{enable_thinking: false}`.
    For an endpoint, write them into `extra_body` as the server wants them."""
    endpoint: EndpointSettings | None = None
    """Null: the model runs on this machine, in a worker process, and no data leaves the machine."""
    system_prompt: str | None = None
    few_shot: int = Field(4, ge=0, le=64)
    """Number of fixed examples before the question."""
    few_shot_from: str | None = Field(None, pattern=rf"^({'|'.join(CONVERSATIONAL)})/[^/]+$")
    """The file below data/raw whose train rows are the examples, e.g. `alpaca/best.jsonl`. Null: all files. Then a new
    file changes the examples, and every prompt is sent again."""
    temperature: float = Field(0.0, ge=0, le=2)
    max_new_tokens: int = Field(96, ge=1, le=4096)
    answers_per_prompt: int = Field(1, ge=1, le=64)
    """Above 1, the valid answer that agrees most with the others is kept (best of n). Needs a `temperature` above 0."""
    batch_size: int = Field(16, ge=1)
    """Only for a model that runs on this machine in transformers."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """What runs a model on this machine. `auto`: `vllm` if its executable is installed and there is a GPU, else
    `transformers`."""
    in_comparison: bool = True
    """Whether the teacher also answers the test prompts, as a row of the comparison. A teacher that is the experiment's
    own base model never does: it is a prompt variant."""
    seed: int = 0
    terms: str = ""
    """What the teacher's license or terms say about training on its answers. Shown on the model card."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _check_template_variables(cls, variables: TemplateVariables) -> TemplateVariables:
        return check_template_variables(variables)

    @model_validator(mode="after")
    def _check_combinations(self) -> "TeacherSettings":
        if self.endpoint is not None and self.model == "embedded":
            raise rule_error("model", "`teacher.model` must be the endpoint's name for the model. Set it.")
        if self.endpoint is not None and self.engine != "auto":
            raise rule_error(
                "engine", "`teacher.engine` is only for a model on this machine. Remove it or the endpoint."
            )
        if self.endpoint is not None and self.chat_template_kwargs:
            raise rule_error(
                "chat_template_kwargs",
                "`teacher.chat_template_kwargs` is only for a model on this machine. Write the variables into "
                "`endpoint.extra_body`.",
            )
        if self.endpoint is not None and self.revision is not None:
            raise rule_error(
                "revision", "`teacher.revision` is only for a model on this machine. Remove it or the endpoint."
            )
        if self.answers_per_prompt > 1 and self.temperature == 0:
            raise rule_error(
                "answers_per_prompt",
                f"`teacher.answers_per_prompt` is {self.answers_per_prompt}, but at temperature 0 all answers "
                "are equal. Raise teacher.temperature (0.7 is typical).",
            )
        return self

    def config_and_handling(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the teacher's part of a spec: (config, handling).

        config: the settings that the teacher's answers depend on; handling: those that control how it is called.
        """
        if self.endpoint is None:
            return self.model_dump(mode="json", exclude=_NOT_IN_LOCAL_CONFIG), {"engine": self.engine}
        config = self.model_dump(mode="json", exclude=_NOT_IN_ENDPOINT_CONFIG)
        in_config = self.endpoint.model_dump(mode="json", include=_ENDPOINT_KEYS_IN_CONFIG)
        in_config |= {"extra_body": self.endpoint.extra_body} if self.endpoint.extra_body else {}
        in_handling = self.endpoint.model_dump(mode="json", exclude={*_ENDPOINT_KEYS_IN_CONFIG, "extra_body"})
        return {**config, "endpoint": in_config}, {"endpoint": in_handling}
