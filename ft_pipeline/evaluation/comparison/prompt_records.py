"""What comparison.json says of a model that was trained to answer as under a prompt, but without it."""

from dataclasses import dataclass

from ft_pipeline.evaluation.comparison.json_record import JsonRecord
from ft_pipeline.evaluation.comparison.result_records import Savings


@dataclass(frozen=True)
class KeptPrompt(JsonRecord):
    """How much of a prompt's lead over the model without a prompt is in the weights, and what each call saves."""

    row: str
    prompt: str
    """The row of the prompt variant."""
    plain: str
    """The row of the model without a prompt."""
    metric: str
    share: float | None
    """The row's lead over `plain`, divided by that of `prompt`. None if the prompt does not clearly lead."""
    low: float | None
    """The ends of the 95 % interval of the share."""
    high: float | None
    saved: Savings
    """Against the prompt."""

    def describe(self) -> str:
        """Return what was kept and saved, in two sentences."""
        return f"{self._kept()} Each call {self._saving()} than with the prompt."

    def _kept(self) -> str:
        if self.share is None or self.low is None or self.high is None:
            return f"{self.prompt} does not clearly lead {self.plain}, so there is no gain that {self.row} could keep."
        interval = f"95 %: {self.low:.0%} to {self.high:.0%}"
        return f"{self.row} keeps {self.share:.0%} ({interval}) of the lead of {self.prompt} over {self.plain}."

    def _saving(self) -> str:
        parts = [
            _amount(self.saved.prompt_tokens_per_call, "{:.0f} fewer prompt tokens", "{:.0f} more prompt tokens"),
            _amount(self.saved.seconds_per_call, "{:.2g} s less", "{:.2g} s more"),
            _amount(self.saved.cost_per_call, "{:.2g} less money", "{:.2g} more money"),
        ]
        known = ", ".join(filter(None, parts))
        return f"takes {known}" if known else "takes no known amount less"


def _amount(saved: float | None, less: str, more: str) -> str:
    """Return what is saved as text; empty if it is unknown."""
    return "" if saved is None else (less if saved >= 0 else more).format(abs(saved))
