"""The opinions of people, and of a judge, about the answers of two rows: how many comparisons a row wins."""

from collections.abc import Iterator

from ft_pipeline.decide.bench import Bench
from ft_pipeline.decide.claim import Claim, OpinionFacts, verdict_of

HALF = 0.5
"""Of the comparisons: neither row is preferred."""


def claims(bench: Bench) -> Iterator[Claim]:
    """Yield a claim per row that may be released, rival and kind of judge; that of people comes first."""
    for opinion in bench.opinions:
        yield Claim(
            kind="opinion",
            row=opinion.row,
            rival=opinion.rival,
            measure=opinion.by,
            value=opinion.win_rate,
            low=opinion.low,
            high=opinion.high,
            limit=HALF,
            p=opinion.p,
            count=opinion.rated or opinion.judged,
            verdict=verdict_of(opinion.low, opinion.high, HALF),
            facts=OpinionFacts(
                rated=opinion.rated,
                judged=opinion.judged,
                alpha=opinion.alpha,
                may_decide=opinion.may_decide,
                because=opinion.because,
                can_go_out=opinion.can_go_out,
                changed=opinion.changed,
            ),
        )
