"""What the comparison gets of a judge: its verdicts, and which judge it is."""

from typing import Any

from ft_pipeline.decide.sources.pair_opinions import JUDGED
from ft_pipeline.evaluation.opinions.verdict_tables import judgement_of, read_judgements, read_ratings
from ft_pipeline.judge.settings import judge_of
from ft_pipeline.step import SpecContext
from ft_pipeline.steps.shared.compared_scores import people_said
from ft_pipeline.store.artifacts import Artifact


def compared_by(context: SpecContext) -> dict[str, Any]:
    """Return what the config of the comparison says of the project's judge; nothing without one."""
    judge = judge_of(context.project.settings.evaluation)
    return {"judge": judge.model_dump(mode="json", include={"model", "rubric"})} if judge else {}


def opinions(context: SpecContext) -> dict[str, Artifact]:
    """The verdicts of the project's judge, by the name of the input, with earlier ones that people rated, too."""
    made = context.find(JUDGED) if judge_of(context.project.settings.evaluation) else None
    if made is None or made.redacted or not made.inputs:
        return {}
    return {JUDGED: made, **_earlier(context, made)}


def _earlier(context: SpecContext, now: Artifact) -> dict[str, Artifact]:
    """Earlier verdicts of the same judge on answers that people rated: they show how far it agrees with people. After a
    retraining, it has compared other answers since."""
    judgements = read_judgements(now.path)
    ratings = {answers for said in people_said(context).values() for answers in read_ratings(said.path)}
    missing = {answers for answers in ratings if judgement_of(answers, judgements) is None}
    found: list[Artifact] = []
    for made in reversed(context.store.all(JUDGED)) if missing else ():
        if made.fingerprint == now.fingerprint or made.redacted or _judge_of(made) != _judge_of(now):
            continue
        judgements = read_judgements(made.path)
        known = {answers for answers in missing if judgement_of(answers, judgements) is not None}
        found += [made] if known else []
        missing -= known
    return {f"{JUDGED}.{number}": made for number, made in enumerate(found, 1)}


def _judge_of(judgements: Artifact) -> list[object]:
    """What must be the same for verdicts to be those of one judge."""
    return [judgements.summary.get(key) for key in ("model", "prompt_version", "rubric_sha256")]
