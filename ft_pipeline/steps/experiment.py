"""The settings of one training: experiments/NAME.yaml with every default.

**Look here** to see in what this experiment differs from the defaults.

**If it fails:** a key or a value in the YAML is wrong. The error names the file and the line (docs/settings.md).
"""

import json
from collections.abc import Mapping
from typing import Any

from ft_pipeline.page import Page, Points
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.feature_keys import defaults_of_features
from ft_pipeline.step import BuildContext, SpecContext, step_of
from ft_pipeline.steps.shared.phases import without_trackers
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec

NOT_IN_SPEC = {"retrain", "seeds", "learning_curve", "machine", *defaults_of_features("experiment")}
"""Settings for when and where an experiment is trained, for its sweep, and for what is made of its result. They do not
change it."""


def spec(context: SpecContext) -> Spec:
    """Return the spec of this partition's experiment: its phases, as their YAML files are now."""
    assert context.experiment is not None
    *previous, own = [
        {"name": name, **without_trackers(settings).model_dump(mode="json", exclude=NOT_IN_SPEC)}
        for name, settings in context.project.training_chain(context.experiment)
    ]
    return Spec("experiment", config={**own, "stages_before": previous})


def build(build: BuildContext) -> dict[str, Any]:
    """Write the settings."""
    build.write_json("experiment.json", build.spec.config)
    return {}


def page(artifact: Artifact) -> Page:
    """In what the experiment differs from the defaults, and all settings."""
    config = artifact.spec["config"]
    defaults = flatten_settings(ExperimentSettings().model_dump(mode="json"))
    differing = [
        f"`{name}`: `{_as_text(value)}`" + (f", not `{_as_text(default)}`" if value != default else "")
        for name, value in flatten_settings(config).items()
        if (default := defaults.get(name)) != value or name in ("base_model", "objective", "technique")
    ]
    return {"changed_settings": Points(differing), "settings": config}


def _as_text(value: Any) -> str:
    return json.dumps(value) if value in (None, "") or isinstance(value, (dict, list, bool)) else str(value)


def flatten_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key → value of nested settings. An empty mapping is a value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten_settings(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


STEP = step_of(__name__, stage="training", per_experiment=True, kinds=frozenset({"yaml"}))
