"""The worker for `scores`: score the tuned model, as adapter and merged, with the harness of `prompt_baseline`.

The form that is released is also scored under prompt variants (`prompting.tuned_with`).
"""

import gc
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.model_kinds import TUNED, ModelKind
from ft_pipeline.evaluation.scoring.prompt_sources import read_prompts
from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.evaluation.scoring.scorer import Scorer
from ft_pipeline.evaluation.scoring.tested_model import ModelUnderTest
from ft_pipeline.evaluation.tuned_variants import row_name, variants_in, with_own_prompt
from ft_pipeline.job import Job
from ft_pipeline.models.base_model import count_stored_parameters
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.load import keep_weights_unpacked, load_model

FORMS: dict[str, tuple[ModelKind, ...]] = {"full": ("merged",), "prompt_tuning": ("adapter",)}
"""The forms of a tuned model, for techniques that do not have both."""


def run(job: Job) -> dict[str, Any]:
    """Score the adapter on the base model that it was trained on (NF4 for qlora), then the merged model.

    config: evaluation (EvaluationSettings), technique, quantization (QuantizationSettings or null), system_prompt (the
    one that the experiment is served with, or null), general_questions, general_texts (rows). Optional: prompting.
    inputs: conversations, base_model, adapter, merged_model, and what the prompts are taken from (prompt_sources.py). A
    technique with only one form (FORMS) has only that one scored. Raises UserError if the test split is empty or a
    prompt does not fit the model.
    """
    tested_models = _models_to_test(job)
    scorer = Scorer(job, tested_models)
    for kind, of_form in groupby(tested_models, key=lambda tested_model: tested_model.kind):
        missing = [tested_model for tested_model in of_form if not scorer.skip_if_scored(tested_model)]
        if missing:
            model = _load(job, kind)
            speed_up_products(model, trains=False)
            for tested_model in missing:
                scorer.score(model, tested_model)
            del model
            gc.collect()  # frees PEFT's circular references; two models at once would not fit a small GPU
    return scorer.write(tested_models)


def _models_to_test(job: Job) -> list[ModelUnderTest]:
    drops_reasoning = job.config.get("reasoning") == "drop"
    prompt = Prompt(system_prompt=job.config["system_prompt"], drops_reasoning=drops_reasoning)
    facts = {
        "technique": job.config["technique"],
        "system_prompt": job.config["system_prompt"],
        "trainable_params": _adapter_parameters(job.inputs["adapter"]),
    }
    forms = FORMS.get(job.config["technique"], TUNED)
    plain = [ModelUnderTest(kind, kind, prompt, facts, runs_general_suite=True) for kind in forms]
    released = forms[-1]
    variants = {
        name: with_own_prompt(variant, job.config["system_prompt"]) for name, variant in variants_in(job.config).items()
    }
    prompted = [
        ModelUnderTest(
            row_name(released, name),
            released,
            replace(prompt, drops_reasoning=drops_reasoning),
            {**facts, **variants[name]},
            same_weights_as=released,
        )
        for name, prompt in read_prompts(job, variants).items()
    ]
    return [*plain, *prompted]


def _load(job: Job, kind: str) -> Any:
    if kind == "merged":
        return load_model(job.inputs["merged_model"], job.device)
    quantization = job.config["quantization"] if job.config["technique"] == "qlora" else None
    model = load_model(job.inputs["base_model"], job.device, quantization=quantization, adapter=job.inputs["adapter"])
    # Score what was trained: on a CPU, bitsandbytes' inference layout rounds differently (0.009 nats per token).
    keep_weights_unpacked(model)
    return model


def _adapter_parameters(adapter: Path) -> int:
    parameters, _ = count_stored_parameters(adapter)
    return parameters
