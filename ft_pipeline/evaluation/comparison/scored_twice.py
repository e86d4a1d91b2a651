"""What rounding alone changes in the scores of a prompt that was scored twice: the noise floor of a comparison."""

from collections.abc import Mapping, Sequence

from ft_pipeline.evaluation.comparison.estimates import Samples, estimate_samples
from ft_pipeline.evaluation.comparison.result_records import ScoredTwice
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel
from ft_pipeline.evaluation.metrics.definitions import Metric

SECOND_SCORES = "second.parquet"
"""The records of the second scores, as those of samples.parquet, without texts."""
DIFFERS = "differs"
"""Column: whether the second answer is another one."""


def scored_twice(
    models: Sequence[ScoredModel], samples: Samples, primary: str, own: Mapping[str, Metric]
) -> ScoredTwice | None:
    """Return what the second scores show; with several base models, the largest spread. None: nothing was scored twice,
    as in scores of older versions. samples: the first scores."""
    found = []
    for model in models:
        second = model.records(SECOND_SCORES)
        if not second:
            continue
        again = {record["item"] for record in second}
        first = [record for record in samples[model.name] if record["item"] in again]
        values = [estimate_samples({model.name: records}, own)[model.name].get(primary) for records in (first, second)]
        if values[0] is not None and values[1] is not None:
            differing = sum(record[DIFFERS] for record in second)
            found.append(
                ScoredTwice(
                    row=model.name,
                    answers=len(second),
                    differing=differing,
                    spread=abs(values[0].value - values[1].value),
                )
            )
    return max(found, key=lambda entry: entry.spread, default=None)
