"""Two projects on one Dagster instance: each has its own names, and neither takes the other's for its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from ft_pipeline import scaffold
from ft_pipeline.errors import UserError
from ft_pipeline.execution import dagster_names
from ft_pipeline.project import Project
from ft_pipeline.settings.instance import DagsterSettings
from ft_pipeline_tests.end_to_end.project import environment, ft, ft_json
from ft_pipeline_tests.forked_process import ForkedProcess

DATA = "raw_alpaca,alpaca"
SHOW = """
import json
import os
import dagster as dg
from ft_pipeline.definitions import defs

repository = defs().get_repository_def()
nodes = repository.asset_graph.asset_nodes
scores = next(node for node in nodes if node.key.path[-1] == "scores")
print(json.dumps({
    "keys": sorted(node.key.to_user_string() for node in nodes),
    "jobs": sorted(job.name for job in repository.get_all_jobs()),
    "schedules": sorted(schedule.name for schedule in repository.schedule_defs),
    "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
    "owners": list(scores.owners),
    "tags": dict(scores.tags),
    "pools": sorted(scores.pools),
    "partitions": scores.partitions_def.name,
    "fresh": sorted(node.key.path[-1] for node in nodes if node.freshness_policy is not None),
}))
"""


def project(root: Path, home: Path | None = None, **settings: object) -> Path:
    """Write the worked example as a project, on the Dagster home of another one if `home` is given."""
    scaffold.create(root, example=True)
    path = root / "project.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(content | {"name": root.name, "dagster": settings}), encoding="utf-8")
    if home is not None:
        (root / "dagster_home" / "dagster.yaml").unlink()
        (root / "dagster_home").rmdir()
        (root / "dagster_home").symlink_to(home)
    return root


def definitions_of(root: Path) -> dict:
    output, errors = ForkedProcess(SHOW, **environment(root)).communicate()
    assert output, errors
    return json.loads(output)


def test_names_come_from_the_settings(tmp_path: Path) -> None:
    shop = project(
        tmp_path / "shop",
        key_prefix=["acme", "support"],
        owners=["ada@example.com", "team:support"],
        pool="a100",
        tags={"cost-center": "42"},
        fresh_within_days=8,
    )
    shown = definitions_of(shop)
    assert all(key.startswith("acme/support/") for key in shown["keys"])
    for kind in ("schedules", "sensors"):
        assert all(name.startswith("acme_support_") for name in shown[kind]), shown[kind]
    assert all(name.startswith(("acme_support_", "__")) for name in shown["jobs"]), shown["jobs"]
    assert shown["owners"] == ["ada@example.com", "team:support"]
    assert shown["tags"].items() >= {"ft/project": "shop", "cost-center": "42"}.items()
    assert (shown["pools"], shown["partitions"]) == (["a100"], "acme_support_experiments")
    assert shown["fresh"] == ["champion", "comparison"]


def test_without_settings_the_names_are_the_short_ones(tmp_path: Path) -> None:
    """A project of an older version finds what it materialized."""
    shown = definitions_of(project(tmp_path / "shop"))
    assert "scores" in shown["keys"] and "nightly" in shown["schedules"] and "project_changes" in shown["sensors"]
    assert (shown["owners"], shown["pools"]) == (["team:ml"], ["gpu"])
    assert shown["fresh"] == []


@pytest.mark.long
def test_two_projects_on_one_instance_do_not_disturb_each_other(tmp_path: Path) -> None:
    one = project(tmp_path / "one", key_prefix=["one"])
    other = project(tmp_path / "other", one / "dagster_home", key_prefix=["other"])
    (other / "data" / "raw" / "alpaca" / "support_01.jsonl").unlink()  # so that the artifacts differ
    for root in (one, other):
        assert ft(root, "run", "--select", DATA).returncode == 0
    for root in (one, other):
        assert ft_json(root, "run", "--select", DATA)["steps"] == [], "the other's events make nothing stale"
        verified = json.loads(ft(root, "audit", "--verify", "--json").stdout)
        assert verified["findings"] == [], "the other's events are not this project's"
        assert verified["counted"]["events_of_Dagster"] == 2
    assert ft(other, "run", "-e", "qlora", "--select", "experiment").returncode == 0
    assert ft(other, "logs", "qlora").returncode == 0
    for command in ("logs", "cancel"):
        done = ft(one, command, "qlora")
        assert done.returncode == 2 and "There is no run and no experiment with runs" in done.stderr
    with dg.DagsterInstance.from_config(str(one / "dagster_home")) as instance:
        keys = {key.to_user_string() for key in instance.all_asset_keys()}
    assert {"one/alpaca", "other/alpaca"} <= keys


def test_a_step_has_the_short_name_of_its_asset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagster_names, "dagster_settings", lambda: DagsterSettings(key_prefix=["acme", "support"]))
    key = dagster_names.asset_key("alpaca")
    assert key.path == ["acme", "support", "alpaca"] and dagster_names.is_ours(key)
    assert dagster_names.asset_name(key) == dagster_names.asset_of_step("acme__support__alpaca") == "alpaca"
    assert not dagster_names.is_ours(dg.AssetKey(["acme", "alpaca"]))


@pytest.mark.long
def test_a_step_that_fails_is_named_by_its_asset(tmp_path: Path) -> None:
    shop = project(tmp_path / "shop", key_prefix=["acme"])
    for path in (shop / "data" / "raw" / "alpaca").glob("*.jsonl"):
        path.write_text("not JSON\n" * 20, encoding="utf-8")
    done = ft(shop, "run", "--select", DATA)
    assert done.returncode == 1 and "alpaca: " in done.stdout and "acme" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key_prefix": ["a/b"]}, "'a/b' is no part of an asset key. Use letters, digits and underscores."),
        ({"owners": ["ada"]}, "'ada' is no owner for Dagster. Write an email address or team:NAME."),
        ({"tags": {"a b": "c"}}, "'a b' is no key of a tag."),
        ({"tags": {"a": "c d"}}, "'c d' is no value of a tag."),
    ],
)
def test_bad_names_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        _ = Project(project(tmp_path / "shop", **settings)).settings


def test_the_code_location_loads_without_its_volume_and_says_so(tmp_path: Path) -> None:
    gone = tmp_path / "volume"
    code = """
