"""How long a training took."""

from ft_pipeline.store.artifacts import Artifact, ArtifactStore

TIMED_KINDS = ("adapter", "merged_model", "teacher_distributions")
"""Kinds of artifacts whose making is a part of the training."""


def training_time(store: ArtifactStore, scores: Artifact) -> dict[str, float | int] | None:
    """Return the training time of the model in a `scores` artifact, from the manifests; None if one records no time.

    `seconds`: training and merging, over all phases of the experiment, and the work of a teacher of `distill`.
    `gpu_hours`: the same in GPU-hours, or in hours of the one CPU if there was no GPU. Both are with attempts that did
    not finish; `unfinished`: the seconds of these, if there were any.
    """
    seconds = device_seconds = unfinished = 0.0
    for artifact in _training_artifacts(store, scores):
        run = artifact.manifest.get("run", {})
        if "seconds" not in run:
            return None
        seconds += run["seconds"]
        device_seconds += run["seconds"] * max(1, len(run.get("gpus") or ()))
        lost = run.get("unfinished", {"seconds": 0.0, "device_seconds": 0.0})
        unfinished += lost["seconds"]
        device_seconds += lost["device_seconds"]
    took = {"seconds": seconds + unfinished, "gpu_hours": device_seconds / 3600}
    return {**took, "unfinished": unfinished} if unfinished else took


def _training_artifacts(store: ArtifactStore, scores: Artifact) -> list[Artifact]:
    """Return every adapter, merged model and teacher's distributions that the scored model was built from, once, over
    all phases."""
    artifacts: dict[tuple[str, str], Artifact] = {}
    to_follow = [scores]
    while to_follow:
        artifact = to_follow.pop()
        for name in ("adapter", "merged_model", "start", "base_model", "training_data", "teacher_distributions"):
            reference = artifact.inputs.get(name)
            if reference is None or reference in artifacts:
                continue
            artifacts[reference] = store.require(*reference)
            to_follow.append(artifacts[reference])
    return [artifact for artifact in artifacts.values() if artifact.kind in TIMED_KINDS]
