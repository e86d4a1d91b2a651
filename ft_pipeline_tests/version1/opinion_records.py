"""What comparison.json of version 1 said of the opinion of people, or of a judge, about the answers of two rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from ft_pipeline.evaluation.comparison import opinion_records
from ft_pipeline.evaluation.comparison.result_records import METRIC_IS_NAMED, WANTED_RATINGS
from ft_pipeline_tests.version1.json_record import JsonRecord

LABELS = {"people": "people's preference", "judge": "the judge's preference"}
By = opinion_records.By


@dataclass(frozen=True, kw_only=True)
class Opinion(opinion_records.Opinion, JsonRecord):
    """How often the answers of a row were preferred to those of a rival."""

    @property
    def is_clear_loss(self) -> bool:
        """Whether the rival is clearly preferred."""
        return self.high is not None and self.high < 0.5

    @property
    def is_unheard_loss(self) -> bool:
        """Whether the rival is clearly preferred, by too few people or a judge that does not decide."""
        return self.is_clear_loss and not self.may_decide and not self.because.startswith(METRIC_IS_NAMED)

    @property
    def missing(self) -> int:
        """How many more pairs people must rate before their opinion decides."""
        return max(0, WANTED_RATINGS - self.rated, self.changed)

    @property
    def who(self) -> str:
        """Who compared the answers, and how many."""
        if self.by == "judge":
            return f"a judge that compared {self.judged} pairs"
        judged = f", which correct those of a judge on {self.judged}" if self.judged else ""
        return f"people, who rated {self.rated} pairs blind{judged}"

    def describe(self) -> str:
        """Return how often the row's answers were preferred, for the end of a sentence."""
        ends = "" if self.low is None or self.high is None else f" ({100 * self.low:.0f} to {100 * self.high:.0f})"
        return f"preferred in {100 * self.win_rate:.0f} of 100 comparisons with {self.rival}{ends}"

    @property
    def agreement(self) -> str:
        """How far they agree, as a sentence; empty if that is not known."""
        if self.alpha is None:
            return ""
        agree = {"people": "They agree with each other", "judge": "It agrees with people"}[self.by]
        return f"{agree}: {self.alpha.describe()}."

    def describe_fully(self) -> str:
        """Return the opinion in sentences."""
        decides = "This decides between the two." if self.may_decide else f"This decides nothing: {self.because}."
        out = self.can_go_out
        going = (
            f"An answer can go out in {out.value:.0%} of the rated pairs ({out.low:.0%} to {out.high:.0%})."
            if out
            else ""
        )
        first = f"Answers of {self.row}: {self.describe()}, by {self.who}."
        return " ".join(filter(None, [first, self.agreement, decides, going]))


def ask_for_ratings(row: str, rival: str, opinions: Sequence[Opinion] = ()) -> str:
    """Return the command with which people rate enough pairs for their opinion to decide. opinions: those so far."""
    people = next((opinion for opinion in opinions if opinion.by == "people"), None)
    missing = f"{people.missing} more" if people else str(WANTED_RATINGS)
    return f"rate {missing} pairs with `ft rate {row} {rival}`"
