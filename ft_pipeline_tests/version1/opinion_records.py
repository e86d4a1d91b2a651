"""What comparison.json of version 1 said of the opinion of people, or of a judge, about the answers of two rows."""

from dataclasses import dataclass

from ft_pipeline.evaluation.comparison import opinion_records
from ft_pipeline_tests.version1.json_record import JsonRecord

LABELS = {"people": "people's preference", "judge": "the judge's preference"}
By = opinion_records.By


@dataclass(frozen=True, kw_only=True)
class Opinion(opinion_records.Opinion, JsonRecord):
    """How often the answers of a row were preferred to those of a rival."""
