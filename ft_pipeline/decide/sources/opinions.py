"""The opinions of people, and of a judge, about the answers of two rows: how many comparisons a row wins."""

from collections.abc import Iterator
from dataclasses import asdict

from ft_pipeline.decide.bench import Bench
from ft_pipeline.decide.claim import Claim, verdict_of

HALF = 0.5
"""Of the comparisons: neither row is preferred."""


def claims(bench: Bench) -> Iterator[Claim]:
    """Yield a claim per row that may be released, rival and kind of judge; that of people comes first."""
    for opinion in bench.opinions:
        told = ("rated", "judged", "alpha", "may_decide", "because", "can_go_out", "changed")
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
            facts={key: value for key, value in asdict(opinion).items() if key in told},
        )
