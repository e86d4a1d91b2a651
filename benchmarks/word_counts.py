"""What counting words reaches on the rows of the classification example: TF-IDF with logistic regression.

    python benchmarks/word_counts.py

The tables are made by `ft run`, so that the splits are those of the example. Both parts have the defaults of
scikit-learn, but the regularization, which cross-validation on the training rows chooses. With scikit-learn's default
for that, too, 62 of the 65 are right. Results go to benchmarks/results/word_counts.json.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import pyarrow.parquet as pq
import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from ft_pipeline.evaluation.comparison.leads import wilson

RESULTS = Path(__file__).parent / "results" / "word_counts.json"
TABLES = ("alpaca", "sharegpt", "chat", "traces", "text", "preferences", "feedback", "unlabelled")
REGULARIZATIONS = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Inverse strengths; scikit-learn's default is 1."""
FT = "import sys; from ft_pipeline.cli import main; sys.exit(main())"


def messages_by_split(project: Path) -> dict[str, list[tuple[str, str]]]:
    """Make the tables of the example in `project`, and return text and label of each message, by split."""
    steps = [*(f"raw_{name}" for name in TABLES), *TABLES, "conversations"]
    for command in (
        ["init", str(project), "--example-of", "classification"],
        ["run", "--project", str(project), "--select", ",".join(steps)],
    ):
        subprocess.run([sys.executable, "-c", FT, *command], check=True)
    [table] = (project / "data" / "store" / "artifacts" / "conversations").glob("*/*/rows.parquet")
    found: dict[str, list[tuple[str, str]]] = {}
    for row in pq.read_table(table).to_pylist():
        question, answer = (message["content"] for message in row["messages"])
        found.setdefault(row["split"], []).append((question, answer))
    return found


def measure(splits: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    """Return the share of the test messages that get the right label. Only training rows are learned from."""
    texts, labels = zip(*splits["train"], strict=True)
    questions, answers = zip(*splits["test"], strict=True)
    started = time.perf_counter()
    counted = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    model = GridSearchCV(counted, {"logisticregression__C": REGULARIZATIONS}).fit(texts, labels)
    seconds = time.perf_counter() - started
    right = int((model.predict(questions) == list(answers)).sum())
    low, high = wilson(right / len(answers), len(answers))
    return {
        "train_rows": len(texts),
        "test_rows": len(answers),
        "right": right,
        "accuracy": right / len(answers),
        "accuracy_interval": [low, high],
        "regularization": model.best_params_["logisticregression__C"],
        "seconds_to_fit": seconds,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = measure(messages_by_split(Path(folder) / "topics"))
    result = {"machine": machine.describe(), "scikit_learn": sklearn.__version__, **found}
    print(json.dumps(result, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
