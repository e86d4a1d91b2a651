"""What every feature promises: the core runs without it, and all that it names is there."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest

import ft_pipeline
from ft_pipeline import features
from ft_pipeline.features import Feature
from ft_pipeline.settings.feature_keys import FeatureKeys
from ft_pipeline.settings.objectives import ObjectiveRules
from ft_pipeline.training.objectives.spec import ObjectiveSpec

PACKAGE = Path(ft_pipeline.__file__).parent
FEATURES = features.features()


@pytest.mark.parametrize("name", features.BUILT_IN)
def test_no_module_outside_its_folder_names_it(name: str) -> None:
    """Nor in a string: import-linter cannot see that."""
    folder = f"{ft_pipeline.__name__}.{name}"
    outside = [path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(PACKAGE / name)]
    named = [path for path in outside if folder in path.read_text(encoding="utf-8")]
    assert [str(path.relative_to(PACKAGE)) for path in named] == []


@pytest.mark.parametrize("feature", FEATURES.values(), ids=list(FEATURES))
def test_all_that_it_names_is_there(feature: Feature) -> None:
    assert feature.about.endswith(".") and (PACKAGE.parent / "docs" / feature.docs).is_file()
    for step, module in feature.steps.items():
        assert import_module(module).STEP.name == step
    assert all(issubclass(resolve_name(keys), FeatureKeys) for keys in feature.settings.values())
    assert feature.hooks.keys() <= features.HOOKS.keys() and feature.choices.keys() <= features.TABLES.keys()
    chosen = [target for offered in feature.choices.values() for target in offered.values()]
    rules = [resolve_name(target) for target in feature.objectives.values()]
    assert all(isinstance(each, ObjectiveRules) for each in rules)
    assert all(isinstance(resolve_name(each.spec), ObjectiveSpec) for each in rules)
    named = (*feature.hooks.values(), *feature.commands.values(), *chosen)
    assert all(callable(resolve_name(target)) for target in named)
    assert set(features.modules_of_steps()) >= {name for steps in feature.feeds.values() for name in steps}


STRANGER = """
'''Praise of the trained model.'''
from ft_pipeline.features import Feature
from ft_pipeline.settings.feature_keys import FeatureKeys
from ft_pipeline.step import SpecContext, step_of
from ft_pipeline.store.spec import Spec


class Keys(FeatureKeys):
    words_of_praise: int = 0


def spec(context: SpecContext) -> Spec:
    "**Look here** for praise."
    return Spec("praise", config={"words": Keys.of(context.project.experiment(context.experiment)).words_of_praise})


def build(build):
    return {}


def praised(context, scored):
    return {"praise/scores": "great"}


FEATURE = Feature(
    name="praise",
    about="Says something kind.",
    settings={"experiment": "praise:Keys"},
    steps={"praise": "praise"},
    feeds={"comparison": ["praise"]},
    hooks={"compared": "praise:praised"},
)
STEP = step_of(__name__, stage="training", deps=("adapter",), per_experiment=True)
"""
ASKED = """
import json
from ft_pipeline import features
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.steps import load_step
print(json.dumps({
    "settings": ExperimentSettings(words_of_praise=2).model_dump()["words_of_praise"],
    "reads": "praise" in load_step("comparison").deps,
    "after": load_step("praise").deps,
    "compared": [each.hooks["compared"] for each in features.features().values() if "compared" in each.hooks],
}))
"""


def test_a_package_of_somebody_else_adds_a_feature(tmp_path: Path) -> None:
    """It has no more than a module and an entry point, as `pip install` writes them."""
    (tmp_path / "praise.py").write_text(STRANGER, encoding="utf-8")
    installed = tmp_path / "praise-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: praise\nVersion: 1.0\n", encoding="utf-8")
    (installed / "entry_points.txt").write_text("[ft_pipeline.features]\npraise = praise:FEATURE\n", encoding="utf-8")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{ASKED}"
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == {
        "settings": 2,
        "reads": True,
        "after": ["adapter"],
        "compared": ["ft_pipeline.gguf.gguf_scores:compared", "praise:praised"],
    }
