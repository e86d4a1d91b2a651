"""The asset `inbox` in a real Dagster instance, and what the automation does with accepted calls."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ft_pipeline.execution.resources import RESOURCES
from ft_pipeline.inbox.decide import decide
from ft_pipeline.inbox.decisions import ledger
from ft_pipeline_tests.automation.simulated import Simulation, rows, simulated
from ft_pipeline_tests.graph import of_all_steps
from ft_pipeline_tests.inbox.served import QUESTION, RIGHT, WRONG, accepted_lines, call, new_project, said, write

LOG = "traffic/traces-2026-11-23.jsonl"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulation]:
    """A project that retrains `qlora` for a single new row."""
    root = new_project(tmp_path / "shop").root
    monkeypatch.setenv("FT_PROJECT", str(root))
    with simulated(root, tmp_path, min_new_rows=1) as simulation:
        yield simulation


def materialize(shop: Simulation, **config: Any) -> dg.ExecuteInProcessResult:
    """Materialize the asset as the launchpad does."""
    asset = of_all_steps().get_assets_def("inbox")
    run_config = {"ops": {"inbox": {"config": config}}} if config else {}
    return dg.materialize(
        [asset], instance=shop.instance, resources=RESOURCES, run_config=run_config, raise_on_error=False
    )


def shown(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    assert result.success
    (event,) = result.asset_materializations_for_node("inbox")
    return {key: value.value for key, value in event.metadata.items()}


def open_ids(metadata: dict[str, Any]) -> list[Any]:
    table = metadata["open"]
    return [] if isinstance(table, str) else [record.data["id"] for record in table.records]


def test_the_ui_shows_proposals_and_decides_only_on_ids(shop: Simulation) -> None:
    log = shop.project.root / LOG
    write(log, call("a"), call("b", "Malta?", "Yes."), call("c", "Now?", "No."), "{")
    write(log, said("a", 1, correction=RIGHT, user="ann"), said("b", 2, rating="up"), said("c", 3, correction="No."))
    metadata = shown(materialize(shop))
    assert open_ids(metadata) == ["c", "b", "a"] and metadata["proposals"] == 3
    row = metadata["all_open"][2]
    assert (row["question"], row["answer"], row["correction"]) == (QUESTION, WRONG, RIGHT)
    assert (row["user"], row["checks"]) == ("ann", "ok")
    assert metadata["broken_lines"][0].startswith("traces-2026-11-23.jsonl, line 4: ")
    assert accepted_lines(shop.project) == [] and ledger(shop.store.root).read() == [], "nothing is accepted by itself"

    metadata = shown(materialize(shop, accept=["a"], reject=["b"], reason="checked"))
    assert open_ids(metadata) == ["c"] and metadata["accepted"] == ["a"]
    assert len(accepted_lines(shop.project)) == 2
    assert [entry["reason"] for entry in ledger(shop.store.root).read()] == ["checked", "checked"]

    failed = materialize(shop, accept=["c"])
    assert not failed.success
    failure = failed.failure_data_for_node("inbox")
    assert failure is not None and failure.user_failure_data is not None
    assert "'c' would not be used (chosen_equals_rejected" in (failure.user_failure_data.description or "")
    assert len(accepted_lines(shop.project)) == 2


def test_a_project_without_a_log_says_how_to_get_one(shop: Simulation) -> None:
    assert open_ids(shown(materialize(shop))) == [], "a log that nobody has written yet"
    settings = yaml.safe_load((shop.project.root / "project.yaml").read_text(encoding="utf-8"))
    del settings["inbox"]
    (shop.project.root / "project.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert "Set `inbox.log` in project.yaml" in shown(materialize(shop))["how"]
    assert not materialize(shop, accept=["a"]).success


def test_no_asset_depends_on_the_inbox(shop: Simulation) -> None:
    graph = of_all_steps().resolve_asset_graph()
    node = graph.get(dg.AssetKey("inbox"))
    assert not node.parent_keys and not node.child_keys
    assert dg.AssetKey("inbox") not in shop.defs.resolve_job_def("everything").asset_layer.executable_asset_keys


def test_an_accepted_call_is_read_without_a_hand_on_the_files(shop: Simulation) -> None:
    assert shop.materialize("raw_traces", "traces")
    log = shop.project.root / LOG
    write(log, call("a"), said("a", 1, correction=RIGHT))
    assert shop.settle() == [], "nothing follows from traffic"
    shown(materialize(shop, accept=["a"]))
    shop.load()
    assert {"raw_traces", "traces"} <= set(shop.settle()), "the first file of the folder"
    write(log, said("a", 99, correction="A later correction of the same answer."))
    shown(materialize(shop, accept=["a"]))
    assert {"raw_traces", "traces"} <= set(shop.settle()), "the same file, changed"


@pytest.mark.long
def test_an_accepted_call_is_retrained_without_a_hand_on_the_files(shop: Simulation) -> None:
    shop.first_run()
    assert shop.next_night().skip_message == "qlora: nothing has changed since the last training"
    log = shop.project.root / LOG
    texts = rows(8, seed=7)
    for number, row in enumerate(texts):
        write(
            log, call(f"c{number}", row["instruction"], "I do not know."), said(f"c{number}", correction=row["output"])
        )
    assert shop.settle() == [], "nothing follows from traffic"
    assert shop.next_night().skip_message == "qlora: nothing has changed since the last training"

    shown(materialize(shop, accept=[f"c{number}" for number in range(8)]))
    shop.load()
    requested = shop.settle()
    assert {"raw_traces", "traces", "preferences", "conversations"} <= set(requested), "the first file of the folder"
    (request,) = shop.next_night().run_requests or []
    assert request.partition_key == "qlora" and request.tags["ft/reason"].endswith(" new rows")
    shop.train("qlora")

    write(log, said("c0", 99, correction="A later correction of the same answer."))
    shown(materialize(shop, accept=["c0"]))
    assert {"raw_traces", "traces"} <= set(shop.settle()), "the same file, changed"


def test_a_folder_that_was_never_snapshotted_waits_for_a_run(shop: Simulation) -> None:
    assert shop.materialize("raw_alpaca")
    write(shop.project.root / LOG, call("a"), said("a", 1, correction=RIGHT))
    decide(shop.project, shop.project.root / "traffic", accept=["a"])
    assert shop.settle() == []
    assert shop.materialize("raw_traces")
    assert shop.settle() == []
