"""The scores that `comparison` compares and `judgements` chooses pairs from, and the settings that say how."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ft_pipeline import features
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.decide.sources.pair_opinions import RATED
from ft_pipeline.evaluation.comparison.contaminated_models import Facts, find_contaminated, learned_test_rows
from ft_pipeline.evaluation.comparison.training_facts import same_recipe
from ft_pipeline.evaluation.model_kinds import WORD_MODEL
from ft_pipeline.evaluation.prompt_search.looks import count_tries
from ft_pipeline.evaluation.scoring.probe_files import probe_digests, read_probes
from ft_pipeline.models.base_model import EMBEDDED
from ft_pipeline.release.champion import champion_before, decision_key
from ft_pipeline.settings.checks import ClassificationMetric
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.settings.sweep import sweep_owner
from ft_pipeline.step import STEPS, SpecContext, references
from ft_pipeline.steps.shared.rival_specs import calibrated_artifacts, rival_artifacts, rival_spec
from ft_pipeline.steps.shared.scoring_specs import (
    base_names,
    base_of,
    baseline_spec,
    contender_artifacts,
    covers,
    scores_spec,
    teacher_spec,
)
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import ArtifactReference
from ft_pipeline.training.objectives.registry import OBJECTIVES
from ft_pipeline.training.objectives.targets import LearnsFrom


class ComparedScores(NamedTuple):
    """The scores that are compared, and the settings that say how."""

    inputs: dict[str, ArtifactReference]
    config: dict[str, Any]
    """As build_comparison expects it."""
    newest: Artifact | None
    """The newest of these scores, whose test rows are those of the comparison. None: nothing was scored."""


def compared_scores(context: SpecContext) -> ComparedScores:
    """Return the current scores of all models. MissingInput if those of the champion or a contender are not measured
    yet."""
    scored, stale = _current_scores(context)
    newest = _newest(scored)
    contenders, not_asked = contender_artifacts(context, newest)
    rivals, calibrated = rival_artifacts(context, newest), calibrated_artifacts(context, scored)
    others = contenders | rivals.inputs | calibrated.inputs
    for of_feature in features.call("compared", context, scored):
        others |= of_feature
    inputs = references(scored | _teacher_scores(context, scored) | others)
    settings = context.project.settings
    loaded = {name: made for name, made in contenders.items() if name.endswith("/prompt_baseline")}
    with_base = scored | loaded | calibrated.inputs
    bases = {name: base_of(context.store, artifact) for name, artifact in sorted(with_base.items())}
    config: dict[str, Any] = {
        "fingerprint": _newest_evaluation(scored),
        **_deciding_metric(settings),
        "prices": settings.costs.model_dump(mode="json"),
        "forgetting_margin": settings.promotion.forgetting_margin,
        "rails": settings.promotion.rails,
        "keeps": settings.promotion.keeps,
        "bases": dict(bases),
        **_must_keep(context),
        **({"stale": stale} if stale else {}),
    }
    if slices := settings.evaluation.slices:
        config["slices"] = {name: rule.model_dump(mode="json", exclude_defaults=True) for name, rule in slices.items()}
    if contaminated := _contaminated_experiments(context, scored):
        config["contaminated"] = contaminated
    if about := _about_contenders(settings):
        config["contenders"] = about
    if without_row := [*not_asked, *dict.fromkeys([*rivals.left_out, *calibrated.left_out])]:
        config["not_asked"] = without_row
    if not settings.evaluation.rivals:
        config["without_rivals"] = True
    if settings.prompting.search is not None and (tried := count_tries(context.store.root)):
        config["prompts_tried"] = tried
    for keys in features.call("compared_by", context):
        config |= keys
    if learned := _learned_from(context, scored):
        config["learned_from"] = learned
    previous_champion = champion_before(context.store.root, _key_of_decision(context, inputs, config))
    if previous_champion is not None:
        config["champion"] = {key: getattr(previous_champion, key) for key in ("name", "experiment", "fingerprint")}
        if facts := _contaminated_champion(context, previous_champion):
            config["champion"]["contaminated"] = facts
        else:
            asset, artifact = _champion_scores(context, previous_champion, scored, newest)
            inputs[f"champion/{asset}"] = artifact.reference
            if learns_from := _learns_beyond_answers(context, artifact):
                config["champion"]["learned_from"] = learns_from
            if previous_champion.kind != "classifier":
                config["champion"]["base_model"] = bases["champion"] = base_of(context.store, artifact)
    config["base_names"] = base_names(context.store, bases.values())
    config["first"] = [name for name in with_base if config["base_names"][bases[name]] == EMBEDDED]
    return ComparedScores(inputs, config, newest)


def _learned_from(context: SpecContext, scored: Mapping[str, Artifact]) -> dict[str, str]:
    """Experiment → what it learned from, for each one that does not imitate."""
    learned = {
        name.removesuffix("/scores"): _learns_beyond_answers(context, artifact)
        for name, artifact in scored.items()
        if name.endswith("/scores")
    }
    return {name: learns_from for name, learns_from in learned.items() if learns_from}


def _learns_beyond_answers(context: SpecContext, scores: Artifact) -> LearnsFrom | None:
    """Return what the model of some scores learned from in its last phase; None if it imitates, or was not trained."""
    if "adapter" not in scores.inputs:
        return None
    adapter = context.store.require(*scores.inputs["adapter"])
    learns_from = OBJECTIVES[adapter.spec["config"].get("experiment", {}).get("objective", "sft")].learns_from
    return None if learns_from == "answers" else learns_from


def _key_of_decision(context: SpecContext, inputs: Mapping[str, ArtifactReference], config: Mapping[str, Any]) -> str:
    """The decision key of the comparison of these scores: with further ratings, it is another decision."""
    return decision_key({**inputs, **references(people_said(context))}, config)


def people_said(context: SpecContext) -> dict[str, Artifact]:
    """The verdicts of people, by the name of the input. Nothing if there are none: then all is as without `ft rate`.

    Raises UserError if a row was erased from them.
    """
    if context.pointer(RATED) is None:
        return {}
    made = context.artifact(RATED)
    return {RATED: made} if made.summary["verdicts"] else {}


def _deciding_metric(settings: ProjectSettings) -> dict[str, Any]:
    """The settings of a comparison that say which metric decides."""
    metric, own = settings.promotion.wanted_metric, settings.evaluation.metrics
    decides = next((name for name, metric_settings in own.items() if metric_settings.decides), None)
    config: dict[str, Any] = {"primary_metric": metric, "decides": decides}
    if metric != settings.promotion.metric:
        config["notice"] = "`promotion.metric: loss` now means `auto`."
    labels = {
        name: own_metric.labels for name, own_metric in own.items() if isinstance(own_metric, ClassificationMetric)
    }
    if labels:
        config["labels"] = labels
    margins = settings.promotion.model_dump(include={"answers_margin", "incumbent_margin", "worth"})
    return {**config, **margins}


def _must_keep(context: SpecContext) -> dict[str, Any]:
    """What tuned models must keep of their base models: probes with what is wanted of the answers, and tasks with their
    margins. Without them, nothing."""
    settings = context.project.settings.evaluation
    digests = probe_digests(read_probes(settings.probes, context.project.resolve_path))
    probes = {
        name: {**entry.model_dump(mode="json", exclude={"file"}), "digest": digests[name]}
        for name, entry in settings.probes.items()
    }
    must_hold = settings.tasks_that_must_hold()
    return {**({"probes": probes} if probes else {}), **({"must_hold": must_hold} if must_hold else {})}


def _about_contenders(settings: ProjectSettings) -> dict[str, Any]:
    """By contender, whether it answers today, and when it ends."""
    return {
        contender.name: contender.model_dump(mode="json", include={"incumbent", "ends"})
        for contender in settings.evaluation.contenders
        if contender.incumbent or contender.ends
    }


def _current_scores(context: SpecContext) -> tuple[dict[str, Artifact], list[str]]:
    """Return the current scores by `<experiment>/<asset>`, and the experiments that are left out.

    Left out are members of a sweep (settings/sweep.py) whose experiment was since trained differently or on other data.
    """
    scored: dict[str, Artifact] = {}
    stale = []
    for name in context.project.experiment_names():  # an experiment comes before its sweep members
        scores, owner = context.find("scores", name), sweep_owner(name)
        owner_scores = scored.get(f"{owner}/scores")
        if scores is not None and owner_scores is not None and not same_recipe(context.store, owner_scores, scores):
            stale.append(name)
            continue
        baseline = context.find("prompt_baseline", name) if f"{owner}/prompt_baseline" not in scored else None
        artifacts = {"prompt_baseline": baseline, "scores": scores}
        scored |= {f"{name}/{asset}": artifact for asset, artifact in artifacts.items() if artifact is not None}
    return scored, stale


def _contaminated_experiments(context: SpecContext, scored: Mapping[str, Artifact]) -> dict[str, Facts]:
    """Experiment → facts, for each one whose model learned from a row that is a test row in the compared evaluation."""
    newest = _newest(scored)
    if newest is None:
        return {}
    adapters = {
        name.removesuffix("/scores"): context.store.require(*artifact.inputs["adapter"])
        for name, artifact in scored.items()
        if name.endswith("/scores")
    }
    return find_contaminated(context.store, adapters, context.store.require(*newest.inputs["conversations"]))


def _contaminated_champion(context: SpecContext, champion: ChampionRecord) -> Facts | None:
    """The facts if the champion learned from a row of the test split that it would be scored on."""
    if champion.kind == "prompt":
        return None
    if champion.kind == "classifier":
        model = context.store.require(WORD_MODEL, champion.fingerprints[WORD_MODEL])
        return learned_test_rows(context.store, model, context.checked_artifact("conversations"))
    adapter = context.store.require("adapter", champion.fingerprints["adapter"])
    found = find_contaminated(context.store, {champion.name: adapter}, context.checked_artifact("conversations"))
    return found.get(champion.name)


def _teacher_scores(context: SpecContext, scored: dict[str, Artifact]) -> dict[str, Artifact]:
    """The teacher's scores for each prompt baseline that was measured, as far as the store has them."""
    teacher_scores = {}
    for name, baseline in scored.items():
        if name.endswith("/prompt_baseline"):
            spec = teacher_spec(context, baseline.inputs)
            if spec is not None and (artifact := context.store.find(spec)) is not None:
                teacher_scores[name.replace("prompt_baseline", "teacher_scores")] = artifact
    return teacher_scores


