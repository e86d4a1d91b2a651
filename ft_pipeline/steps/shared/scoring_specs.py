"""Specs of scores: the same harness, template and rows for every model that is compared."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ft_pipeline.distillation.endpoint_teacher import has_key, host_of
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import declares_tools, make_items, read_rows, select_rows
from ft_pipeline.evaluation.metrics.custom_metrics import resolve_metrics
from ft_pipeline.evaluation.model_kinds import RIVAL_KINDS
from ft_pipeline.evaluation.scoring.answer_limit import limit_of
from ft_pipeline.evaluation.scoring.probe_files import read_probes
from ft_pipeline.evaluation.tuned_variants import VARIANTS, looks_up, variants_in
from ft_pipeline.models.base_model import EMBEDDED
from ft_pipeline.models.endpoint.rate_limits import cost
from ft_pipeline.models.generation_config import ignored_while_decoding
from ft_pipeline.project import read_jsonl
from ft_pipeline.settings.contenders import ContenderSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.feature_keys import defaults_of_features
from ft_pipeline.settings.project import PromptingSettings
from ft_pipeline.settings.prompt_variant import PromptVariant
from ft_pipeline.settings.teacher import PriceSettings
from ft_pipeline.step import STEPS, MissingInput, SpecContext, spec_of_its_asset, versions_of
from ft_pipeline.steps.base_model import base_model_spec, bases_of_experiments, has_teacher
from ft_pipeline.steps.shared.task_inputs import task_files, task_inputs
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.spec import ArtifactReference, Spec

IGNORED_WHILE_SCORING = {"temperature", "max_new_tokens", "answers_per_prompt", "batch_size"}
"""Settings of the teacher that do not apply while it is scored: all models are scored with those of `evaluation`."""
NOT_SCORED_WITH = {
    "general_questions",
    "general_texts",
    "bootstrap_resamples",
    "tokens_of",
    "contenders",
    "rivals",
    *defaults_of_features("evaluation"),
    "slices",
    "tasks",
    "probes",
    "call_arguments",
}
"""Settings of `evaluation` that do not change the scores of a model, or that are given in another form."""
RESERVED_ROWS = ("base", "champion", "teacher")
"""Names of rows of every comparison."""
LETTERS_PER_TOKEN = 4
"""Of English, in most vocabularies: for the estimate of a bill."""
HARNESS_PACKAGES = ("lm-eval", "torch", "transformers", "peft", "bitsandbytes", "sacrebleu", "rouge-score")


def base_of(store: ArtifactStore, scores: Artifact) -> str:
    """Return the fingerprint of the base model that the first phase of a scored model was trained from."""
    return root_base(store, store.require(*scores.inputs["base_model"]))


def root_base(store: ArtifactStore, base: Artifact) -> str:
    """Return the fingerprint of the base model that another one was merged from, over all phases; or its own."""
    while "merged_model" in base.inputs:
        merged_model = store.require(*base.inputs["merged_model"])
        base = store.require(*merged_model.inputs["base_model"])
    return base.fingerprint


def base_names(store: ArtifactStore, fingerprints: Iterable[str]) -> dict[str, str]:
    """Return fingerprint → name of base models, as experiments name them; two of one name with their fingerprint."""
    bases = {fingerprint: store.require("base_model", fingerprint).spec["config"] for fingerprint in set(fingerprints)}
    names = {
        fingerprint: f"{config['model']}@{config['revision']}" if config.get("revision") else config["model"]
        for fingerprint, config in bases.items()
    }
    shared = {name for name, count in Counter(names.values()).items() if count > 1}
    return {
        fingerprint: f"{name} ({fingerprint[:8]})" if name in shared else name
        for fingerprint, name in sorted(names.items())
    }


def project_base(context: SpecContext) -> ArtifactReference | None:
    """Return the base model whose tokenizer counts `evaluation.max_new_tokens`; None if each model counts with its own.

    It does not depend on which experiments there are, except for the embedded model, which every machine has. Raises
    MissingInput if it is not in the store yet.
    """
    wanted, bases = context.project.settings.evaluation.tokens_of, bases_of_experiments(context)
    model = wanted or (EMBEDDED if EMBEDDED in bases else None)
    if model is None:
        return None
    revision, variables = bases.get(model, (None, {}))
    return context.built_artifact(base_model_spec(context, model, revision, variables)).reference


def _answer_limit_inputs(context: SpecContext, base_model: ArtifactReference) -> dict[str, ArtifactReference]:
    """Return the input that says in which tokens the length of answers is limited; none if it is the own base model."""
    if context.project.settings.evaluation.max_new_tokens is None:
        return {}
    base = project_base(context)
    own = root_base(context.store, context.store.require(*base_model))
    return {} if base is None or own == base[1] else {"project_base": base}


def evaluation_config(context: SpecContext) -> dict[str, Any]:
    """The settings that scores depend on, with the content of the files that they name."""
    settings = context.project.settings.evaluation
    rules = settings.model_dump(mode="json", include={"call_arguments"}) if settings.call_arguments else {}
    return {
        **rules,
        "evaluation": {**settings.model_dump(mode="json", exclude=NOT_SCORED_WITH), "tasks": settings.task_names},
        "general_questions": read_jsonl(context.project.resolve_path(settings.general_questions)),
        "general_texts": read_jsonl(context.project.resolve_path(settings.general_texts)),
        "custom_metrics": resolve_metrics(context.project.root, settings.metrics),
        "task_files": task_files(context),
    }


def probes_config(context: SpecContext) -> dict[str, Any]:
    """The questions of the probes, which tuned models and their base models answer. Empty without probes.

    What is wanted of the answers is not part of it: the comparison looks at that.
    """
    probes = read_probes(context.project.settings.evaluation.probes, context.project.resolve_path)
    return {"probes": probes} if probes else {}


def served_settings(settings: ExperimentSettings, prompting: PromptingSettings) -> dict[str, Any]:
    """How a tuned model is loaded and prompted."""
    quantization = settings.quantization.model_dump(mode="json") if settings.technique == "qlora" else None
    served = {
        "technique": settings.technique,
        "quantization": quantization,
        "system_prompt": settings.data.system_prompt,
    }
    if settings.data.reasoning == "drop":
        served["reasoning"] = "drop"
    variants = {name: variant.model_dump(mode="json") for name, variant in prompting.of_tuned_models.items()}
    return {**served, VARIANTS: {"variants": variants}} if variants else served


def scores_spec(
    context: SpecContext,
    model_inputs: dict[str, ArtifactReference],
    served: dict[str, Any],
    frozen: Mapping[str, str] | None = None,
) -> Spec:
    """The spec of the scores of a tuned model. served: from served_settings. frozen: see _prompt_inputs."""
    inputs = {"conversations": context.checked_artifact("conversations").reference, **model_inputs}
    return _scoring_spec(context, "scores", inputs, served, variants_in(served), frozen)


def baseline_spec(
    context: SpecContext,
    inputs: dict[str, ArtifactReference],
    prompting: dict[str, Any],
    frozen: Mapping[str, str] | None = None,
) -> Spec:
    """The spec of a prompt baseline. frozen: see _prompt_inputs."""
    return _scoring_spec(context, "prompt_baseline", inputs, {"prompting": prompting}, prompting["variants"], frozen)


def _scoring_spec(
    context: SpecContext,
    kind: str,
    inputs: dict[str, ArtifactReference],
    own_config: dict[str, Any],
    variants: Mapping[str, Any],
    frozen: Mapping[str, str] | None,
) -> Spec:
    """The spec of scores of one base model. own_config: what only this kind has. frozen: see _prompt_inputs."""
    ignored = ignored_while_decoding(context.store.require(*inputs["base_model"]).path)
    config = {**evaluation_config(context), **probes_config(context), **ignored, **own_config}
    all_inputs = {
        **inputs,
        **_prompt_inputs(context, inputs, variants, frozen),
        **_answer_limit_inputs(context, inputs["base_model"]),
        **task_inputs(context, config["task_files"]),
    }
    return Spec(kind, all_inputs, config, versions_of(*_packages(variants)))


def _prompt_inputs(
    context: SpecContext,
    inputs: Mapping[str, ArtifactReference],
    variants: Mapping[str, Mapping[str, Any]],
    frozen: Mapping[str, str] | None,
) -> dict[str, ArtifactReference]:
    """Return what passages and examples are taken from, besides `conversations`.

    frozen: fingerprints of the champion's `text` and `conversations`; None: the present ones. `text` is an input only
    if a variant retrieves passages. Otherwise a new text would rescore all variants.
    """
    sources: dict[str, ArtifactReference] = {}
    if any(variant.get("passages") for variant in variants.values()):
        kept = (frozen or {}).get("text")
        sources["text"] = ("text", kept) if kept else context.checked_artifact("text").reference
    if any(variant.get("examples") == "retrieved" or variant.get("example_rows") for variant in variants.values()):
        kept = (frozen or {}).get("conversations")
        if kept and kept != inputs["conversations"][1]:
            sources["examples"] = ("conversations", kept)
    return sources


def _packages(variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the packages on which scores under these prompt variants depend."""
    return [*HARNESS_PACKAGES, *(["bm25s"] if any(map(looks_up, variants.values())) else [])]


