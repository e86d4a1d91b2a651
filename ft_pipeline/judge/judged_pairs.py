"""Worker for `judgements`: which pairs of answers a judge is asked about, those of candidates and of the rivals that
they must beat."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ft_pipeline.decide.build import build
from ft_pipeline.decide.comparison import CHAMPION, Comparison, Row
from ft_pipeline.job import Job
from ft_pipeline.judge.pairs import Pair, pairs_of
from ft_pipeline.judge.verdicts import judge_pairs


def run(job: Job) -> dict[str, Any]:
    """Ask the judge (judgements.judge_pairs). config: also comparison (bench.Config) and max_test_rows. inputs: the
    scores, conversations."""
    config, conversations = job.config, job.inputs["conversations"]
    return judge_pairs(job, pairs_to_judge(job.inputs, config["comparison"], conversations, config["max_test_rows"]))


def pairs_to_judge(
    inputs: Mapping[str, Path], config: Mapping[str, Any], conversations: Path, max_test_rows: int | None
) -> list[Pair]:
    """Return all pairs of answers, item by item in a fixed order, so that the first ones are a fair sample.

    inputs, config: as of build.build_comparison. conversations: the folder of the artifact with the test rows.
    """
    rivals = rivals_by_candidate(build(inputs, config))
    return pairs_of(rivals, inputs, config, conversations, max_test_rows)


def rivals_by_candidate(comparison: Comparison) -> list[tuple[str, str]]:
    """Return (candidate, rival) of all rows that may be released and passed the screen, best first.

    The rivals are the champion, and the best use of the candidate's base model without tuning.
    """
    champions = [row for row in comparison.rows if row.kind == CHAMPION]
    pairs = []
    for row in _candidates(comparison):
        bar = comparison.bar(row)
        rivals = dict.fromkeys(rival.name for rival in (*champions, *filter(None, [bar])) if rival.name != row.name)
        pairs += [(row.name, rival) for rival in rivals]
    return pairs


def _candidates(comparison: Comparison) -> Iterator[Row]:
    """Yield the rows that a promotion would test: one for each experiment (merged, if it can be), and prompts."""
    merged = {row.experiment for row in comparison.rows if row.kind == "merged"}
    for row in comparison.ranked():
        is_released = (
            row.rights.is_candidate
            and not row.rights.without_model
            and not (row.kind == "adapter" and row.experiment in merged)
        )
        if is_released and comparison.usable(row) and all(claim.holds for claim in comparison.about(row, "screen")):
            yield row
