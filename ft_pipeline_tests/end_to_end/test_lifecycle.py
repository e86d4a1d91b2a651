"""A small project after `ft run`: what each command says of it. The run itself has real workers."""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from ft_pipeline.execution.planning import plan
from ft_pipeline.project import Project
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline_tests.end_to_end.project import (
    PER_EXPERIMENT,
    SHARED,
    UNUSED,
    Finished,
    FirstRun,
    copy_of,
    current,
    environment,
    first_run,
    ft,
    ft_here,
    ft_json,
    small_project,
    workers,
    write_experiment,
)

pytestmark = pytest.mark.slow

FORMATS = ("alpaca", "sharegpt", "text", "preferences", "unlabelled")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    """A small project that is run now, from the raw files to the report: the one whole run of the usual tests.

    Without variants of the prompt: the packed project has their scores.
    """
    return first_run(tmp_path_factory.mktemp("lifecycle"), variants=False, forked=True)


@pytest.fixture(scope="module")
def shop(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A copy of such a project after its run, which tests may change for a while."""
    return Finished(copy_of(finished, tmp_path_factory.mktemp("shop")))


ROWS_OF_FILES = "select sum(read), sum(accepted) + sum(quarantined) + sum(duplicates) from alpaca_files"
QUARANTINED = "select code, file, row from quarantine where \"table\" = 'alpaca' order by row"
FOREIGN_FILE = "select * from read_csv('/etc/passwd')"


class Told:
    """What each command says of the finished project."""

    def __init__(self, root: Path) -> None:
        plain = (("run", "--experiment", "qlora"), ("compare",), ("exposures",), ("sql", FOREIGN_FILE))
        documents = (
            *(("run", "--experiment", "qlora"), ("compare",), ("recommend",), ("exposures",), ("experiments",)),
            *(("sql", ROWS_OF_FILES), ("sql", QUARANTINED)),
        )
        commands = (*plain, *((*command, "--json") for command in documents))
        self._done = {shlex.join(done.args): done for done in ft_here(root, *commands)}

    def plain(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self._done[shlex.join(command)]

    def document(self, *command: str) -> Any:
        """The document of a command with --json, which succeeded."""
        done = self.plain(*command, "--json")
        assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told(shop: Finished) -> Told:
    return Told(shop.root)


def test_the_first_run_materializes_every_asset_that_is_used(first: FirstRun) -> None:
    assert first.run.returncode == 0, first.run.stderr[-4000:] + first.run.stdout[-4000:]
    assert "not recorded" not in first.run.stderr + first.run.stdout, "metadata of a step"
    current = {(pointer.asset, pointer.partition) for pointer in AssetPointers(first.root / "data" / "store").all()}
    shared, per_experiment = SHARED - UNUSED, PER_EXPERIMENT - UNUSED
    assert current == {(name, None) for name in shared} | {(name, "qlora") for name in per_experiment}


def test_the_run_ends_with_what_changed_and_what_to_do_next(first: FirstRun) -> None:
    for shown in ("Done in ", "Verdict: ", "Champion: ", "ft report --open", "ft compare", "ft ui", "Next: "):
        assert shown in first.run.stdout
    assert len(first.run.stdout.splitlines()) <= 12
    sentence = current(first.root, "decision").document("decision.json")["verdict"]["sentence"]
    assert sentence in first.run.stdout


def test_a_second_run_has_nothing_to_do(told: Told) -> None:
    again = told.document("run", "--experiment", "qlora")
    assert again["steps"] == []
    assert again["fresh"] == len((SHARED | PER_EXPERIMENT) - UNUSED)
    assert "Up to date" in told.plain("run", "--experiment", "qlora").stdout


def test_the_comparison_contains_prompts_and_tuned_models_with_intervals(told: Told) -> None:
    document = told.document("compare")
    kinds = {row["kind"] for row in document["rows"]}
    assert {"base", "prompt", "adapter", "merged"} <= kinds
    without_likelihood = {row["kind"] for row in document["rows"] if "loss" not in row["scores"]}
    assert without_likelihood == {"constant", "search"}, "answers without a language model"
    for row in document["rows"]:
        if row["kind"] in without_likelihood:
            continue
        loss = row["scores"]["loss"]
        assert loss["low"] <= loss["value"] <= loss["high"]
        assert row["prompt_tokens_per_call"] > 0
    names = [row["name"] for row in document["rows"]]
    assert len(set(names)) == len(names)
    leads = [claim for claim in document["claims"] if claim["kind"] == "lead"]
    assert {lead["measure"] for lead in leads} >= {"loss", "chrf", "rouge_l"}


def test_the_recommendation_gives_reasons(told: Told) -> None:
    document = told.document("recommend")
    assert document["reasons"]


def test_the_verdict_comes_first(shop: Finished, told: Told) -> None:
    """In the recommendation and in decision.json."""
    sentence = current(shop.root, "decision").document("decision.json")["verdict"]["sentence"]
    assert told.document("recommend")["verdict"] == sentence


def test_the_matrix_of_the_decision_is_shown_as_it_is(shop: Finished, told: Told) -> None:
    """In `ft compare`, its document, and the report."""
    matrix = current(shop.root, "decision").document("decision.json")["matrix"]
    assert told.document("compare")["matrix"] == matrix
    asked = {cell["requirement"] for cells in matrix.values() for cell in cells}
    report = (current(shop.root, "report").path / "report.html").read_text(encoding="utf-8")
    shown = told.plain("compare").stdout
    assert len(asked) > 4 and all(name in shown and name in report for name in asked)


def test_ft_exposures_shows_how_often_the_test_rows_were_used(shop: Finished, told: Told) -> None:
    document = told.document("exposures")
    decided = current(shop.root, "decision").document("decision.json")
    assert (document["looks"] == 0.0) == decided["decision"]["move"], "a move starts the count anew"
    assert len(document["entries"]) == decided["exposure"]["entry"]
    assert [entry["compared"] for entry in document["entries"]] == [False, False, True]
    assert "qlora" in document["entries"][1]["looks"] and "qlora" in document["entries"][2]["looks"]
    assert "standard errors" in told.plain("exposures").stdout


def test_ft_experiments_lists_the_state(told: Told) -> None:
    (row,) = told.document("experiments")["experiments"]
    assert (row["name"], row["technique"], row["state"]) == ("qlora", "qlora", "fresh")
    assert row["primary_score"] > 0 and row["primary_metric"].endswith("lower is better)")


def test_every_row_is_accounted_for_in_sql(told: Told) -> None:
    ((read, accounted),) = told.document("sql", ROWS_OF_FILES)["rows"]
    assert read == accounted == 102
    rows = told.document("sql", QUARANTINED)["rows"]
    assert ["invalid_json", "legacy_export.jsonl", 13] in rows
    assert ["duplicate", "legacy_export.jsonl", 41] in rows


def test_sql_reads_only_the_tables(told: Told) -> None:
    done = told.plain("sql", FOREIGN_FILE)
    assert done.returncode == 2
    assert "root:" not in done.stdout + done.stderr


def test_the_plan_runs_only_what_a_changed_file_affects(shop: Finished) -> None:
    path = shop.root / "data" / "raw" / "alpaca" / "support_01.jsonl"
    before = path.read_bytes()
    row = {
        "instruction": "Do you sell lawn mowers with a grass box?",
        "input": "",
        "output": "Yes, both of our mowers do.",
    }
    try:
        path.write_bytes(before + json.dumps(row).encode() + b"\n")
        with dg.DagsterInstance.from_config(str(shop.root / "dagster_home")) as instance:
            planned = {step.asset: step for step in plan(Project(shop.root), ["qlora"], instance)}
        assert planned["raw_alpaca"].state == "stale"
        assert planned["adapter"].runs
        assert not planned["raw_text"].runs
    finally:
        path.write_bytes(before)


def test_a_broken_experiment_is_reported_with_its_line_and_others_stay_fresh(shop: Finished) -> None:
    path = shop.root / "experiments" / "typo.yaml"
    try:
        path.write_text("technique: qlora\nlora:\n  rr: 4\n", encoding="utf-8")
        listed, refused = ft_here(shop.root, ("experiments", "--json"), ("run", "--experiment", "typo"))
        rows = {row["name"]: row for row in json.loads(listed.stdout)["experiments"]}
        assert rows["typo"]["state"] == "broken"
        assert "typo.yaml: line 3" in rows["typo"]["error"]
        assert rows["qlora"]["state"] == "fresh"
        assert refused.returncode == 2
        assert "line 3" in refused.stderr
        assert "Traceback" not in refused.stderr
    finally:
        path.unlink()


@pytest.mark.long
def test_an_experiment_that_requires_a_missing_gpu_fails_at_once(tmp_path: Path, shop: Finished) -> None:
    root = shutil.copytree(shop.root, tmp_path / "shop")
    write_experiment(root, "large", root / "models" / "tiny", epochs=2)
    with (root / "experiments" / "large.yaml").open("a", encoding="utf-8") as file:
        file.write("gpu: {count: 2, min_memory_gb: 40}\n")
    run = ft(root, "run", "--experiment", "large", "--json", CUDA_VISIBLE_DEVICES="")
    assert run.returncode == 1 and "Traceback" not in run.stderr
    (failure,) = json.loads(run.stdout)["failures"]
    assert failure.startswith("adapter: The experiment sets `gpu`: this step needs 2 GPUs of at least 40 GB, and ")


def test_the_memory_for_a_training_on_the_cpu_is_estimated(shop: Finished) -> None:
    estimate = current(shop.root, "memory_estimate", "qlora").summary
    assert estimate["cpu_gb"]["float32"] > estimate["cpu_gb"]["bfloat16"] > 0
    assert "no GPU size declared; on a CPU 0." in estimate["checks"]["fits"]["message"]


@pytest.mark.long
def test_a_killed_training_resumes_to_the_same_adapter(tmp_path: Path) -> None:
    """`kill -9` of `ft run` in the middle of training: no process is left, Dagster records that the run failed, and the
    next run resumes to the same adapter, byte for byte, as an uninterrupted one."""
    root = small_project(tmp_path / "shop")
    write_experiment(root, "long", root / "models" / "tiny", epochs=6)
    ft_bin = str(Path(sys.executable).parent / "ft")
    run = subprocess.Popen(
        [ft_bin, "run", "--experiment", "long"],
        env=environment(root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        worker = _trainer_past_its_first_checkpoint(root, run)
        run.kill()
        run.wait(120)
        psutil.wait_procs([psutil.Process(worker)] if psutil.pid_exists(worker) else [], timeout=30)
        assert not psutil.pid_exists(worker)
    finally:
        run.kill()
    assert ft(root, "run", "--experiment", "long").returncode == 0
    assert _statuses(root) == ["SUCCESS", "FAILURE"]
    resumed = _adapter(root)
    assert resumed["summary"]["resumed_from_step"] > 0
    again = ft_json(root, "run", "--experiment", "long", "--select", "adapter", "--force")
    assert [step["state"] for step in again["steps"]] == ["built"]
    # Equal content is one artifact: the store returns the existing one and adds no second one.
    assert _adapter(root)["fingerprint"] == resumed["fingerprint"]


def _trainer_past_its_first_checkpoint(root: Path, run: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and run.poll() is None:
        begun = any((root / "data" / "store" / "work" / "adapter").glob("*/**/checkpoint-*/trainer_state.json"))
        if begun and (trainer := workers(root)):
            return trainer[-1].pid
        time.sleep(0.02)
    raise AssertionError("no checkpoint appeared")


def _statuses(root: Path) -> list[str]:
    """The statuses of all runs, newest first."""
    with dg.DagsterInstance.from_config(str(root / "dagster_home")) as instance:
        return [run.status.value for run in instance.get_runs()]


def _adapter(root: Path) -> dict:
    pointer = AssetPointers(root / "data" / "store").read("adapter", "long")
    assert pointer is not None
    (folder,) = (root / "data" / "store" / "artifacts" / "adapter").glob(f"*/{pointer.fingerprint[:16]}")
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
