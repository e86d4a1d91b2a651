"""The worker for `scores`: score the tuned model, as adapter and merged, with the harness of `prompt_baseline`."""

import gc
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.model_kinds import TUNED, ModelKind
from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.evaluation.scoring.scorer import ModelUnderTest, Scorer
from ft_pipeline.job import Job
from ft_pipeline.models.base_model import count_stored_parameters
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.load import keep_weights_unpacked, load_model

FORMS: dict[str, tuple[ModelKind, ...]] = {"full": ("merged",), "prompt_tuning": ("adapter",)}
"""The forms of a tuned model, for techniques that do not have both."""


def run(job: Job) -> dict[str, Any]:
    """Score the adapter on the base model that it was trained on (NF4 for qlora), then the merged model.

    config: evaluation (EvaluationSettings), technique, quantization (QuantizationSettings or null), system_prompt (the
    one that the experiment is served with, or null), general_questions, general_texts (rows).
    inputs: conversations, base_model, adapter, merged_model. A technique with only one form (FORMS) has only that one
    scored. Raises UserError if the test split is empty.
    """
    tested_models = _models_to_test(job)
    scorer = Scorer(job, tested_models)
    for tested_model in tested_models:
        if not scorer.skip_if_scored(tested_model):
            model = _load(job, tested_model.kind)
            speed_up_products(model, trains=False)
            scorer.score(model, tested_model)
            del model
            gc.collect()  # frees PEFT's circular references; two models at once would not fit a small GPU
    return scorer.write(tested_models)


def _models_to_test(job: Job) -> list[ModelUnderTest]:
    prompt = Prompt(system_prompt=job.config["system_prompt"])
    facts = {
        "technique": job.config["technique"],
        "system_prompt": job.config["system_prompt"],
        "trainable_params": _adapter_parameters(job.inputs["adapter"]),
    }
    forms = FORMS.get(job.config["technique"], TUNED)
    return [ModelUnderTest(kind, kind, prompt, facts, runs_general_suite=True) for kind in forms]


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
