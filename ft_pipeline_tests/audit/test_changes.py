"""What an audit shows of the test results of a model that a comparison may screen out."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.audit.chain import walk
from ft_pipeline.audit.changes import describe_changes
from ft_pipeline.audit.subject import find_subject
from ft_pipeline.decide.claim import Claim, ScreenFacts
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline_tests.audit.shop import Shop
from ft_pipeline_tests.golden.worlds import make

SCORE = {"loss": {"value": 7.3133, "low": 7.2122, "high": 7.4144}}


def put_scores(shop: Shop, conversations: int) -> Artifact:
    """Scores of a merged model, with so many validation conversations."""
    known = {"name": "merged", "content_nats": 20.0, "content_bytes": 40}
    records = [{**known, "item": f"{number}:1", "group": str(number)} for number in range(conversations)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), file)
    summary = {"rows": [{"name": "merged", "kind": "merged", "fingerprint": "f", "scores": SCORE}]}
    return shop.put("scores", "style", {}, {}, {"validation.parquet": file.getvalue()}, summary)


def put_comparison(shop: Shop, scores: Artifact, **screen: Any) -> None:
    """A comparison that read the scores. screen: the verdict of the claim about their row."""
    document = make("tuned_wins").comparison.to_json()
    (row,) = (row for row in document["rows"] if row["kind"] == "merged")
    assert row["source"] == "style/scores" and row["source_row"] == "merged"
    known = {"row": row["name"], "rival": "base", "scope": "validation", "value": 0.1, "count": 40}
    document["claims"].append(Claim(kind="screen", **known, **screen, facts=ScreenFacts(error=0.02)).to_json())
    files = {"comparison.json": json.dumps(document).encode()}
    shop.put("comparison", None, {"style/scores": scores}, {}, files)


def told(shop: Shop) -> dict[str, Any]:
    index = ArtifactIndex(shop.store.root)
    chain = walk(index, find_subject(index, "scores@style"))
    return describe_changes(chain, chain)["scores"]["now"]["scores"]


def test_nothing_screens_a_model_with_few_validation_rows(shop: Shop) -> None:
    put_scores(shop, 5)
    assert told(shop) == SCORE


def test_before_a_comparison_has_read_them_they_are_not_shown(shop: Shop) -> None:
    put_scores(shop, 40)
    assert told(shop) == {}


def test_they_are_not_shown_if_the_comparison_cannot_be_read(shop: Shop) -> None:
    shop.put("comparison", None, {"style/scores": put_scores(shop, 40)}, {}, {"comparison.json": b"{}"})
    assert told(shop) == {}


def test_they_are_not_shown_if_the_scores_are_damaged(shop: Shop) -> None:
    (put_scores(shop, 40).path / "validation.parquet").write_bytes(b"PAR1")
    assert told(shop) == {}


@pytest.mark.parametrize(("verdict", "shown"), [("shown", SCORE), ("refuted", {})])
def test_the_comparison_says_whether_they_are_shown(shop: Shop, verdict: str, shown: dict[str, Any]) -> None:
    put_comparison(shop, put_scores(shop, 40), verdict=verdict)
    assert told(shop) == shown
