"""Trainings of a large model by us, TRL and Unsloth: tokens per second, peak memory and first loss of each.

Unsloth must be imported before transformers, so this module imports neither.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contenders import RATE, SEED, trl_trainer
from gpu_parts.bench import Skipped
from gpu_parts.trainings import DTYPE_VARIABLE
from own_trainer import new_trainer

TARGETS = "all-linear"
Result = dict[str, Any]


def train(item: dict[str, Any]) -> Result:
    """Run one contender of an item; its speed and memory."""
    os.environ[DTYPE_VARIABLE] = "auto"
    with tempfile.TemporaryDirectory() as scratch:
        return CONTENDERS[item["contender"]](item, Path(scratch))


# --- sft --------------------------------------------------------------------------------------------------------------


def _ours(item: dict[str, Any], scratch: Path, **training: Any) -> Result:
    from ft_pipeline.errors import UserError

    rows = _rows(item)
    settings = _settings(item, **training)
    try:
        trainer = new_trainer(Path(item["base"]), settings, rows, scratch, item["device"])
    except UserError as error:
        raise Skipped(str(error)) from error
    return _timed(trainer, item, _tokens_in_order(rows, item))


def _trl_like_for_like(item: dict[str, Any], scratch: Path) -> Result:
    from datasets import Dataset

    rows = _rows(item)
    ordered = Dataset.from_list([rows[index] for index in _order(rows, item)])
    arguments = {
        "output_dir": str(scratch),
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "per_device_train_batch_size": item["batch"],
    }
    return _timed(_trl(item, ordered, arguments), item, _tokens_in_order(rows, item))


def _trl_defaults(item: dict[str, Any], scratch: Path) -> Result:
    from datasets import Dataset

    rows = _rows(item)
    arguments = {
        "output_dir": str(scratch),
        "max_length": item["longest"],
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "per_device_train_batch_size": item["batch"],
    }
    return _timed(_trl(item, Dataset.from_list(rows), arguments), item, _mean_tokens(rows, item))


def _trl(item: dict[str, Any], dataset: Any, arguments: dict[str, Any], **more: Any) -> Any:
    options = {"technique": item["technique"], "device": item["device"], "targets": TARGETS}
    return trl_trainer(Path(item["base"]), dataset, arguments, **options, **more)


def _unsloth(item: dict[str, Any], scratch: Path) -> Result:
    import importlib.util

    if importlib.util.find_spec("unsloth") is None:
        raise Skipped("unsloth is not installed")
    if item["technique"] == "full":
        raise Skipped("it is compared on adapters")
    from unsloth import FastLanguageModel  # isort: skip
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = _rows(item)
    ordered = Dataset.from_list([rows[index] for index in _order(rows, item)])
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=item["base"],
        max_seq_length=item["longest"],
        load_in_4bit=item["technique"] == "qlora",
        local_files_only=True,
    )
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = FastLanguageModel.get_peft_model(
        model, r=8, lora_alpha=8, lora_dropout=0, target_modules=names, use_gradient_checkpointing=False
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(scratch),
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            per_device_train_batch_size=item["batch"],
            num_train_epochs=1,
            learning_rate=RATE,
            optim="paged_adamw_8bit",
            seed=SEED,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=ordered,
        processing_class=tokenizer,
    )
    return _timed(trainer, item, _mean_tokens(rows, item))


def _rows(item: dict[str, Any]) -> list[dict[str, Any]]:
    from gpu_parts.models import random_rows

    return random_rows(Path(item["base"]), item["rows"], item["longest"] // 2, item["longest"])


def _order(rows: list[dict[str, Any]], item: dict[str, Any]) -> list[int]:
    from ft_pipeline.training.trainer.batches import LengthGroupedSampler

    return list(LengthGroupedSampler([len(row["input_ids"]) for row in rows], item["batch"], SEED))


def _tokens_in_order(rows: list[dict[str, Any]], item: dict[str, Any]) -> list[int]:
    """The tokens of each step of a trainer that reads the rows in our order."""
    lengths = [len(rows[index]["input_ids"]) for index in _order(rows, item)]
    return [sum(lengths[begin : begin + item["batch"]]) for begin in range(0, len(lengths), item["batch"])]


def _mean_tokens(rows: list[dict[str, Any]], item: dict[str, Any]) -> list[int]:
    """The mean number of tokens of a step, for each step."""
    steps = -(-len(rows) // item["batch"])
    return [sum(len(row["input_ids"]) for row in rows) // steps] * steps


def _settings(item: dict[str, Any], **training: Any) -> Any:
    from ft_pipeline.settings.experiment import ExperimentSettings

    more = item.get("settings", {})
    return ExperimentSettings.model_validate(
        {
            "technique": item["technique"],
            **more,
            "training": {
                "learning_rate": RATE,
                "num_train_epochs": 1,
                "per_device_train_batch_size": item["batch"],
                "seed": SEED,
                **more.get("training", {}),
                **training,
            },
        }
    )


# --- dpo --------------------------------------------------------------------------------------------------------------


def _ours_dpo(item: dict[str, Any], scratch: Path) -> Result:
    from ft_pipeline.models.load import load_tokenizer
    from ft_pipeline.training.tokens.chat_tokens import encode, render_conversation

    tokenizer = load_tokenizer(Path(item["base"]))

    def side(name: str) -> list[Any]:
        texts = [render_conversation(tokenizer, [*pair["prompt"], *pair[name]])[0] for pair in pairs]
        return list(encode(tokenizer, texts))

    pairs = _pairs(item)
    rows = [
        {
            "input_ids": chosen.input_ids,
            "labels": chosen.labels,
            "rejected_ids": rejected.input_ids,
            "rejected_labels": rejected.labels,
        }
        for chosen, rejected in zip(side("chosen"), side("rejected"), strict=True)
    ]
    item = {**item, "settings": {"objective": "dpo"}}
    started = time.monotonic()
    trainer = new_trainer(Path(item["base"]), _settings(item), rows, scratch, item["device"])
    return {"seconds_before": time.monotonic() - started, **_timed(trainer, item, _tokens_of_pairs(rows, item))}


def _trl_dpo(item: dict[str, Any], scratch: Path, **more: Any) -> Result:
    from datasets import Dataset

    arguments = {
        "output_dir": str(scratch),
        "max_length": None,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": item["batch"],
        **more,
    }
    pairs = _pairs(item)
    trainer = _trl(item, Dataset.from_list(pairs), arguments, kind="DPO")
    sides = {"input_ids": "chosen_ids", "rejected_ids": "rejected_ids"}
    rows = [{name: [*row["prompt_ids"], *row[side]] for name, side in sides.items()} for row in trainer.train_dataset]
    return _timed(trainer, item, _tokens_of_pairs(rows, item))


def _tokens_of_pairs(rows: list[dict[str, Any]], item: dict[str, Any]) -> list[int]:
    return _mean_tokens([{"input_ids": [*row["input_ids"], *row["rejected_ids"]]} for row in rows], item)


def _pairs(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Pairs of answers of about half the letters of `longest` tokens, from the shipped sentences."""
    import random

    from embedded import read_rows, shipped_files

    draw = random.Random(0)
    answers = [row[1]["content"] for row in read_rows(shipped_files(), 300)]

    def answer() -> list[dict[str, str]]:
        text = ""
        while len(text) < 1.5 * item["longest"]:
            text += draw.choice(answers) + " "
        return [{"role": "assistant", "content": text.strip()}]

    return [
        {
            "prompt": [{"role": "user", "content": f"{number}: {draw.choice(answers)}"}],
            "chosen": answer(),
            "rejected": answer(),
        }
        for number in range(item["rows"])
    ]


