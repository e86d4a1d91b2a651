"""The clusters of held-out conversations (tables/clusters.py), which are the units of statistics."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

Clusters = Mapping[str, str]
"""Conversation → its cluster. A conversation that is not there is a cluster of its own."""


def read_clusters(conversations: Path | None) -> Clusters:
    """Return the clusters of the held-out rows of a conversations artifact; none of an older version, or of None."""
    path = conversations and conversations / "rows.parquet"
    if path is None or "cluster" not in pq.read_schema(path).names:
        return {}
    rows = pq.read_table(path, columns=["id", "cluster"], filters=pc.field("cluster").is_valid())
    return dict(zip(rows["id"].to_pylist(), rows["cluster"].to_pylist(), strict=True))


def with_clusters(records: Iterable[Mapping[str, Any]], clusters: Clusters) -> list[dict[str, Any]]:
    """Return records of answers with the cluster of their conversation, which `leads.unit_of` reads."""
    return [{**record, "cluster": clusters.get(record["group"], record["group"])} for record in records]