def teacher_spec(context: SpecContext, scored: dict[str, ArtifactReference]) -> Spec | None:
    """The spec of the teacher's scores on the test prompts. The project's base model counts their tokens.

    None if there is no teacher, or if it has no row in the comparison: the settings exclude it, it is the base model
    itself, or it is the embedded model, whose chat template writes no tools, and rows declare some.
    scored: references to `conversations` and `base_model` of the rows that the teacher is compared with.
    """
    teacher = context.project.settings.teacher
    if not teacher.in_comparison or not has_teacher(context):
        return None
    inputs = {"conversations": scored["conversations"], "base_model": project_base(context) or scored["base_model"]}
    ignored: dict[str, Any] = {}
    if teacher.endpoint is None:
        spec = base_model_spec(context, teacher.model, teacher.revision, teacher.chat_template_kwargs)
        built = context.built_artifact(spec)
        model, ignored = built.reference, ignored_while_decoding(built.path)
        if model == inputs["base_model"]:
            return None
        if teacher.model == EMBEDDED and declares_tools(context.store.require(*inputs["conversations"]).path):
            return None
        inputs["teacher_model"] = model
    teacher_config, handling = teacher.config_and_handling()
    teacher_config = {key: value for key, value in teacher_config.items() if key not in IGNORED_WHILE_SCORING}
    prices = teacher.endpoint.prices if teacher.endpoint else PriceSettings()
    config = {
        **evaluation_config(context),
        "teacher": teacher_config,
        "name": teacher.model,
        "prices": prices.model_dump(mode="json"),
        **ignored,
    }
    return Spec("teacher_scores", inputs, config, versions_of("sacrebleu", "rouge-score"), handling=handling)