# --- grpo -------------------------------------------------------------------------------------------------------------


def _ours_grpo(item: dict[str, Any], scratch: Path) -> Result:
    import json

    from ft_pipeline.models.load import load_tokenizer
    from ft_pipeline.rewards.config import reward_config
    from ft_pipeline.settings.evaluation import EvaluationSettings
    from ft_pipeline.training.tokens.chat_tokens import encode, render_conversation

    tokenizer = load_tokenizer(Path(item["base"]))
    pairs = [[*pair["prompt"], *pair["chosen"]] for pair in _pairs(item)]
    tokens = encode(tokenizer, [render_conversation(tokenizer, messages)[0] for messages in pairs])
    rows = [
        {
            "input_ids": row.input_ids,
            "labels": row.labels,
            "conversation": json.dumps({"messages": messages, "tools": None}),
        }
        for row, messages in zip(tokens, pairs, strict=True)
    ]
    grpo = {"rewards": {"chrf": 1}, "num_generations": item["answers"], "max_new_tokens": item["new_tokens"]}
    item = {**item, "settings": {"objective": "grpo", "grpo": grpo, "training": {"max_length": 4096}}}
    rewards = reward_config(scratch, EvaluationSettings(), grpo["rewards"])
    trainer = new_trainer(Path(item["base"]), _settings(item), rows, scratch, item["device"], rewards=rewards)
    return _timed(trainer, item, _answer_tokens(item))


