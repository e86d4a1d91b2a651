"""`ft init`: create a project folder that is ready to run."""

import shutil
from importlib import resources
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.tables.formats.registry import FORMATS

QUESTIONS = ("data/general", "data/probes")
"""Folders of questions that every project gets."""
EXAMPLE_FILES = ("project.yaml", "experiments", "data/README.md", "data/raw")
"""Files and folders that only a project with the worked example gets."""
PROJECT_FILES = ("workspace.yaml", "dg.toml", "dagster_home/dagster.yaml", "schemas")
"""Files and folders that every project gets."""

SMALL_EXAMPLES = "examples"
"""Folder of the small examples, a project each."""

PROJECT_YAML = """\
# yaml-language-server: $schema=schemas/project.json
# The task's settings. Every key except name has a default; an unknown key is an error.
name: {name}
task: ""
data:
  test_share: 0.2 # with 300 rows, enough to decide; of thousands, less will do
prompting:
  variants:
    system_prompt:
      system_prompt: You are a helpful assistant. Answer briefly.
  search: {{tries: 12}} # prompts that are tried on the validation rows; the best one is what a tuned model must beat
evaluation:
  general_questions: data/general/questions.jsonl
  general_texts: data/general/texts.jsonl
"""

EXPERIMENT_YAML = """\
# yaml-language-server: $schema=../schemas/experiment.json
base_model: embedded # or a hub id, or a folder
objective: sft
technique: {technique}
"""


def example_folder() -> Path:
    """Return the folder of the worked example: the checkout that contains the package, or a folder of the wheel."""
    packaged = Path(str(resources.files("ft_pipeline"))) / "example"
    return packaged if packaged.is_dir() else packaged.parent.parent


def small_examples() -> list[str]:
    """Return the names of the small examples."""
    return sorted(path.parent.name for path in example_folder().glob(f"{SMALL_EXAMPLES}/*/project.yaml"))


def create(target: Path, example: bool, small_example: str | None = None) -> Path:
    """Create a project folder at `target` (new or empty) and return it.

    example: with the worked example. small_example: with this one of the small examples instead. UserError if the
    folder is not empty, or if there is no such example.
    """
    target = target.resolve()
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{target} is not empty; name a new folder")
    if small_example is not None and small_example not in small_examples():
        raise UserError(f"There is no example {small_example!r}. Choose one of {', '.join(small_examples())}.")
    for item in (*PROJECT_FILES, *QUESTIONS, *(EXAMPLE_FILES if example else ())):
        _copy(example_folder() / item, target / item)
    if small_example is not None:
        _copy(example_folder() / SMALL_EXAMPLES / small_example, target)
    for data_format in FORMATS:
        (target / "data" / "raw" / data_format).mkdir(parents=True, exist_ok=True)
    if not example and small_example is None:
        name = "".join(letter if letter.isalnum() else "-" for letter in target.name.lower()).strip("-") or "project"
        (target / "project.yaml").write_text(PROJECT_YAML.format(name=name), encoding="utf-8")
        (target / "experiments").mkdir()
        for technique in ("qlora", "lora"):
            text = EXPERIMENT_YAML.format(technique=technique)
            (target / "experiments" / f"{technique}.yaml").write_text(text, encoding="utf-8")
    return target


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("store", "__pycache__"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
