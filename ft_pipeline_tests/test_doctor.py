"""`ft doctor`: the compute type, with the reason and the measured speeds."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_pipeline import doctor, scaffold
from ft_pipeline.cli import app
from ft_pipeline.models import compute_dtype, compute_setting
from ft_pipeline.models.compute_setting import requested_dtype
from ft_pipeline.project import Project
from ft_pipeline_tests.packages import hide_package


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder on a machine without a GPU."""
    root = scaffold.create(tmp_path / "shop", example=False)
    monkeypatch.setenv("FT_PROJECT", str(root))
    monkeypatch.setenv("DAGSTER_HOME", str(root / "dagster_home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("FT_COMPUTE_DTYPE", raising=False)
    return root


@cache
def measured() -> dict[str, Any]:
    """What the process that imports torch and measures answers, measured here for most of these tests."""
    return compute_dtype._describe(measure=True)


@pytest.fixture
def asked_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    answer = measured()

    def query(**_: Any) -> dict[str, Any]:
        requested_dtype()
        return answer

    monkeypatch.setattr(compute_setting, "query_compute_dtype", query)
    return project


def compute_finding(project: Path) -> doctor.Finding:
    return next(finding for finding in doctor.examine(Project(project)) if finding.what == "compute")


def findings_as_json() -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit code, and the findings by name."""
    result = CliRunner().invoke(app, ["doctor", "--json"])
    return result.exit_code, {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}


@pytest.mark.usefixtures("project")
def test_the_compute_type_is_reported_with_measured_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1,1")  # OpenMP takes one number for each level of nesting
    _, findings = findings_as_json()
    chosen = compute_dtype._describe(measure=False)
    compute = findings["compute"]
    assert compute["dtype"] == chosen["dtype"] and chosen["reason"] in compute["seen"]
    assert set(compute["gflops"]) == {"float32", "bfloat16"} and min(compute["gflops"].values()) > 0
    for name, speed in compute["gflops"].items():
        assert f"{name} {speed:.0f} GFLOP/s" in compute["seen"]
    assert all({"name", "what", "status", "seen", "fix"} <= set(finding) for finding in findings.values())
    assert findings["embedded_model"]["what"] == "embedded model"


@pytest.mark.usefixtures("asked_once")
def test_an_unknown_compute_type_is_reported_as_one_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float8")
    code, findings = findings_as_json()
    compute = findings["compute"]
    assert code == 1 and compute["status"] == "problem" and compute["dtype"] is None and compute["gflops"] == {}
    assert compute["seen"] == "FT_COMPUTE_DTYPE='float8' is not a compute type"
    assert compute["fix"] == "Set it to auto, float32 or bfloat16."
    assert [name for name, finding in findings.items() if "float8" in finding["seen"]] == ["compute"]


@pytest.mark.usefixtures("asked_once")
def test_a_compute_type_that_the_cpu_emulates_causes_a_warning(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The speeds are those of a CPU with AVX2 only: measured beside other tests, they would be of no CPU."""
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "bfloat16")
    answer = {**measured(), "dtype": "bfloat16", "gflops": {"float32": 60.0, "bfloat16": 4.0}}
    monkeypatch.setattr(compute_setting, "query_compute_dtype", lambda **_: answer)
    finding = compute_finding(project)
    assert finding.status == "warning" and finding.facts["dtype"] == "bfloat16"
    assert finding.fix == "unset FT_COMPUTE_DTYPE: float32 is much faster here"


@pytest.mark.usefixtures("asked_once")
def test_a_missing_ray_is_reported_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_is_installed", lambda name: name != "ray")
    assert findings_as_json()[1]["launcher"]["status"] == "ok"
    monkeypatch.setenv("FT_LAUNCHER", "ray")
    launcher = findings_as_json()[1]["launcher"]
    assert (launcher["status"], launcher["seen"]) == ("problem", "ray is not installed")


@pytest.mark.usefixtures("asked_once")
def test_a_package_that_only_the_benchmarks_need_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_package(monkeypatch, "trl")
    packages = findings_as_json()[1]["packages"]
    assert packages["status"] == "ok" and packages["seen"].endswith(", trl not installed")
    hide_package(monkeypatch, "peft")
    packages = findings_as_json()[1]["packages"]
    assert (packages["status"], packages["fix"]) == ("problem", "pip install peft")