def _trl_grpo(item: dict[str, Any], scratch: Path) -> Result:
    from datasets import Dataset

    from ft_pipeline.evaluation.metrics.definitions import chrf

    def reward(completions: Any, reference: Any, **_: Any) -> list[float]:
        return [chrf(answer[-1]["content"], right) for answer, right in zip(completions, reference, strict=True)]

    pairs = [{"prompt": pair["prompt"], "reference": pair["chosen"][0]["content"]} for pair in _pairs(item)]
    arguments = {
        "output_dir": str(scratch),
        "gradient_checkpointing": False,
        "per_device_train_batch_size": item["batch"] * item["answers"],
        "num_generations": item["answers"],
        "max_completion_length": item["new_tokens"],
        "beta": 0.04,
    }
    trainer = _trl(item, Dataset.from_list(pairs), arguments, kind="GRPO", reward_funcs=reward)
    return _timed(trainer, item, _answer_tokens(item))


def _answer_tokens(item: dict[str, Any]) -> list[int]:
    """The tokens of the answers of each step: a random model seldom writes its stop token before the limit."""
    return [item["batch"] * item["answers"] * item["new_tokens"]] * -(-item["rows"] // item["batch"])


# --- time -------------------------------------------------------------------------------------------------------------


def _timed(trainer: Any, item: dict[str, Any], tokens: Sequence[int]) -> Result:
    """Train; speed without the first steps, peak memory, and the first loss."""
    from gpu_parts.step_clock import StepClock

    from ft_pipeline.training.trainer.memory_usage import peak_memory_gb

    clock = StepClock(item["device"])
    trainer.add_callback(clock)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "tokens_per_second": clock.rate(tokens, item["warmup"]),
        "peak_memory_gb": peak_memory_gb(item["device"]),
        "steps": len(clock.times) - 1,
        "first_loss": losses[0],
        "mean_loss": sum(losses) / len(losses),
    }


CONTENDERS: dict[str, Callable[[dict[str, Any], Path], Result]] = {
    "ours": _ours,
    "ours, padding_free": lambda item, scratch: _ours(item, scratch, padding_free=True),
    "ours, use_liger_kernel": lambda item, scratch: _ours(item, scratch, use_liger_kernel=True),
    "ours, torch_compile": lambda item, scratch: _ours(item, scratch, torch_compile=True),
    "ours, gradient_checkpointing": lambda item, scratch: _ours(item, scratch, gradient_checkpointing=True),
    "TRL like for like": _trl_like_for_like,
    "TRL's defaults": _trl_defaults,
    "Unsloth": _unsloth,
    "ours, dpo": _ours_dpo,
    "TRL, dpo": _trl_dpo,
    "TRL, dpo, precomputed reference": lambda item, scratch: _trl_dpo(item, scratch, precompute_ref_log_probs=True),
    "ours, grpo": _ours_grpo,
    "TRL, grpo": _trl_grpo,
}
"""Contender → its training."""
