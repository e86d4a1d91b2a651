"""The tuned model that answers today at OpenAI → the section `evaluation.contenders`, with room for its successor."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.exchange.import_report import ImportReport
from ft_pipeline.exchange.their_settings import describe

NAME = re.compile(r"ft:(?P<base>[\w.-]+):[\w.-]*:[\w.-]*:[\w.:-]+", re.ASCII)
"""`ft:BASE:ORG:SUFFIX:ID`. The suffix may be empty; the name of a checkpoint follows the id."""
ENDS = "2027-01-14"
"""The day on which OpenAI switches off tuned models of these bases (developers.openai.com/api/docs/deprecations)."""
ENDING_BASES = re.compile(r"gpt-(4o|4\.1)(-mini)?(-\d{4}-\d\d-\d\d)?")
SECTION = """\
  # What answers today. Its answers to the test rows are requested once, and kept: run before it ends.
  contenders:
  - name: {name}
    model: {model}
    endpoint:
      url: https://api.openai.com/v1
      api_key_env: OPENAI_API_KEY      # the name of the variable. Set its value where you start `ft run`.
      # prices: {{input_per_million: 0, output_per_million: 0}}      # from the provider's price list
    incumbent: true
{ends}  # A successor: replace NAME, and remove the marks.
  # - name: successor
  #   model: NAME
  #   endpoint:
  #     url: https://api.openai.com/v1
  #     api_key_env: OPENAI_API_KEY
  #     limit_field: max_completion_tokens
  #     prices: {{input_per_million: 0, output_per_million: 0}}
  #   variants:
  #     prompted: {{replace_system: true, system_prompt: "What the tuned model has learned, in words."}}
  #     few_shot: {{few_shot: 6}}
"""
"""The end of the section `evaluation`."""


@dataclass(frozen=True)
class HostedModel:
    """A tuned model at OpenAI."""

    model: str
    """`ft:BASE:ORG:SUFFIX:ID`."""
    source: str
    """Where its name was found, for the report."""

    @property
    def ends(self) -> str | None:
        """The day on which it is switched off; None if it is not known."""
        name = NAME.fullmatch(self.model)
        return ENDS if name and ENDING_BASES.fullmatch(name["base"]) else None

    def section(self, taken: Sequence[str]) -> str:
        """Return the contenders as YAML. taken: names of experiments and prompts, which no contender may have."""
        name = next(name for name in ("today", "tuned-at-openai", "tuned-at-openai-2") if name not in taken)
        ends = f"    ends: {self.ends}\n" if self.ends else ""
        return SECTION.format(name=name, model=self.model, ends=ends)

    def report(self, report: ImportReport) -> None:
        """Add it to the report."""
        end = (
            f"It ends on {self.ends}: run before, and its answers are kept."
            if self.ends
            else "Look up when it ends, and write that day as `ends`."
        )
        effect = f"It answers the test rows, and is compared with your own models. {end} Enter its prices, too."
        report.add("changed", self.source, f"the tuned model {self.model}", "evaluation.contenders, incumbent", effect)


def named_model(name: str) -> HostedModel:
    """Return the model that the user names. UserError if it is not the name of one."""
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is not the name of a tuned model. Write it as ft:BASE:ORG:SUFFIX:ID.")
    return HostedModel(name, "--tuned-model")


def model_of_jobs(jobs: Sequence[tuple[str, dict[str, Any]]], report: ImportReport) -> HostedModel | None:
    """Return the tuned model of the newest job of OpenAI; None if no job has one. Report the others."""
    tuned = [(source, job) for source, job in jobs if job.get("fine_tuned_model")]
    ours = [(source, job) for source, job in tuned if NAME.fullmatch(str(job["fine_tuned_model"]))]
    newest = max(ours, key=lambda found: _created(found[1]), default=None)
    for source, job in tuned:
        if newest is None or job is not newest[1]:
            effect = "Name it in `evaluation.contenders` with its endpoint, and it is compared with your own models."
            report.add("changed", source, f"fine_tuned_model: {describe(job['fine_tuned_model'])}", "", effect)
    return HostedModel(str(newest[1]["fine_tuned_model"]), newest[0]) if newest else None


def _created(job: dict[str, Any]) -> float:
    created = job.get("created_at")
    return float(created) if isinstance(created, int | float) else 0.0