def contender_artifacts(context: SpecContext, own: Artifact | None) -> tuple[dict[str, Artifact], list[str]]:
    """Return the scores of the contenders by their names as inputs of a comparison, and a sentence for each contender
    that has none because the key of its endpoint is not set.

    own: scores of a model that they are compared with. MissingInput if other scores are not in the store yet.
    """
    artifacts: dict[str, Artifact] = {}
    not_asked, missing = [], []
    endpoints = {entry.name: entry.endpoint for entry in context.project.settings.evaluation.contenders}
    for name, spec in _contender_specs(context, own).items():
        contender = name.partition("/")[0]
        endpoint, artifact = endpoints[contender], context.find_built(spec)
        if artifact is not None:
            artifacts[name] = artifact
        elif endpoint is None or has_key(endpoint):
            missing.append(spec_of_its_asset(spec))
        else:
            not_asked.append(
                f"{contender} was not asked, because the environment variable {endpoint.api_key_env} is not set. Set "
                "it where you start `ft run`, and run again."
            )
    if missing:
        raise MissingInput(missing[0], missing[1:])
    return artifacts, not_asked


def _contender_specs(context: SpecContext, own: Artifact | None) -> dict[str, Spec]:
    """Return the specs of the scores of all contenders, by their names as inputs of a comparison."""
    specs = {}
    taken = {
        *RESERVED_ROWS,
        *RIVAL_KINDS,
        *context.project.experiment_names(),
        *context.project.settings.scored_prompts(),
    }
    for contender in context.project.settings.evaluation.contenders:
        if contender.name in taken:
            raise UserError(
                f"The contender {contender.name!r} has the name of an experiment, a prompt variant or another row. "
                "Rename it."
            )
        if contender.base_model is not None:
            base = context.built_artifact(base_model_spec(context, contender.base_model, contender.revision)).reference
            inputs = {"conversations": context.checked_artifact("conversations").reference, "base_model": base}
            variants = {name: variant.model_dump(mode="json") for name, variant in contender.variants.items()}
            spec = baseline_spec(context, inputs, {"variants": variants})
            spec = spec.with_code_version(STEPS["prompt_baseline"].code_version)
            specs[f"{contender.name}/prompt_baseline"] = spec
        else:
            specs[f"{contender.name}/contender_scores"] = _contender_spec(context, contender, own)
    return specs


