"""Which objectives fit the data that a project has: with what to fine-tune."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.settings.experiment import Objective
from ft_pipeline.training.objectives.registry import OBJECTIVES


@dataclass(frozen=True)
class DataAtHand:
    """What a project has to train on."""

    tables: Sequence[str]
    """Those with rows."""
    checks: Sequence[str]
    """Metrics of the project that can reward an answer."""
    experiments: Mapping[str, Sequence[str]]
    """By objective, the experiments of the project."""

    def describe_fits(self, comparison: Comparison) -> str:
        """Return the objectives that fit, with their experiments, as a sentence each; empty if none fits."""
        fits = {name: reason for name in OBJECTIVES if (reason := self._reason(name, comparison))}
        sentences = [
            f"{reason} fit `{name}`{self._experiments(name, comparison)}." for name, reason in sorted(fits.items())
        ]
        return " ".join(["With what (docs/objectives.md):", *sentences]) if sentences else ""

    def _reason(self, objective: Objective, comparison: Comparison) -> str:
        """Return which data fits an objective; empty if there is none."""
        if OBJECTIVES[objective].learns_from == "rewards":
            return f"Answers that are checked ({', '.join(self.checks)})" if self.checks else ""
        if objective == "distill":
            prompt = _helping_prompt(comparison)
            return f"Messages without answers, under the prompt {prompt}, which helps," if prompt else ""
        data = OBJECTIVES[objective].fits
        return data[1] if data is not None and data[0] in self.tables else ""

    def _experiments(self, objective: str, comparison: Comparison) -> str:
        names = self.experiments.get(objective, ())
        compared = {row.experiment for row in comparison.rows}
        missing = [name for name in names if name not in compared]
        if not names:
            return ", of which the project has no experiment"
        state = "" if not missing else ": not trained yet" if len(missing) == len(names) else ""
        return f" ({', '.join(names)}{state})"


def _helping_prompt(comparison: Comparison) -> str | None:
    """Return the best prompt variant that clearly leads its base model without a prompt, by what decides."""
    for row in comparison.ranked():
        plain = comparison.plain(row)
        if row.kind == "prompt" and comparison.usable(row) and plain is not None and comparison.better(row, plain):
            return row.name
    return None