import dagster as dg
from ft_pipeline.definitions import defs
from ft_pipeline.defs.project_changes import project_changes

assert len(defs().get_repository_def().asset_graph.get_all_asset_keys()) > 20
with dg.DagsterInstance.ephemeral() as instance:
    print(project_changes(())(dg.build_sensor_context(instance)).skip_reason.skip_message)
"""
    output, errors = ForkedProcess(code, FT_PROJECT=str(gone), DAGSTER_HOME=str(tmp_path)).communicate()
    assert f"raw_files: {gone} has no project.yaml. Name a project folder with --project" in output, errors


def dg_command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "dg"), *arguments]
    environment = os.environ | {"DAGSTER_HOME": str(root / "dagster_home"), "DAGSTER_DISABLE_TELEMETRY": "1"}
    environment.pop("FT_PROJECT", None)  # commands of `ft` that tests ran in this process set it
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_dg_commands_work_from_the_project_folder(tmp_path: Path) -> None:
    shop = project(tmp_path / "shop")
    listed = dg_command(shop, "list", "defs", "--json")
    assert listed.returncode == 0, listed.stderr
    assert "champion" in listed.stdout
    launched = dg_command(shop, "launch", "--assets", "raw_alpaca")
    assert launched.returncode == 0, launched.stderr
    assert (shop / "data" / "store" / "current" / "raw_alpaca.json").is_file()


@pytest.mark.long
def test_dg_checks_the_definitions_in_the_repository(tmp_path: Path) -> None:
    root = Path(scaffold.__file__).parent.parent
    checked = dg_command(root, "check", "defs")
    assert checked.returncode == 0 and "loaded successfully" in checked.stdout + checked.stderr, checked.stderr