def _newest(scored: Mapping[str, Artifact]) -> Artifact | None:
    """The newest scores. Older scores on other rows are not compared."""
    return max(scored.values(), key=lambda artifact: artifact.manifest["created"], default=None)


def _newest_evaluation(scored: Mapping[str, Artifact]) -> str | None:
    """The evaluation fingerprint of the newest scores."""
    newest = _newest(scored)
    return newest.summary["rows"][0]["fingerprint"] if newest else None


def _champion_scores(
    context: SpecContext, champion: ChampionRecord, scored: dict[str, Artifact], newest: Artifact | None
) -> tuple[str, Artifact]:
    """Return (asset, its artifact): the champion's scores on the current test rows.

    Raises MissingInput if they are not measured yet. scored: the current scores, which may contain a prompt variant.
    """
    if champion.kind == "classifier":
        model = (WORD_MODEL, champion.fingerprints[WORD_MODEL])
        return "rival_scores", context.built_artifact(rival_spec(context, newest, [champion.name], model))
    served, frozen = champion.evidence["served"], champion.fingerprints
    base = ("base_model", champion.fingerprints["base_model"])
    if champion.kind == "prompt":
        inputs = {"conversations": context.checked_artifact("conversations").reference, "base_model": base}
        spec = baseline_spec(context, inputs, {"variants": {champion.name.partition("@")[0]: served}}, frozen)
    else:
        tuned = {key: (key, champion.fingerprints[key]) for key in ("adapter", "merged_model")}
        of_the_model = {key: value for key, value in served.items() if key != "variant"}
        spec = scores_spec(context, {"base_model": base, **tuned}, of_the_model, frozen)
    spec = spec.with_code_version(STEPS[spec.kind].code_version)
    existing = next((artifact for artifact in scored.values() if covers(artifact, spec)), None)
    return spec.kind, existing or context.built_artifact(spec)