def counting_base(context: SpecContext, own: Artifact | None) -> ArtifactReference:
    """Return the base model that counts the tokens of answers without one, as those of `own` are counted."""
    return project_base(context) or (
        context.built_artifact(base_model_spec(context, EMBEDDED, None)).reference
        if own is None
        else ("base_model", base_of(context.store, own))
    )


def _contender_spec(context: SpecContext, contender: ContenderSettings, own: Artifact | None) -> Spec:
    """Return the spec of the scores of a contender of which only answers are known.

    Their tokens are counted as those of `own` are; otherwise the two would not be comparable.
    """
    inputs = {
        "conversations": context.checked_artifact("conversations").reference,
        "base_model": counting_base(context, own),
    }
    settings = contender.model_dump(mode="json", exclude={"incumbent", "ends"})
    handling: dict[str, Any] = {}
    config: dict[str, Any] = {**evaluation_config(context), "contender": settings}
    if contender.endpoint is not None:
        scored_with = {"url", "prices", *(["extra_body"] if contender.endpoint.extra_body else [])}
        settings["endpoint"] = contender.endpoint.model_dump(mode="json", include=scored_with)
        handling["endpoint"] = contender.endpoint.model_dump(mode="json", exclude=scored_with)
        handling["plan"] = _planned_calls(context, contender)
    if contender.answers is not None:
        path = context.project.resolve_path(contender.answers)
        if not path.is_file():
            raise UserError(f"Contender {contender.name}: there is no file {contender.answers}. Correct `answers`.")
        config["answers_sha256"], handling["answers"] = sha256_of_file(path), str(path)
    return Spec("contender_scores", inputs, config, versions_of("sacrebleu", "rouge-score"), handling=handling)


def _planned_calls(context: SpecContext, contender: ContenderSettings) -> str:
    """Return what scoring a contender sends, where to, and about what it costs."""
    assert contender.endpoint is not None
    test_rows = read_rows(context.checked_artifact("conversations").path, "test")
    settings, prices = context.project.settings.evaluation, contender.endpoint.prices
    items = make_items(select_rows(test_rows, "test", settings.max_test_rows))
    variants = list(contender.variants.values()) or [PromptVariant()]
    calls = len(items) * len(variants)
    letters = sum(len(str(turn["content"])) for item in items for turn in item.messages[:-1]) * len(variants)
    letters += sum(len(variant.system_prompt or "") for variant in variants) * len(items)
    limit = settings.max_new_tokens or limit_of([len(item.written) / LETTERS_PER_TOKEN for item in items])
    money = cost(prices, letters // LETTERS_PER_TOKEN, calls * limit)
    bill = f", at most about {money:.2f} by its prices" if money else ", no prices given"
    return f"contender {contender.name}: {calls:,} calls to {host_of(contender.endpoint)}{bill}"


def covers(scores: Artifact, spec: Spec) -> bool:
    """Whether scores are of the prompt variants of `spec`, among others, with the same inputs and settings."""

    def settings_only(spec_json: dict[str, Any]) -> dict[str, Any]:
        config = {key: value for key, value in spec_json["config"].items() if key != "prompting"}
        return {**spec_json, "config": config, "inputs": None, "versions": None}

    required, present = spec.to_json(), scores.spec
    return (
        scores.kind == spec.kind
        and settings_only(present) == settings_only(required)
        # Its other variants may have retrieved texts, which the variants of `spec` do not use.
        and required["inputs"].items() <= present["inputs"].items()
        and required["versions"].items() <= present["versions"].items()
        and variants_in(required["config"]).items() <= variants_in(present["config"]).items()
    )
