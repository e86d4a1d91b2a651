"""The verdicts of a judge on pairs of answers, and the files of the artifact `judgements`."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.distillation import endpoint_teacher
from ft_pipeline.evaluation.comparison.clusters import Clusters, read_clusters, with_clusters
from ft_pipeline.evaluation.comparison.leads import Conversations, bounds, interval, unit_of
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.opinions import correction
from ft_pipeline.evaluation.opinions.verdict_tables import hash_of_answer
from ft_pipeline.job import Job
from ft_pipeline.judge.asking import Judge, Outcome, Stop, ask, questions_of
from ft_pipeline.judge.pairs import Pair, first_items
from ft_pipeline.judge.settings import JudgeSettings
from ft_pipeline.models.endpoint.answer_log import AnswerLog
from ft_pipeline.models.endpoint.rate_limits import cost
from ft_pipeline.models.endpoint.responses import RULES

SIMILAR_LENGTH = 0.2
"""Share of the longer answer by which the lengths of two answers may differ and still count as similar."""
Judgement = Mapping[str, Any]
"""A row of judgements.parquet, with the cluster of its conversation."""


JUDGEMENTS = pa.schema(
    [
        *((name, pa.string()) for name in ("candidate", "rival", "item", "group", "candidate_answer", "rival_answer")),
        *((name, pa.float64()) for name in ("score", "first", "second")),
        *((name, pa.int64()) for name in ("unparsable", "candidate_bytes", "rival_bytes")),
    ]
)
"""A row per pair of answers. The hashes are SHA-256 of the answers; the scores are those of the candidate."""
REPLIES = pa.schema(
    [
        *((name, pa.string()) for name in ("candidate", "rival", "item", "group")),
        ("order", pa.int64()),
        *((name, pa.string()) for name in ("answer", "request_id")),
    ]
)
"""A row per reply. `ft erase` finds the replies about a row here."""
AskedPairs = Sequence[tuple[Pair, Sequence[Outcome]]]
"""Each pair with its outcomes in both orders; none for equal answers."""
FOLDER_PREFIX = "judge-"
"""Of the folder of a judge's log, so that its budget is not that of a teacher of the same name."""


def judge_pairs(job: Job, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Ask the judge about pairs, and write judgements.parquet, replies.parquet and judge.json.

    config: judge (JudgeSettings, without what is in `handling`), task, prompt_version, excluded (sentences). Optional:
    not_asked (why nothing is sent). handling: endpoint, plan. A judge that cannot be asked is no error: what it said
    before is kept.
    """
    judge = Judge(judge_settings(job.config, job.handling), job.config["task"])
    pairs = first_items(pairs, judge.settings.rows)
    with AnswerLog.open(log_folder(job.shared or job.work, judge), job.report.log) as log:
        if (not_asked := job.config.get("not_asked")) is None:
            stop = ask(judge, pairs, log, job)
        else:
            stop = Stop(not_asked, is_final=True)
        asked = [(pair, [judge.outcome(log, question) for question in questions_of(pair)]) for pair in pairs]
        spent = endpoint_teacher.spending_summary(log, judge.teacher)
    clusters = read_clusters(job.inputs.get("conversations"))
    document = _document(judge, job.config, asked, stop, clusters)
    if document["problem"]:
        job.report.log(document["problem"])
    write_judgements(job.out, document, asked)
    entries = [entry for _, outcomes in asked for outcome in outcomes for entry in outcome.entries]
    prices = judge.settings.endpoint.prices
    tokens = [sum(entry[key] or 0 for entry in entries) for key in ("prompt_tokens", "answer_tokens")]
    costs = {"calls": len(entries), "cost": round(cost(prices, *tokens), 6), **spent}
    return {**document, **costs, "incomplete": _is_incomplete(asked, stop), "plan": judge.plan(pairs)}


def judge_settings(config: Mapping[str, Any], handling: Mapping[str, Any]) -> JudgeSettings:
    """Return the judge's settings, merged from config and handling of a spec."""
    settings = dict(config["judge"])
    settings["endpoint"] = handling.get("endpoint", {}) | settings["endpoint"]
    return JudgeSettings.model_validate(settings)


def log_folder(shared: Path, judge: Judge) -> Path:
    """Return the folder of the judge's log."""
    folder = endpoint_teacher.log_folder(shared, judge.teacher)
    return folder.with_name(f"{FOLDER_PREFIX}{folder.name}")


def write_judgements(out: Path, document: Mapping[str, Any], asked: AskedPairs) -> None:
    """Write the files of the artifact."""
    rows = [_judgement(pair, outcomes) for pair, outcomes in asked if _is_judged(outcomes)]
    replies = [
        _identity(pair) | {"order": order, "answer": entry["answer"], "request_id": entry["request_id"]}
        for pair, outcomes in asked
        for order, outcome in enumerate(outcomes, 1)
        for entry in outcome.entries
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=JUDGEMENTS), out / "judgements.parquet")
    pq.write_table(pa.Table.from_pylist(replies, schema=REPLIES), out / "replies.parquet")
    (out / "judge.json").write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")


