"""Judges that may not decide: teachers of rows in training, compared models, and their base models.

A model likes its own style. What is compared here are names: a server can give a model any name.
"""

import re
from collections.abc import Iterable, Mapping

from ft_pipeline.evaluation.comparison.training_facts import phase_adapters
from ft_pipeline.store.artifacts import Artifact, ArtifactStore

_OF_A_PROVIDER = re.compile(r"^ft:([^:]+):.*$")
"""A model that a provider tuned: the name of its base is the first part."""
_FILE_TYPE = re.compile(r"[-._](gguf|awq|gptq|fp8|bf16|q\d\w*|int[48])$")
_FINGERPRINT = re.compile(r" \([0-9a-f]{8}\)$")
"""Follows the name of a base model, if two have the same."""
_VERSION = re.compile(r"[-@:](\d{4}-?\d{2}-?\d{2}|\d{4}|main|latest|[0-9a-f]{7,40})$")


def teachers_of(store: ArtifactStore, scores: Iterable[Artifact]) -> list[str]:
    """Return the names of the teachers that wrote rows in the training of scored models, over all phases."""
    names = set()
    for scored in scores:
        for adapter in phase_adapters(store, store.require(*scored.inputs["adapter"])):
            training_data = store.require(*adapter.inputs["training_data"])
            if "distilled" in training_data.inputs:
                names.add(store.require(*training_data.inputs["distilled"]).spec["config"]["teacher"]["model"])
            if "teacher_distributions" in training_data.inputs:
                distributions = store.require(*training_data.inputs["teacher_distributions"])
                names.add(store.require(*distributions.inputs["base_model"]).spec["config"]["model"])
    return sorted(names)


def reasons_to_exclude(names: Iterable[str], others: Mapping[str, Iterable[str]]) -> list[str]:
    """Return why a judge may not decide, as sentences; empty if it may.

    names: of the judge: that in the settings, and those that its replies may have. others: what a model is in this
    project (such as "the teacher of rows in training") → names of such models.
    """
    own = {model_key(name) for name in names}
    return [
        f"The judge is {role} ({name}), and a model likes its own style. Its verdicts decide nothing."
        for role, models in others.items()
        for name in models
        if model_key(name) in own
    ]


def model_key(name: str) -> str:
    """Return a model's name in the form in which two names of one model are most often equal: without its owner,
    version and file type, in lower case."""
    key = _OF_A_PROVIDER.sub(r"\1", _FINGERPRINT.sub("", name.strip())).rsplit("/", 1)[-1].lower()
    while (shorter := _FILE_TYPE.sub("", _VERSION.sub("", key))) != key:
        key = shorter
    return key
