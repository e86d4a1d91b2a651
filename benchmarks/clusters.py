"""How many clusters the questions of the examples and of public sets are, by which statistics are clustered.

    python -m benchmarks.clusters [--public FOLDER]

FOLDER holds public files, by the names in PUBLIC. Without it, only the projects of this repository are read. Each set
is also measured as a test split: its first 134 rows in the order of their ids. Results go to
benchmarks/results/clusters.json.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pyarrow as pa

from benchmarks import machine
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables import clusters
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.conversation_rows import load_conversation_rows
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.formats.comparison_texts import views_of_messages
from ft_pipeline.tables.reading.sidecar import load_sidecar

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "clusters.json"
SPLIT = 134
"""Number of rows of a test split."""
ALLOWED = ("unresolved_placeholder",)
ROLES = {"User": "human", "agent": "gpt", "Agent": "gpt"}
LIMITS = ((2, 0.3), (2, 0.35), (2, 0.45), (2, 0.5), (3, 0.3))
"""Words of a window and share in common that are compared."""


class Source(NamedTuple):
    """The files of a set."""

    data_format: str
    files: str
    """A pattern."""
    columns: Mapping[str, str] = {}
    """As in a sidecar."""


OWN = {
    "full demo": Source("alpaca", "data/raw/alpaca/*.jsonl"),
    "full demo, conversations": Source("sharegpt", "data/raw/sharegpt/*.jsonl"),
    "classification": Source("alpaca", "examples/classification/data/raw/alpaca/*.jsonl"),
    "classification, test": Source("alpaca", "examples/classification/data/raw/alpaca/*_test.jsonl"),
    "extraction": Source("alpaca", "examples/extraction/data/raw/alpaca/*.jsonl"),
    "extraction, test": Source("alpaca", "examples/extraction/data/raw/alpaca/*_test.jsonl"),
}
PUBLIC = {
    "Bitext support": Source("alpaca", "support/bitext_support.csv", {"response": "output"}),
    "Alpaca": Source("alpaca", "alpaca/alpaca_en_demo.json"),
    "shop chats (cucom)": Source("sharegpt", "sharegpt/cucom_ecommerce.jsonl", {"turns": "conversations"}),
    "text to SQL": Source("chat", "outside/fireworks_sft_text2sql/text2sql_dataset.jsonl"),
    "news (one long instruction)": Source("traces", "outside/flywheel_news_300/news-classifier-300_dataset.jsonl"),
}


class Questions(NamedTuple):
    """The questions of a set, in the order of their ids."""

    texts: Any
    names: np.ndarray


def read(source: Source, root: Path) -> Questions:
    """Read a set as a project reads it."""
    paths = sorted(root.glob(source.files))
    files = [SourceFile(path.name, path, "", _sidecar(path, source)) for path in paths]
    settings = DataSettings()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / source.data_format
        build_table(source.data_format, files, out, max_quarantined=0.99, shares=settings)
        rows = load_conversation_rows({source.data_format: out}, settings)
        every = np.arange(len(rows))
        order = np.argsort(clusters.ids_of(rows, every), kind="stable")
        texts = pa.concat_arrays([views_of_messages(messages).asked for messages, _ in rows.batches(every)])
        return Questions(texts.take(pa.array(order)), rows.keys.group[order, 1])


def _sidecar(path: Path, source: Source) -> dict[str, Any] | None:
    own = path.with_suffix(".yaml")
    if own.exists():
        return load_sidecar(own)
    return {"columns": dict(source.columns), "roles": ROLES, "allow": list(ALLOWED)} if source.columns else None


def count(questions: Questions) -> dict[str, int]:
    """Return the number of rows, of split groups (a prompt, a template, a named group) and of clusters, and the rows of
    the largest one."""
    leaders = clusters.cluster(questions.texts, questions.names)
    sizes = np.unique_counts(leaders).counts
    groups = len(np.unique(questions.names))
    return {"rows": len(leaders), "groups": groups, "clusters": len(sizes), "largest": int(sizes.max())}


def measure(questions: Questions) -> dict[str, Any]:
    """Return the counts of a set, of a test split of it, and of the split by other limits."""
    split = Questions(questions.texts[:SPLIT], questions.names[:SPLIT])
    others = {}
    for words, shared in LIMITS:
        with patch.multiple(clusters, WORDS=words, MIN_SHARED=shared):
            others[f"{words} words, {shared:g}"] = {"all": count(questions), "split": count(split)}
    return {"all": count(questions), "split": count(split), "limits": others}


def main() -> None:
    """Measure every set, print it, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, help="the folder with the public files")
    options = parser.parse_args()
    sets = {name: read(source, ROOT) for name, source in OWN.items()}
    if options.public:
        sets |= {name: read(source, options.public) for name, source in PUBLIC.items()}
    results = {}
    for name, questions in sets.items():
        results[name] = measure(questions)
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    document = {"machine": machine.describe(), "words": clusters.WORDS, "shared": clusters.MIN_SHARED, "sets": results}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
