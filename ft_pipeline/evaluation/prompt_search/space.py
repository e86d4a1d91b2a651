"""The prompts that a search may try, and Optuna's choice of the next one.

The study is made again from the finished tries each time. So their file is the only record, and a search that was
killed goes on with the prompts that it had chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ft_pipeline.settings.prompt_variant import RETRIEVED_COUNT, PromptVariant

STARTUP_TRIES = 10
"""Prompts that are drawn at random before the sampler learns from scores."""
DRAWS = 20
"""Draws of a prompt that was not tried yet. If all were, the search ends."""
SHORTLIST = 24
"""Train rows from which the examples are chosen: 40 tries say little about more."""
Variant = dict[str, Any]
"""The settings of a PromptVariant, as JSON."""
Values = dict[str, Any]
"""Optuna's parameters."""
PLAIN, TASK, RETRIEVED = "plain", "task", "retrieved"
"""Names of prompts that are tried first, besides those of the project: none, the task as an instruction, and
examples for each question."""
INSTRUCTION, COUNT, CHOICE, PRIORITY = "instruction", "examples", "choice", "row_"
"""Names of Optuna's parameters. That of a row ends on its number in the shortlist."""
_INSTRUCTION_KEYS = ("system_prompt", "replace_system")


@dataclass(frozen=True)
class Space:
    """Instructions and examples from which prompts are made."""

    given: Mapping[str, Variant]
    """The prompts to try first, by name: `plain`, and those of the project."""
    task: str
    """The task in the project's words, which is an instruction, too. May be empty."""
    shortlist: Sequence[str]
    """Ids of train rows that may be fixed examples."""
    most_examples: int
    written: Sequence[Variant] = ()
    """Prompts whose instructions a model wrote."""

    @cached_property
    def first(self) -> dict[str, Variant]:
        """The prompts that show whether there is anything to gain: none, those that are given, one instruction, and
        retrieved examples."""
        first = {PLAIN: variant(), **self.given}
        examples = min(RETRIEVED_COUNT, self.most_examples, len(self.shortlist))
        if self.task and all(each["system_prompt"] != self.task for each in first.values()):
            first[TASK] = variant({"system_prompt": self.task})
        if examples and all(each["examples"] == "fixed" for each in first.values()):
            first[RETRIEVED] = variant(None, examples, examples="retrieved")
        return first

    @cached_property
    def instructions(self) -> list[Variant]:
        """What is said before the examples: nothing, or a system prompt of the first prompts, or of those written."""
        prompts = [*self.first.values(), *self.written]
        said = ({key: each[key] for key in _INSTRUCTION_KEYS if each.get(key)} for each in prompts)
        return list({str(each): each for each in ({}, *said)}.values())

    @cached_property
    def distributions(self) -> dict[str, Any]:
        """What Optuna chooses: the instruction, the number of examples, how they are chosen, a priority of each row.

        The rows of the highest priorities are shown, in their order. So the sampler learns which row helps, wherever it
        stands.
        """
        import optuna.distributions as kinds

        most = min(self.most_examples, len(self.shortlist))
        chosen = {INSTRUCTION: range(len(self.instructions)), CHOICE: ("fixed", "retrieved")}
        priorities = (f"{PRIORITY}{number}" for number in range(len(self.shortlist) if most else 0))
        return {
            **{key: kinds.CategoricalDistribution(list(values)) for key, values in chosen.items()},
            **({COUNT: kinds.IntDistribution(0, most)} if most else {}),
            **{key: kinds.FloatDistribution(0.0, 1.0) for key in priorities},
        }

    def prompt_of(self, values: Values) -> Variant:
        """Return the prompt that Optuna's values stand for."""
        instruction, count = self.instructions[values[INSTRUCTION]], values.get(COUNT, 0)
        if not count or values[CHOICE] == "retrieved":
            return variant(instruction, count, **({"examples": "retrieved"} if count else {}))
        order = sorted(range(len(self.shortlist)), key=lambda number: (-values[f"{PRIORITY}{number}"], number))
        return variant(instruction, count, example_rows=[self.shortlist[number] for number in order[:count]])

    def propose(self, tried: Sequence[tuple[Values, Variant]], seed: int) -> tuple[Values, Variant] | None:
        """Return Optuna's values for the next prompt, and the prompt; None if nothing new was drawn.

        tried: values and prompts so far, the best first. The values of a prompt that was given are empty.
        """
        prompts = [prompt for _, prompt in tried]
        for draw in range(DRAWS):
            values = self._draw([values for values, _ in tried], seed * 100_003 + len(tried) * DRAWS + draw)
            if (prompt := self.prompt_of(values)) not in prompts:
                return values, prompt
        return None

    def _draw(self, best_first: Sequence[Values], seed: int) -> Values:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=STARTUP_TRIES)
        study = optuna.create_study(direction="minimize", sampler=sampler)
        for place, values in enumerate(best_first):
            if values:
                study.add_trial(
                    optuna.trial.create_trial(params=dict(values), distributions=self.distributions, value=place)
                )
        return dict(study.ask(self.distributions).params)


def variant(instruction: Mapping[str, Any] | None = None, count: int = 0, **examples: Any) -> Variant:
    """Return the settings of a prompt as JSON. count: number of examples. examples: further settings of them."""
    return PromptVariant(**(instruction or {}), few_shot=count, **examples).model_dump(mode="json")
