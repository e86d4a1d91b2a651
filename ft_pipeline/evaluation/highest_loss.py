"""The test answers that a tuned model finds hardest, and those that it lost against the base model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.tables.excluded_rows import MARKER_START
from ft_pipeline.tables.inspection import ListedRow, shorten
from ft_pipeline.tables.languages import language_of

SAMPLE_COLUMNS = ["item", "group", "reference", "answer", "loss_sum", "answer_tokens"]


@dataclass(frozen=True)
class HardAnswer:
    """One test answer, which is one turn of a row."""

    row: ListedRow
    """The row. Its prompt is the turn before the answer, and its answer is the reference."""
    loss: float
    """Held-out loss of the tuned model, in nats per token of the reference."""
    base_loss: float | None
    """The same of the base model without a prompt; None if it was not scored on the same rows."""
    tokens: int
    """Number of tokens of the reference."""
    model_answer: str
    """What the tuned model answers, shortened."""

    @property
    def rise(self) -> float:
        """By how much the loss is higher than the base model's; 0 if that is unknown."""
        return 0.0 if self.base_loss is None else self.loss - self.base_loss

    def to_json(self) -> dict[str, Any]:
        own = {key: value for key, value in asdict(self).items() if key != "row"}
        return {**self.row.to_json(), **own}


@dataclass(frozen=True)
class HardAnswers:
    """The test answers of an experiment to look at first."""

    model: str
    """The name of the scored model in scores.json."""
    scored: int
    """Number of test answers that were scored."""
    highest_loss: list[HardAnswer]
    """The highest loss first."""
    regressions: list[HardAnswer] | None
    """Answers whose loss is higher than under the base model, the greatest rise first. None if the base model was not
    scored on the same rows."""

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "scored": self.scored,
            "highest_loss": [answer.to_json() for answer in self.highest_loss],
            "regressions": None if self.regressions is None else [answer.to_json() for answer in self.regressions],
        }


def newest_scored_experiment(store: ArtifactStore) -> str | None:
    """Return the experiment whose scores were materialized last; None if there are no scores."""
    pointers = [pointer for pointer in AssetPointers(store.root).all() if pointer.asset == "scores"]
    return max(pointers, key=lambda pointer: pointer.when).partition if pointers else None


def hardest_answers(
    store: ArtifactStore, scores: Artifact, baseline: Artifact | None, count: int, table: str | None = None
) -> HardAnswers:
    """Return the test answers with the highest loss, and those with the greatest rise of the loss over the base model.

    scores: of an experiment; of its models the merged one counts, if there is one. baseline: its prompt baseline.
    table: only rows of this table. Answers of erased rows are left out. The origin of a row is `?` if the store no
    longer has its conversations.
    """
    models = {row["name"]: row for row in scores.document("scores.json")["rows"]}
    tuned = models.get("merged") or models["adapter"]
    base_losses = _base_losses(baseline, tuned["fingerprint"])
    samples = _read_samples(scores, tuned["name"])
    rows = _rows_by_id(store, scores, [sample["group"] for sample in samples])
    answers = [
        _hard_answer(sample, rows.get(sample["group"]), base_losses.get(sample["item"]))
        for sample in samples
        if table is None or rows.get(sample["group"], {}).get("table") == table
    ]
    answers.sort(key=lambda answer: (-answer.loss, answer.row.id))
    risen = [answer for answer in answers if answer.rise > 0]
    risen.sort(key=lambda answer: -answer.rise)
    return HardAnswers(tuned["name"], len(answers), answers[:count], risen[:count] if base_losses else None)


def _read_samples(scores: Artifact, model: str) -> list[dict[str, Any]]:
    """Return the samples of a scored model, without those of erased rows."""
    filters = [("name", "=", model)]
    samples = pq.read_table(scores.path / "samples.parquet", columns=SAMPLE_COLUMNS, filters=filters).to_pylist()
    return [sample for sample in samples if not sample["item"].startswith(MARKER_START)]


def _base_losses(baseline: Artifact | None, fingerprint: str) -> dict[str, float]:
    """Return item → loss of the base model without a prompt; an empty dictionary if it was scored on other rows."""
    rows = baseline.document("scores.json")["rows"] if baseline else []
    names = [row["name"] for row in rows if row["kind"] == "base" and row["fingerprint"] == fingerprint]
    return {sample["item"]: _loss(sample) for name in names if baseline for sample in _read_samples(baseline, name)}


def _rows_by_id(store: ArtifactStore, scores: Artifact, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Return the conversations that were scored, by id; an empty dictionary if the store no longer has them."""
    conversations = store.open(*scores.inputs["conversations"])
    if conversations is None:
        return {}
    columns = ["id", "table", "file", "row", "messages"]
    rows = pq.read_table(conversations.path / "rows.parquet", columns=columns, filters=[("id", "in", ids)])
    return {row["id"]: row for row in rows.to_pylist()}


def _hard_answer(sample: Mapping[str, Any], row: Mapping[str, Any] | None, base_loss: float | None) -> HardAnswer:
    turn = int(sample["item"].rpartition(":")[2])
    texts = [message["content"] or "" for message in row["messages"]] if row else []
    prompt = texts[turn - 1] if texts else ""
    origin = {name: row[name] for name in ("table", "file", "row")} if row else {"table": "", "file": "", "row": 0}
    loss, tokens = _loss(sample), sample["answer_tokens"]
    listed = ListedRow(
        **origin,
        id=sample["group"],
        language=language_of(prompt, sample["reference"]),
        characters=sum(map(len, texts)),
        why=f"{loss:.2f} nats per token" + ("" if base_loss is None else f", {base_loss:.2f} under the base model"),
        prompt=shorten(prompt),
        answer=shorten(sample["reference"]),
    )
    return HardAnswer(listed, loss, base_loss, tokens, shorten(sample["answer"]))


def _loss(sample: Mapping[str, Any]) -> float:
    return sample["loss_sum"] / sample["answer_tokens"]
