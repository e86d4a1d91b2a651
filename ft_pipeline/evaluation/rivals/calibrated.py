"""The rival `calibrated`: the base model chooses among the labels, without its preference for some of them.

A model finds some labels likelier than others, whatever is asked. So the mean log probability of each label over
validation questions is subtracted before the likeliest label is chosen (batch calibration, Zhou et al. 2023). This
needs no answers to these questions.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ft_pipeline.evaluation.items import Item, make_items, select_rows
from ft_pipeline.evaluation.rivals.answered_questions import NoRival
from ft_pipeline.evaluation.rivals.questions import Answered, Questions
from ft_pipeline.evaluation.scoring.prompts import Prompt, fitting_items, token_ids

NAME = "calibrated"
MAX_VALIDATION = 50
"""Validation questions over which the likelihoods are averaged, and on which prompts are compared."""
Floats = npt.NDArray[np.floating[Any]]


def answers(questions: Questions) -> Iterator[Answered]:
    """Yield the answers under the prompt whose choices are right most often on the validation rows.

    config: calibrated, with `labels` and `variants` (settings by the name of the prompt).
    """
    config, seed = questions.job.config["calibrated"], questions.job.config["evaluation"]["seed"]
    validation = make_items(select_rows(questions.rows, "validation", MAX_VALIDATION))
    if not validation:
        raise NoRival("there are no validation rows to calibrate on")
    chooser = _Chooser(questions, config["labels"])
    prompts = {name: Prompt.from_variant(each, questions.rows, seed) for name, each in config["variants"].items()}
    tried = {name: chooser.likelihoods(validation, prompt) for name, prompt in prompts.items()}
    best = max(tried, key=lambda name: _right(tried[name], validation, config["labels"]))
    started = time.perf_counter()
    chosen = calibrated_choice(chooser.likelihoods(questions.items, prompts[best]), tried[best])
    seconds = (time.perf_counter() - started) / len(questions.items)
    known = {"finish_reason": "stop", "prompt_tokens": None, "seconds": seconds, "calls": ()}
    given = [{"answer": config["labels"][number], **known} for number in chosen]
    yield Answered(NAME, "calibrated", given, {"technique": None, "prompt": best})


def calibrated_choice(likelihoods: Floats, of_others: Floats) -> list[int]:
    """Return the number of the chosen label of each question.

    likelihoods: log probabilities, questions × labels. of_others: the same of the questions to calibrate on.
    """
    chosen: list[int] = np.argmax(likelihoods - of_others.mean(axis=0), axis=1).tolist()
    return chosen


def _right(likelihoods: Floats, items: Sequence[Item], labels: Sequence[str]) -> int:
    chosen = calibrated_choice(likelihoods, likelihoods)
    return sum(labels[number] == item.reference for number, item in zip(chosen, items, strict=True))


class _Chooser:
    """The loaded base model, and the labels."""

    def __init__(self, questions: Questions, labels: Sequence[str]) -> None:
        # The worker of other rivals reads this module, too, and loads no model.
        from ft_pipeline.models.cpu.fast_linear import speed_up_products
        from ft_pipeline.models.load import load_model, load_tokenizer

        job = questions.job
        self.tokenizer = load_tokenizer(job.inputs["base_model"])
        self.model = load_model(job.inputs["base_model"], job.device)
        speed_up_products(self.model, trains=False)
        self.labels = labels
        self.batch_size = job.config["evaluation"]["batch_size"]

    def likelihoods(self, items: Sequence[Item], prompt: Prompt) -> Floats:
        """Return the log probability of each label after each question: questions × labels. NoRival if one is longer
        than the model's context."""
        from ft_pipeline.evaluation.scoring.likelihood import target_log_likelihoods
        from ft_pipeline.models.model_structure import context_window

        asked = [_answered(item, label) for item in items for label in self.labels]
        rendered = fitting_items(self.tokenizer, asked, prompt, context_window(self.model.config))
        if len(rendered) < len(asked):
            raise NoRival("a question is longer than the base model's context")
        pairs = token_ids(self.tokenizer, rendered)
        scores = target_log_likelihoods(self.model, pairs, batch_size=self.batch_size)
        return np.array([score.total for score in scores]).reshape(len(items), len(self.labels))


def _answered(item: Item, label: str) -> Item:
    answer: Mapping[str, Any] = {**item.messages[-1], "content": label}
    return replace(item, messages=(*item.messages[:-1], dict(answer)))
