"""The verdicts of people as an input of the comparison. Those of a judge are in the feature `judge`."""

from ft_pipeline.decide.sources.pair_opinions import RATED
from ft_pipeline.step import SpecContext
from ft_pipeline.store.artifacts import Artifact


def people_said(context: SpecContext) -> dict[str, Artifact]:
    """The verdicts of people, by the name of the input. Nothing if there are none: then all is as without `ft rate`.

    Raises UserError if a row was erased from them.
    """
    if context.pointer(RATED) is None:
        return {}
    made = context.artifact(RATED)
    return {RATED: made} if made.summary["verdicts"] else {}