def _document(
    judge: Judge, config: Mapping[str, Any], asked: AskedPairs, stop: Stop | None, clusters: Clusters
) -> dict[str, Any]:
    """Return judge.json: who judged, by which rules, and the numbers of each pair of rows."""
    missing = sum(not _is_judged(outcomes) for _, outcomes in asked)
    names = dict.fromkeys((pair.candidate, pair.rival) for pair, _ in asked)
    judged = with_clusters((_judgement(pair, outcomes) for pair, outcomes in asked if _is_judged(outcomes)), clusters)
    return {
        "model": judge.settings.model,
        "host": judge.host,
        "prompt_version": config["prompt_version"],
        "rubric": judge.rubric,
        "rubric_sha256": _sha256(judge.rubric),
        "excluded": config["excluded"],
        "problem": _problem(stop, missing, len(asked)),
        "not_judged": missing,
        "overall": report_on(judged),
        "pairs": [
            {"candidate": candidate, "rival": rival}
            | report_on([row for row in judged if (row["candidate"], row["rival"]) == (candidate, rival)])
            for candidate, rival in names
        ],
    }


def _problem(stop: Stop | None, missing: int, total: int) -> str | None:
    """Return why there are pairs without a verdict, and that nothing is lost; None if there are none."""
    if stop is not None and (missing or stop.is_nonsense):
        return (
            f"The judge has no verdict on {missing:,} of {total:,} pairs of answers: {stop.reason}. The comparison is "
            "made without these, and what was paid for is kept."
        )
    if missing:
        return (
            f"The judge has no verdict on {missing:,} of {total:,} pairs of answers, because requests failed. Run "
            "again to ask about these."
        )
    return None


def _is_judged(outcomes: Sequence[Outcome]) -> bool:
    return all(outcome.is_known for outcome in outcomes)


def _is_incomplete(asked: AskedPairs, stop: Stop | None) -> bool:
    """Return whether the next run should ask again."""
    failures = {outcome.failure for _, outcomes in asked for outcome in outcomes if outcome.failure}
    return (stop is not None and not stop.is_final) or any(RULES[reason].retry for reason in failures)


def _judgement(pair: Pair, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    values = [outcome.value(order) for order, outcome in enumerate(outcomes, 1)] or [0.5, 0.5]
    ours, theirs = pair.answers
    return {
        **_identity(pair),
        "candidate_answer": hash_of_answer(ours),
        "rival_answer": hash_of_answer(theirs),
        "score": sum(values) / 2,
        "first": values[0],
        "second": values[1],
        "unparsable": sum(outcome.verdict is None for outcome in outcomes),
        "candidate_bytes": len(ours.encode()),
        "rival_bytes": len(theirs.encode()),
    }


def _identity(pair: Pair) -> dict[str, Any]:
    return {"candidate": pair.candidate, "rival": pair.rival, "item": pair.item.id, "group": pair.item.group}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def report_on(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Return the numbers that are always shown with verdicts. Those that cannot be computed are None.

    Equal answers count as ties. The judge was not asked about them, so they say nothing about its replies.
    """
    asked = [row for row in judgements if row["candidate_answer"] != row["rival_answer"]]
    similar = [row for row in judgements if _is_similar(row["candidate_bytes"], row["rival_bytes"])]
    return {
        "judged": len(judgements),
        "identical": len(judgements) - len(asked),
        "win_rate": _win_rate(judgements),
        "same_in_both_orders": _share([row["first"] == row["second"] for row in asked]),
        "first_position_wins": _first_position_wins(asked),
        "unparsable": _share([row["unparsable"] / 2 for row in asked]),
        "similar_length": {"judged": len(similar), "win_rate": _win_rate(similar)},
        "length_adjusted": length_adjusted(judgements),
    }


def length_adjusted(judgements: Sequence[Judgement]) -> float | None:
    """Return the win rate at equal lengths: ½ plus the intercept of (score - ½) regressed on log(bytes of the candidate
    / bytes of the rival); None without verdicts.

    Dubois et al. 2024, "Length-Controlled AlpacaEval", with a plain regression.
    """
    if not judgements:
        return None
    ratios = [math.log(max(1, row["candidate_bytes"]) / max(1, row["rival_bytes"])) for row in judgements]
    scores = np.array([row["score"] for row in judgements])
    return min(1.0, max(0.0, correction.length_adjusted(scores, np.array(ratios))))


def _is_similar(first: int, second: int) -> bool:
    return abs(first - second) <= SIMILAR_LENGTH * max(first, second)


def _share(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _win_rate(judgements: Sequence[Judgement]) -> dict[str, Any] | None:
    """Return the mean score with its 95 % interval over clusters; None without verdicts."""
    if not judgements:
        return None
    scores = np.array([[row["score"]] for row in judgements])
    [estimate] = Conversations([unit_of(row) for row in judgements]).means(scores)
    return asdict(Score(estimate.value, *bounds(estimate.influence + estimate.value)))


def _first_position_wins(judgements: Sequence[Judgement]) -> dict[str, Any] | None:
    """Return the share of verdicts other than "same" that prefer the answer shown first, with Wilson's interval."""
    # The candidate is shown first in `first`, and second in `second`.
    decided = np.array([[float(row["first"] != 0.5) + float(row["second"] != 0.5)] for row in judgements])
    wins = np.array([[float(row["first"] == 1.0) + float(row["second"] == 0.0)] for row in judgements])
    if not decided.sum():
        return None
    [estimate] = Conversations([unit_of(row) for row in judgements]).ratios(wins, decided, is_rate=True)
    return asdict(interval(estimate))
