"""Projects as components: two of them in one code location of anybody's, and a fresh Dagster project as their host."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

import ft_pipeline
from ft_pipeline.component import FineTuning
from ft_pipeline.project import Project, served_root
from ft_pipeline_tests.execution.test_guest import project
from ft_pipeline_tests.test_definitions import STAGES

NAMES = ("support", "billing")


def built(root: Path) -> dg.Definitions:
    return FineTuning(project=str(root)).build_defs(dg.ComponentTree.for_test().load_context)


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    """Two projects with rows of their own."""
    roots = [project(tmp_path / name, key_prefix=[name]) for name in NAMES]
    for root in roots:
        for path in (root / "data" / "raw").glob("*/*"):
            path.unlink()
        things = ("a kettle", "the parcel from Rome", "our gift card")
        rows = [{"instruction": f"What does {root.name} say of {thing}?", "output": thing} for thing in things]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "data" / "raw" / "alpaca" / "rows.jsonl").write_text(text, encoding="utf-8")
    return roots


@pytest.fixture
def both(roots: list[Path]) -> dg.Definitions:
    @dg.asset
    def of_the_host() -> None: ...

    return dg.Definitions.merge(dg.Definitions(assets=[of_the_host]), *map(built, roots))


def test_each_project_has_its_own_graph_jobs_and_sensors(both: dg.Definitions) -> None:
    repository = both.get_repository_def()
    keys = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    one, other = ({key.partition("/")[2] for key in keys if key.startswith(f"{name}/")} for name in NAMES)
    assert one == other and {"conversations", "adapter", "champion"} <= one
    assert keys == {"of_the_host", *(f"{name}/{key}" for name in NAMES for key in one)}
    for name in NAMES:
        job = repository.get_job(f"{name}_everything")
        of_job = {key.path[0] for key in job.asset_layer.executable_asset_keys}
        assert of_job == {name}, "a job of one project has nothing of the host or the other"
        adapter = repository.assets_defs_by_key[dg.AssetKey([name, "adapter"])]
        assert adapter.partitions_def is not None and adapter.partitions_def.name == f"{name}_experiments"
    assert {
        f"{name}_{kind}" for name in NAMES for kind in ("project_changes", "failures", "old_runs", "tables_follow")
    } <= {sensor.name for sensor in repository.sensor_defs}
    assert all(sensor.description for sensor in repository.sensor_defs)
    assert all(schedule.description for schedule in repository.schedule_defs)
    groups = {spec.group_name for spec in both.resolve_all_asset_specs() if spec.key.path[0] == "billing"}
    assert groups == {f"billing_{stage}" for stage in STAGES}
    assert served_root() is None


def test_each_project_reads_and_writes_its_own_folder(
    both: dg.Definitions, roots: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FT_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path)
    repository = both.get_repository_def()
    with dg.instance_for_test() as instance:
        for root in roots:
            keys = [dg.AssetKey([root.name, asset]) for asset in ("raw_alpaca", "alpaca")]
            job = repository.get_job(f"{root.name}_everything").get_subset(asset_selection=frozenset(keys))
            assert job.execute_in_process(instance=instance).success
            current = root / "data" / "store" / "current" / "alpaca.json"
            assert current.is_file() and Project(root).settings.name == root.name
        tables = [(root / "data" / "store" / "current" / "alpaca.json").read_bytes() for root in roots]
        assert tables[0] != tables[1]
        (roots[1] / "experiments" / "new.yaml").write_text("technique: lora\n", encoding="utf-8")
        known = {}
        for name in NAMES:
            sensor = repository.get_sensor_def(f"{name}_project_changes")
            with dg.build_sensor_context(instance, repository_def=repository) as context:
                (request,) = sensor.evaluate_tick(context).dynamic_partitions_requests or []
            known[request.partitions_def_name] = "new" in request.partition_keys
        assert known == {"support_experiments": False, "billing_experiments": True}


def test_a_failed_run_of_another_project_is_not_reported(
    both: dg.Definitions, roots: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (roots[0] / "data" / "raw" / "alpaca" / "rows.jsonl").write_text("no JSON\n" * 9, encoding="utf-8")
    repository = both.get_repository_def()
    with dg.instance_for_test() as instance:
        keys = frozenset(dg.AssetKey(["support", asset]) for asset in ("raw_alpaca", "alpaca"))
        job = repository.get_job("support_everything").get_subset(asset_selection=keys)
        failed = job.execute_in_process(instance=instance, raise_on_error=False)
        assert not failed.success
        for name in NAMES:
            context = dg.build_run_status_sensor_context(
                sensor_name=f"{name}_failures",
                dagster_instance=instance,
                dagster_run=failed.dagster_run,
                dagster_event=failed.get_run_failure_event(),
            )
            repository.get_sensor_def(f"{name}_failures")(context.for_run_failure())
    reported = [(root / "data" / "store" / "notifications.jsonl").exists() for root in roots]
    assert reported == [True, False]


def test_a_folder_without_a_project_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(dg.DagsterInvalidDefinitionError, match=r"has no project.yaml. Name a project folder"):
        built(tmp_path)


def test_the_package_offers_the_component_and_imports_dagster_only_for_it() -> None:
    assert ft_pipeline.FineTuning is FineTuning and "FineTuning" in dir(ft_pipeline)
    with pytest.raises(AttributeError, match="no attribute 'Tuning'"):
        _ = ft_pipeline.Tuning
    code = "import sys, ft_pipeline; print('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def dg_here(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `dg` in a host."""
    environment = os.environ | {"DAGSTER_HOME": str(root / "home"), "DAGSTER_DISABLE_TELEMETRY": "1"}
    environment.pop("FT_PROJECT", None)
    environment["PYTHONPATH"] = os.pathsep.join([str(root / "src"), str(Path(ft_pipeline.__file__).parents[1])])
    command = [str(Path(sys.executable).parent / "dg"), *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done


@pytest.mark.long
def test_a_fresh_dagster_project_gets_two_graphs_in_three_commands(tmp_path: Path) -> None:
    root = tmp_path / "platform"
    (root / "src" / "platform_team" / "defs").mkdir(parents=True)
    (root / "home").mkdir()
    for package in ("platform_team", "platform_team/defs"):
        (root / "src" / package / "__init__.py").touch()
    (root / "src" / "platform_team" / "definitions.py").write_text(
        "from pathlib import Path\nimport dagster as dg\n\n\n@dg.definitions\ndef defs():\n"
        "    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n",
        encoding="utf-8",
    )
    (root / "dg.toml").write_text(
        'directory_type = "project"\n[project]\nroot_module = "platform_team"\n', encoding="utf-8"
    )
    assert "ft_pipeline.FineTuning" in dg_here(root, "list", "components").stdout
    for name, options in (("support", ("--example-of", "classification")), ("billing", ())):
        dg_here(root, "scaffold", "defs", "ft_pipeline.FineTuning", name, *options)
        written = yaml.safe_load((root / "src" / "platform_team" / "defs" / name / "defs.yaml").read_text())
        assert written == {"type": "ft_pipeline.FineTuning", "attributes": {"project": name}}
    checked = dg_here(root, "check", "defs")
    assert "loaded successfully" in checked.stdout + checked.stderr
    listed = dg_here(root, "list", "defs", "--json").stdout
    assert all(f'"{key}"' in listed for key in ("support/champion", "billing/champion", "support_everything"))
    dg_here(root, "launch", "--assets", "support/raw_alpaca,support/alpaca")
    assert (root / "support" / "data" / "store" / "current" / "alpaca.json").is_file()
    assert not (root / "billing" / "data" / "store").exists()
