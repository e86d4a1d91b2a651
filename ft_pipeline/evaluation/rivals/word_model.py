"""The rival `word_model`: it chooses among the few answers that the training rows have, or among the few values of each
field of JSON answers.

It is stored as arrays (safetensors) and vocabularies (JSON). Loading one runs no code of the file.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ft_pipeline.evaluation.items import read_rows
from ft_pipeline.evaluation.model_kinds import WORD_MODEL
from ft_pipeline.evaluation.rivals.answered_questions import (
    NO_ROWS,
    AnsweredQuestion,
    NoRival,
    answered_questions,
    has_few_values,
    why_not_few,
)
from ft_pipeline.evaluation.rivals.label_model import MAX_ROWS, Labelled, LabelModel
from ft_pipeline.evaluation.rivals.questions import Answered, Questions, timed
from ft_pipeline.job import Job

NAME = WORD_MODEL
ARRAYS, TEXTS = "word_model.safetensors", "word_model.json"
WHOLE = "answer"
"""The name of the only model, where answers are labels."""
ABSENT = ""
"""The label of a field that an answer does not have."""
STYLES: Mapping[str, Mapping[str, Any]] = {
    "spaced": {},
    "compact": {"separators": (",", ":")},
    "indented": {"indent": 2},
}
"""How JSON answers are written, by name: arguments of json.dumps."""


def answers(questions: Questions) -> Iterator[Answered]:
    """Yield the answers of the model in the input `word_model` to the test questions."""
    model = WordModel.read(questions.job.inputs[NAME])

    def answer(asked: Sequence[str]) -> list[AnsweredQuestion]:
        return [AnsweredQuestion("", found.text, found.text) for found in model.answers(asked)]

    yield timed(NAME, questions, answer, {})


def run(job: Job) -> dict[str, Any]:
    """The worker of the model: learn from the training rows. Write the model, or why there is none.

    config: seed. inputs: conversations. Returns the summary: `left_out`, the reason or None, and `labels`, the number
    of labels by field.
    """
    rows = read_rows(job.inputs["conversations"])
    training, validation = (answered_questions(rows, split) for split in ("train", "validation"))
    try:
        model = WordModel.fit(training, validation, job.config["seed"])
    except NoRival as reason:
        job.report.log(f"{NAME} is left out: {reason}")
        (job.out / TEXTS).write_text(json.dumps({"left_out": str(reason)}), encoding="utf-8")
        return {"left_out": str(reason), "labels": {}}
    model.write(job.out)
    return {"left_out": None, "labels": {name: len(each.labels) for name, each in model.models.items()}}


@dataclass(frozen=True)
class WordAnswer:
    """An answer, and how sure the model is of it."""

    text: str
    probability: float
    """Of JSON answers, that of the least certain field."""
    probabilities: Mapping[str, Mapping[str, float]]
    """By field, or by `answer`: each label with its probability, the likeliest first."""


@dataclass(frozen=True)
class WordModel:
    """The models of an answer, or of its fields."""

    models: Mapping[str, LabelModel]
    fields: Sequence[str] | None = None
    """The keys of JSON answers, in their order. None: answers are labels."""
    fixed: Mapping[str, str] | None = None
    """The value of each field without a model, as JSON."""
    style: str = "spaced"

    @classmethod
    def fit(
        cls, training: Sequence[AnsweredQuestion], validation: Sequence[AnsweredQuestion], seed: int = 0
    ) -> "WordModel":
        """Return the model. Raises NoRival, with the reason."""
        training = training[:MAX_ROWS]
        if not training:
            raise NoRival(NO_ROWS)
        if any(known.calls for known in training):
            raise NoRival("some answers call tools")
        if all(_object_of(known.reference) is not None for known in training):
            return cls._fit_fields(training, validation, seed)
        if reason := why_not_few([known.reference for known in training]):
            raise NoRival(reason)
        learned, checked = (
            Labelled([each.question for each in rows], [each.reference for each in rows])
            for rows in (training, validation)
        )
        return cls({WHOLE: LabelModel.fit(learned, checked, seed)})

    @classmethod
    def _fit_fields(
        cls, training: Sequence[AnsweredQuestion], validation: Sequence[AnsweredQuestion], seed: int
    ) -> "WordModel":
        objects = [_object_of(known.reference) or {} for known in training]
        checked = [(each.question, found) for each in validation if (found := _object_of(each.reference)) is not None]
        fields = list(dict.fromkeys(key for each in objects for key in each))
        labels = {field: [_label(each, field) for each in objects] for field in fields}
        chosen = [field for field in fields if has_few_values(labels[field]) and len(set(labels[field])) > 1]
        if not chosen:
            raise NoRival("no field of the JSON answers has a few values")
        models = {
            field: LabelModel.fit(
                Labelled([known.question for known in training], labels[field]),
                Labelled([question for question, _ in checked], [_label(found, field) for _, found in checked]),
                seed,
            )
            for field in chosen
        }
        fixed = {field: Counter(labels[field]).most_common(1)[0][0] for field in fields if field not in models}
        return cls(models, fields, fixed, _style_of(training[0].reference))

    def answers(self, questions: Sequence[str]) -> list[WordAnswer]:
        """Return the answer to each question."""
        chances = {name: model.probabilities(questions) for name, model in self.models.items()}
        return [
            self._answer({name: rows[number] for name, rows in chances.items()}) for number in range(len(questions))
        ]

    def _answer(self, chances: Mapping[str, Any]) -> WordAnswer:
        """Return the answer to one question. chances: by model, the probability of each label."""
        chosen, probabilities = {}, {}
        for name, row in chances.items():
            labels, order = self.models[name].labels, np.argsort(-row, kind="stable")
            chosen[name] = labels[order[0]]
            probabilities[name] = {labels[number]: float(row[number]) for number in order}
        surest = min(float(row.max()) for row in chances.values())
        if self.fields is None:
            return WordAnswer(chosen[WHOLE], surest, probabilities)
        values = {field: {**(self.fixed or {}), **chosen}[field] for field in self.fields}
        document = {field: json.loads(value) for field, value in values.items() if value != ABSENT}
        return WordAnswer(json.dumps(document, ensure_ascii=False, **STYLES[self.style]), surest, probabilities)

    def write(self, folder: Path) -> None:
        """Write the model to two files in a folder."""
        from safetensors.numpy import save_file

        arrays: dict[str, Any] = {}
        texts: dict[str, Any] = {}
        for number, (name, model) in enumerate(self.models.items()):
            arrays |= {f"{number}.{key}": np.ascontiguousarray(array) for key, array in model.arrays().items()}
            texts[name] = model.texts()
        save_file(arrays, folder / ARRAYS)
        document = {"fields": self.fields, "fixed": self.fixed, "style": self.style, "models": texts}
        (folder / TEXTS).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "WordModel":
        """Return the model that was written to a folder."""
        from safetensors.numpy import load_file

        document = json.loads((folder / TEXTS).read_text(encoding="utf-8"))
        arrays, models = load_file(folder / ARRAYS), {}
        for number, (name, texts) in enumerate(document.pop("models").items()):
            own = {key.partition(".")[2]: array for key, array in arrays.items() if key.startswith(f"{number}.")}
            models[name] = LabelModel.from_stored(own, texts)
        return cls(models, **document)


def _object_of(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text is; None if it is something else."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _label(document: Mapping[str, Any], field: str) -> str:
    """Return the value of a field as a label."""
    return json.dumps(document[field], ensure_ascii=False, sort_keys=True) if field in document else ABSENT


def _style_of(text: str) -> str:
    """Return the name of the style in which a JSON text is written."""
    document = json.loads(text)
    return next(
        (name for name, how in STYLES.items() if json.dumps(document, ensure_ascii=False, **how) == text), "spaced"
    )
