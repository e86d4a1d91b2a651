"""`ft relabel`: rows are labeled again, blind; raw files stay, and an experiment trains on the new labels."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.errors import UserError
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.tables.relabels import (
    FILE_NAME,
    TRAINED,
    Relabel,
    add_relabel,
    changed_labels,
    read_relabels,
    with_label,
)
from ft_pipeline.worth.relabel_page import Asked, RelabelPage, asked_rows, count_decided
from ft_pipeline_tests.end_to_end.project import ft_here, ft_here_json
from ft_pipeline_tests.fixtures.packing import FINISHED, unpack_signed
from ft_pipeline_tests.ratings.visiting import Visitor, serving
from ft_pipeline_tests.worth.test_worth import EXAMPLE, LIGHT

LABELS = ["damaged", "delivery", "refund"]
DAMAGED, REFUND = "0", "2"
"""Their places among LABELS, which a form sends."""
HOSTILE = "</form><script>alert(1)</script>"
ROWS = [Asked(f"row-{number}", "alpaca/a.jsonl", f"{HOSTILE} {number}", "refund", "damaged") for number in range(12)]


def visiting(
    root: Path, rows: Sequence[Asked] = ROWS, require_rows: Callable[[], None] = lambda: None
) -> AbstractContextManager[Visitor]:
    """Serve the page as `ft relabel` does."""
    return serving(lambda served: RelabelPage(root, rows, LABELS, served.stop, require_rows).app())


def choices(visitor: Visitor) -> list[str]:
    return [LABELS[int(place)] for place in re.findall(r'name="label" value="(\d+)"', visitor.html)]


def label(visitor: Visitor, **fields: str) -> None:
    visitor.send("label", {"item": visitor.item, **fields})


def counts(root: Path) -> Mapping[str, int]:
    return count_decided(ROWS, read_relabels(root))


def test_rows_are_labeled_blind_and_each_decision_is_kept_at_once(tmp_path: Path) -> None:
    with visiting(tmp_path) as visitor:
        visitor.open()
        first = []
        for done, choice in enumerate(["damaged", "refund", "", "delivery", *["refund"] * 8]):
            assert f"{done} of 12 labeled" in visitor.html and "alpaca" not in visitor.html
            assert "<script>" not in visitor.html and "&lt;script&gt;" in visitor.html
            assert sorted(choices(visitor)) == ["damaged", "refund"]
            first.append(choices(visitor)[0])
            place = str(LABELS.index(choice)) if choice else ""
            label(visitor, **({"other": place} if choice == "delivery" else {"label": place}))
        assert set(first) == {"damaged", "refund"}  # the order tells nothing
        assert "All 12 rows are labeled" in visitor.html and "Of 12 rows" not in visitor.html
        visitor.send("result", {})
        assert "Of 12 rows, 9 keep their label, 1 get the likely one, 1 another one; 1 are unsure" in visitor.html
    assert changed_labels(read_relabels(tmp_path)) == {"row-0": "damaged", "row-3": "delivery"}


def test_a_decision_can_be_changed_sent_twice_and_must_be_a_label(tmp_path: Path) -> None:
    with visiting(tmp_path) as visitor:
        visitor.open()
        for _ in range(2):
            visitor.send("label", {"item": "row-0", "label": DAMAGED})
        assert counts(tmp_path) == {"kept": 0, "likely": 1, "other": 0, "unsure": 0, "open": 11}
        assert len((tmp_path / FILE_NAME).read_text(encoding="utf-8").splitlines()) == 1
        visitor.open("?item=row-0")
        assert re.search(rf'value="{DAMAGED}" accesskey="\w" aria-pressed="true"', visitor.html)
        label(visitor, label=REFUND)
        assert counts(tmp_path)["kept"] == 1
        for fields in ({"item": "row-1", "label": "3"}, {"item": "row-99", "label": REFUND}, {"item": "row-1"}):
            visitor.send("label", fields)
            assert visitor.status == 409 and "This is no label of one of the rows" in visitor.html
        visitor.send("result", {})
        assert "Of 12 rows" not in visitor.html


def test_a_line_that_is_no_decision_is_named(tmp_path: Path) -> None:
    add_relabel(tmp_path, Relabel("a", "alpaca/a.jsonl", "refund", None))
    with (tmp_path / FILE_NAME).open("a", encoding="utf-8") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match=r"data/relabels\.jsonl:2 is no decision of `ft relabel`\. Remove the line"):
        read_relabels(tmp_path)


def test_the_last_trained_answer_gets_the_label() -> None:
    turns = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "refund"},
        {"role": "user", "content": "!"},
        {"role": "assistant", "content": "refund"},
        {"role": "assistant", "content": "shown", "weight": 0},
    ]
    assert [turn["content"] for turn in with_label(turns, "damaged")] == ["?", "refund", "!", "damaged", "shown"]
    assert turns[3]["content"] == "refund"
    thought = [{"role": "assistant", "content": "refund", "reasoning_content": "It was paid."}]
    assert with_label(thought, "damaged")[0]["reasoning_content"] is None


@given(st.lists(st.builds(Relabel, *[st.text(min_size=1)] * 3, st.none() | st.text()), max_size=4))
def test_decisions_are_read_as_they_were_made(made: list[Relabel]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for decision in made:
            add_relabel(Path(folder), decision)
        found = read_relabels(Path(folder))
    assert {name: replace(each, time="") for name, each in found.items()} == {each.id: each for each in made}


def test_an_erased_label_is_none() -> None:
    assert changed_labels(
        {"a": Relabel("a", "", "[forgotten]", "refund"), "b": Relabel("b", "", "x", "[forgotten]")}
    ) == {"a": "refund"}


def test_only_rows_that_can_be_labeled_again_are_asked() -> None:
    rows = [
        {"id": str(place), "source": "a", "question": "?", "label": "x", "likely": "y", "can_be_asked": can}
        for place, can in enumerate((False, True, True))
    ]
    assert [row.id for row in asked_rows({"wrong_labels": {"rows": rows}}, 1)] == ["1"]


def test_the_command_says_what_was_decided(tmp_path: Path) -> None:
    root = tmp_path / "messages"
    shutil.copytree(EXAMPLE, root, ignore=shutil.ignore_patterns("store"))
    (made,) = ft_here(root, ("run", "--select", LIGHT))
    ((_, document),) = ft_here_json(root, ("worth", "--by", "label"))
    assert made.returncode == 0, made.stderr
    rows = asked_rows(document, 2)
    raw = (root / "data" / "raw" / "alpaca" / "messages.jsonl").read_text(encoding="utf-8").splitlines()
    name, _, number = rows[0].source.partition(":")
    found = json.loads(raw[int(number) - 1])
    assert (name, found["output"]) == ("alpaca/messages.jsonl", rows[0].label) and found["instruction"] == rows[
        0
    ].question
    for row in rows:
        add_relabel(root, Relabel(row.id, row.source, row.label, row.likely))
    (said,) = ft_here(root, ("relabel", "-n", "2"))  # all are labeled: no page is needed
    assert said.returncode == 0, said.stderr
    assert "Of 2 rows, 0 keep their label, 2 get the likely one" in said.stdout.replace("\n", " ")
    assert "relabels: true" in said.stdout.replace("\n", " ")


def trained_texts(artifact: Artifact, tokenizer: Path) -> dict[str, str]:
    """Return id → what is trained of each train row."""
    reader = load_tokenizer(tokenizer)
    rows = pq.read_table(artifact.path / "train.parquet").to_pylist()
    return {row["id"]: reader.decode([token for token in row["labels"] if token >= 0]) for row in rows}


def messages_of(store: ArtifactStore, training_data: Artifact, row: str) -> list[dict[str, Any]]:
    """Return the turns of a conversation that is trained."""
    table = store.require(*training_data.inputs["conversations"]).path / "rows.parquet"
    (found,) = pq.read_table(table, columns=["messages"], filters=[("id", "=", row)])["messages"].to_pylist()
    return list(found)


def test_an_experiment_trains_on_the_new_labels_and_others_do_not(tmp_path: Path) -> None:
    root = unpack_signed(FINISHED, tmp_path)
    store = ArtifactStore(root / "data" / "store")
    name = sorted(path.stem for path in (root / "experiments").glob("*.yaml"))[0]

    def training_data(experiment: str) -> Artifact:
        pointer = AssetPointers(store.root).read("training_data", experiment)
        assert pointer is not None
        return store.require(pointer.kind, pointer.fingerprint)

    before = training_data(name)
    base = store.require(*before.inputs["base_model"]).path
    earlier = trained_texts(before, base)
    settings = (root / "experiments" / f"{name}.yaml").read_text(encoding="utf-8")
    (root / "experiments" / "again.yaml").write_text(f"{settings}\ndata: {{relabels: true}}\n", encoding="utf-8")
    command = ("run", "--experiment", "again", "--select", "experiment,base_model,training_data")
    (refused,) = ft_here(root, command)
    assert refused.returncode and "no label was changed. Run `ft relabel`" in refused.stdout + refused.stderr

    changed = sorted(earlier)[0]
    add_relabel(root, Relabel(changed, "alpaca/a.jsonl", "old", "The new answer."))
    (done,) = ft_here(root, command)
    assert done.returncode == 0, done.stderr + done.stdout
    now = trained_texts(training_data("again"), base)
    assert now == {**earlier, changed: now[changed]} and now[changed].startswith("The new answer.")
    assert training_data(name).reference == before.reference
    assert changed not in json.dumps(training_data("again").spec)
    assert training_data("again").document(TRAINED) == {changed: "The new answer."}
    answers = {turn["content"] for turn in messages_of(store, before, changed) if turn["role"] == "assistant"}
    for subject, texts, trained in (
        ("again", answers, False),
        ("again", {"The new answer."}, True),
        (name, answers, True),
        (name, {"The new answer."}, False),
    ):
        for text in texts:
            ((code, found),) = ft_here_json(root, ("audit", f"training_data@{subject}", "--sentence", text))
            assert code == 0 and found["trained"] == trained, (subject, text)

    (root / FILE_NAME).unlink()
    add_relabel(root, Relabel("f" * 64, "alpaca/a.jsonl", "old", "new"))
    (nowhere,) = ft_here(root, command)
    assert (
        nowhere.returncode
        and "None of the 1 rows that were labeled again is trained" in nowhere.stdout + nowhere.stderr
    )


def test_no_label_is_kept_after_an_erasure(tmp_path: Path) -> None:
    def refuse() -> None:
        raise UserError("Rows were erased since they were read.")

    with visiting(tmp_path, require_rows=refuse) as visitor:
        visitor.send("label", {"item": "row-0", "label": DAMAGED})
        assert visitor.status == 409 and "Rows were erased" in visitor.html
    assert read_relabels(tmp_path) == {}
