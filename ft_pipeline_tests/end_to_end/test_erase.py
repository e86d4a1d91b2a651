"""A deletion request as a user answers it, from the terminal only: erase, audit, plan, run again, audit.

Only tables are built, so that it takes seconds; erasure/test_erase.py tests models.
"""

import json
from pathlib import Path

import pytest

from ft_pipeline import scaffold
from ft_pipeline_tests.end_to_end.project import KEEP, ROWS, cut, ft, ft_in_one_process, ft_in_turn

TABLES = "raw_alpaca,raw_sharegpt,alpaca,sharegpt,conversations"
RUN = ("run", "--experiment", "qlora", "--select", TABLES)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The worked example cut down, its tables materialized by a process that has ended: it locks its run until then."""
    root = scaffold.create(tmp_path / "shop", example=True)
    for data_format in ("alpaca", "sharegpt"):
        for path in (root / "data" / "raw" / data_format).glob("*.jsonl"):
            if path.name not in KEEP[data_format]:
                path.unlink()
            elif data_format in ROWS:
                cut(path, ROWS[data_format])
    assert ft(root, *RUN).returncode == 0
    return root


@pytest.mark.long
def test_an_erased_row_is_redacted_and_the_next_run_omits_it(root: Path) -> None:
    raw = root / "data" / "raw" / "alpaca" / "support_01.jsonl"
    sentence = json.loads(raw.read_text(encoding="utf-8").splitlines()[3])["instruction"]
    place = "alpaca/support_01.jsonl:4"
    chain = ("audit", "conversations")

    (_, before), (_, verified), (_, done), (code, after), (_, planned) = ft_in_turn(
        root,
        (*chain, "--sentence", sentence),
        (*chain, "--verify"),
        ("erase", "data/raw/alpaca/support_01.jsonl", "4", "--reason", "request 4711"),
        (*chain, "--verify"),
        ("run", "--experiment", "qlora", "--plan"),
    )
    assert ("equal", place) in {(match["how"], match["origin"]) for match in before["matches"]}
    assert verified["verified"] is True and verified["counted"]["events_of_Dagster"] == len(TABLES.split(","))
    assert {artifact["kind"] for artifact in done["artifacts"]} == {"alpaca", "conversations"}
    assert not any("separate database" in note for note in done["notes"])
    assert code == 0 and after["verified"] is False and after["problems"] == []
    status = {node["kind"]: node["status"] for node in after["nodes"]}
    assert {status[kind] for kind in ("raw_alpaca", "alpaca", "conversations")} == {"redacted"}
    assert {status[kind] for kind in ("raw_sharegpt", "sharegpt")} == {"verified"}
    why = {step["asset"]: step["reason"] for step in planned["plan"] if step["runs"]}
    assert why["alpaca"] == why["conversations"] == "one of its rows was erased"

    old = next(node["fingerprint"] for node in after["nodes"] if node["kind"] == "conversations")
    *documents, shown = ft_in_one_process(
        root,
        *((*command, "--json") for command in (RUN, (*chain, "--verify"), (*chain, "--sentence", sentence))),
        (*chain, "--left-out", "--json"),
        ("audit", old[:12], "--verify"),
    )
    ran, chained, search, aside = (json.loads(document.stdout) for document in documents)
    assert {step["asset"] for step in ran["steps"]} == {"raw_alpaca", "alpaca", "conversations"}
    assert chained["verified"] is True and chained["redacted"] == []
    assert not any(match["how"] == "equal" for match in search["matches"])
    assert ("support_01.jsonl", 4, "excluded") in {(row["file"], row["row"], row["code"]) for row in aside["rows"]}

    assert shown.returncode == 0 and "Redacted on request, so not verified" in shown.stdout
