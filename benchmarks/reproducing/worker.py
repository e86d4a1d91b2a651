"""What a separate process does for the reproductions: prepare rows and base model, train once, or measure 4 bit."""

import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
from embedded import convert_base, shipped_files
from own_trainer import new_trainer
from reproducing.trainings import ARMS, QUANTIZED

_BATCH = 16
_SLICE = 128
"""Rows of logits that are compared at a time."""
Rows = list[dict[str, Any]]


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Do `task` (`do` is prepare, train or measure_base) in the folder `work`; its result as JSON."""
    work = Path(task["work"])
    if task["do"] == "prepare":
        return prepare(work, task["rows"], task["held_out"])
    rows = json.loads((work / task["rows_file"]).read_text(encoding="utf-8"))
    if task["do"] == "measure_base":
        return measure_base(work / "base", rows["held_out"])
    return train(work / "base", rows, task)


def prepare(work: Path, rows: int, held_out: int) -> dict[str, Any]:
    """Write `base`, unless it is there, and a file of rows into `work`; facts of machine, rows and model."""
    from ft_pipeline.models.base_model import count_stored_parameters
    from ft_pipeline.models.compute_dtype import measured_gflops

    if not (work / "base").is_dir():
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            convert_base(Path(scratch)).rename(work / "base")
    splits = _splits(work / "base", rows, held_out)
    file = f"rows_{rows}_{held_out}.json"
    (work / file).write_text(json.dumps(splits), encoding="utf-8")
    about = machine.describe_compute()
    return {
        "machine": about,
        "gflops": measured_gflops()[about["compute_dtype"]],
        "parameters": count_stored_parameters(work / "base")[0],
        "config": json.loads((work / "base" / "config.json").read_text(encoding="utf-8")),
        "rows_file": file,
        "rows": {name: len(part) for name, part in splits.items()},
        "tokens": {name: sum(len(row["input_ids"]) for row in part) for name, part in splits.items()},
    }


def _splits(base: Path, rows: int, held_out: int) -> dict[str, Rows]:
    """`train` and `held_out` rows of the shipped support rows: read, deduplicated and split as the pipeline does, so
    that near copies of a question are in one split."""
    import pyarrow.parquet as pq

    from ft_pipeline.models.load import load_tokenizer
    from ft_pipeline.settings.data import DataSettings
    from ft_pipeline.tables.build import build_table
    from ft_pipeline.tables.conversations import build_conversations
    from ft_pipeline.tables.file_result import SourceFile
    from ft_pipeline.tables.formats.turns import plain
    from ft_pipeline.tables.held_out import SuiteTexts
    from ft_pipeline.training.tokens.chat_tokens import encode, render_conversation

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        sources = [SourceFile(Path(name).name, Path(name), "") for name in shipped_files()]
        build_table("alpaca", sources, out / "alpaca", max_quarantined=0.1)
        build_table("sharegpt", [], out / "sharegpt", max_quarantined=0.1)
        shares = DataSettings(validation_share=0.1, test_share=0.25)
        folders = {name: out / name for name in ("alpaca", "sharegpt")}
        build_conversations(folders, out / "conversations", settings=shares, suite=SuiteTexts())
        table = pq.read_table(out / "conversations" / "rows.parquet").to_pylist()
    tokenizer = load_tokenizer(base)
    splits: dict[str, Rows] = {}
    for name, split, count in (("train", "train", rows), ("held_out", "test", held_out)):
        chosen = sorted((row for row in table if row["split"] == split), key=lambda row: row["id"])[:count]
        if len(chosen) < count:
            raise SystemExit(f"There are {len(chosen)} {name} rows, not {count}. Ask for fewer.")
        texts = [text for row in chosen for text in render_conversation(tokenizer, plain(row["messages"]))]
        splits[name] = [{"input_ids": row.input_ids, "labels": row.labels} for row in encode(tokenizer, texts)]
    return splits


def train(base: Path, rows: dict[str, Rows], task: dict[str, Any]) -> dict[str, Any]:
    """Train the arm of `task`; the summed loss (nats) and the answer tokens of each held-out row, speed and memory."""
    from ft_pipeline.errors import UserError
    from ft_pipeline.settings.experiment import ExperimentSettings
    from ft_pipeline.training.techniques import count_parameters
    from ft_pipeline.training.trainer.memory_usage import peak_memory_gb

    settings = ExperimentSettings.model_validate(ARMS[task["arm"]].settings(task["rate"], task["seed"]))
    with tempfile.TemporaryDirectory() as scratch:
        trainer = new_trainer(base, settings, rows["train"], Path(scratch))
        started = time.monotonic()
        try:
            trainer.train()
            sums, tokens = row_losses(trainer.model, trainer.processing_class, rows["held_out"])
        except UserError as error:  # the trainer refuses a loss that is not a number
            return {"diverged": True, "why": str(error), "seconds_of_training": time.monotonic() - started}
    if not all(map(math.isfinite, sums)):
        return {"diverged": True, "why": "the held-out loss is not a number", "tokens": tokens}
    return {
        "loss_sums": sums,
        "tokens": tokens,
        "train_losses": [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry],
        "tokens_per_second": trainer.meter.tokens_per_second,
        "peak_memory_gb": peak_memory_gb("cpu"),
        "trainable_params": count_parameters(trainer.model)["trainable_params"],
    }


def row_losses(model: Any, tokenizer: Any, rows: Rows) -> tuple[list[float], list[int]]:
    """Summed loss (nats) and number of the answer tokens of each row, in the order of `rows`."""
    from ft_pipeline.models.compute_dtype import compute_autocast
    from ft_pipeline.training.trainer.batches import collate
    from ft_pipeline.training.trainer.loss import evaluation_mode, sequence_log_probabilities
    from ft_pipeline.training.trainer.token_trainer import batch_pad_token_id

    sums = [0.0] * len(rows)
    pad = batch_pad_token_id(model, tokenizer)
    with evaluation_mode(model), compute_autocast(model):
        for places in _batches(rows):
            batch = collate([rows[place] for place in places], pad)
            for place, value in zip(places, sequence_log_probabilities(model, batch).tolist(), strict=True):
                sums[place] = -value
    return sums, list(map(_answer_tokens, rows))


def measure_base(base: Path, rows: Rows) -> dict[str, Any]:
    """Of each held-out row: the loss of the untouched base, and KL(base || its 4-bit form) by form, summed over the
    answer tokens (nats)."""
    import torch

    from ft_pipeline.models.load import keep_weights_unpacked, load_model, load_tokenizer
    from ft_pipeline.training.trainer.batches import collate
    from ft_pipeline.training.trainer.loss import answer_states, compute_logits

    pad = load_tokenizer(base).pad_token_id
    original = load_model(base, "cpu")
    forms = {arm.name: load_model(base, "cpu", quantization=arm.quantization()) for arm in QUANTIZED}
    for model in forms.values():
        keep_weights_unpacked(model)
    losses = [0.0] * len(rows)
    divergences = {name: [0.0] * len(rows) for name in forms}
    with torch.no_grad():
        for places in _batches(rows):
            batch = collate([rows[place] for place in places], pad)
            lengths = [_answer_tokens(rows[place]) for place in places]
            hidden, targets = answer_states(original, batch)
            expected = torch.cat(
                [compute_logits(original, part).float().log_softmax(1) for part in hidden.split(_SLICE)]
            )
            loss = -expected.gather(1, targets[:, None])[:, 0]
            _add(losses, places, lengths, loss)
            for name, model in forms.items():
                states, _ = answer_states(model, batch)
                _add(divergences[name], places, lengths, _divergence(model, expected, states))
    return {"loss_sums": losses, "tokens": list(map(_answer_tokens, rows)), "kl_sums": divergences}


def _divergence(model: Any, expected: Any, states: Any) -> Any:
    """KL(expected || model) of each token [tokens]; expected: log probabilities [tokens, vocabulary]."""
    import torch

    from ft_pipeline.training.trainer.loss import compute_logits

    parts = zip(expected.split(_SLICE), states.split(_SLICE), strict=True)
    return torch.cat(
        [(p.exp() * (p - compute_logits(model, state).float().log_softmax(1))).sum(1) for p, state in parts]
    )


def _add(sums: list[float], places: Sequence[int], lengths: Sequence[int], values: Any) -> None:
    """Add the tokens' values to the sums of their rows; rows one after the other, as answer_states has them."""
    for place, part in zip(places, values.split(list(lengths)), strict=True):
        sums[place] += float(part.double().sum())


def _batches(rows: Rows) -> list[list[int]]:
    """Places of rows of similar length."""
    order = sorted(range(len(rows)), key=lambda place: -len(rows[place]["input_ids"]))
    return [order[begin : begin + _BATCH] for begin in range(0, len(order), _BATCH)]


def _answer_tokens(row: dict[str, Any]) -> int:
    from ft_pipeline.training.tokens.chat_tokens import MASKED

    return sum(label != MASKED for label in row["labels"][1:])
