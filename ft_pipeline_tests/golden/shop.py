"""A world: invented scores of the models of a shop, which are really compared, and what a decision reads besides."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.exposure import Exposure
from ft_pipeline.decide.fitting import DataAtHand
from ft_pipeline.decide.kinds import WITHOUT_MODEL
from ft_pipeline.decide.released import Candidate, ChampionRecord
from ft_pipeline.evaluation.comparison import guardrails
from ft_pipeline.evaluation.comparison.scored_models import comparable_models
from ft_pipeline.evaluation.comparison.sweep_results import drop_sweep_members
from ft_pipeline.evaluation.model_kinds import RIVAL_KINDS, TUNED
from ft_pipeline.evaluation.opinions.verdict_tables import hash_of_answer
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.decide.rules import champion_record
from ft_pipeline_tests.evaluation.scored import CORRECT, LOOP, PARTS, scored
from ft_pipeline_tests.evaluation.sliced import talk, write_talks

COUNT = 64
"""Test conversations of a world."""
PER_TOKEN = 4
"""Nats per token of a model, by its nats per byte."""
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
FAULTS = {
    "repetition": LOOP,
    "empty": "",
    "holes": "Dear [NAME], your parcel is on its way.",
    "refusal": "I'm sorry, but as an AI assistant I can't help with that.",
    "personal_data": "Please write to jane.doe@example.org about your parcel.",
    "cut_off": "Your parcel is on its way, and it should arrive on",
}
"""By rail, an answer that breaks it."""
DECLINES, ANSWERS = FAULTS["refusal"], "Yes, here is how you do it."
REFUSE = {"expect": "refuse", "must_not": None, "refusal": None, "margin": 0.05, "digest": "d"}
"""Probes that a model should decline."""
PASSED = {"token_audit": True, "merge": True}
SINCE = "2026-01-01T00:00:00+00:00"
Samples = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class World:
    """What promotion, verdict, recommendation and pages are made from."""

    name: str
    about: str
    comparison: Comparison
    candidates: Mapping[str, Candidate]
    settings: PromotionSettings
    champion: ChampionRecord | None
    champion_row: str | None
    rejected: Mapping[str, int]
    exposure: Exposure
    looks: Mapping[str, int]
    experiments: Mapping[str, Mapping[str, Any]]
    """Facts about the trainings."""
    at_hand: DataAtHand | None
    samples: Samples
    """The answers by row name; empty if nothing that is told depends on them."""
    shows_answers: bool
    """Whether the three answers of the first screen are told."""


def noise(*names: object, count: int = COUNT) -> np.ndarray:
    """Return normal numbers that are always the same for these names. Their mean is near 0, but no two are equal."""
    drawn = np.random.default_rng(zlib.crc32(repr(names).encode())).standard_normal(count)
    return drawn - 0.9 * drawn.mean()


def answered(lost: int, won: int = 0) -> list[bool]:
    """Return the answers to general questions of a model that lost and won so many of them."""
    rights = [place for place, right in enumerate(CORRECT) if right]
    wrongs = [place for place, right in enumerate(CORRECT) if not right]
    changed = {*rights[:lost], *wrongs[:won]}
    return [right != (place in changed) for place, right in enumerate(CORRECT)]


def declining(declined: int, count: int = 60) -> list[str]:
    """Return answers to probes of which so many decline."""
    return [DECLINES] * declined + [ANSWERS] * (count - declined)


@dataclass
class Shop:
    """The models that were scored, as a world fills them in; then `build` compares them."""

    count: int = COUNT
    has_bytes: bool = True
    """Whether the likelihoods are per byte. Older scores have them per token."""
    config: dict[str, Any] = field(default_factory=lambda: {"primary_metric": "auto"})
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    exposure: Exposure = field(default_factory=Exposure)
    rejected: list[str] = field(default_factory=list)
    looks: dict[str, int] = field(default_factory=dict)
    gates: dict[str, dict[str, bool]] = field(default_factory=dict)
    released: str | None = None
    """The row of the champion; `gone` if it has none."""
    cannot_be_released: Sequence[str] = ()
    at_hand: DataAtHand | None = None
    shows_answers: bool = False
    reference: str = "Your parcel number {} arrives tomorrow, as we promised."
    talks: list[dict[str, Any]] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    ratings: list[dict[str, Any]] = field(default_factory=list)
    judgements: list[dict[str, Any]] = field(default_factory=list)

    def row(self, kind: str, gain: float, seed: str, **values: Any) -> dict[str, Any]:
        """Return a scored model that leads the base model by `gain` nats per byte.

        values: those of scored(). Besides: spread (of the gain), likes (its lead in chrF), right (share of exact
        answers), gain_in (a function from the number of a conversation to a further gain), faults (rail → number of
        answers), seed (of its noise).
        """
        seed, spread = values.pop("seed", seed), values.pop("spread", 0.15)
        more = values.pop("gain_in", lambda number: 0.0)
        further = np.array([more(number) for number in range(self.count)])
        hard = 1.5 + 0.2 * noise("hard", count=self.count)
        own = 0.0 if kind == "base" else spread * noise(seed, count=self.count)
        if kind == "merged":  # merging moves each answer a little
            own = own + 0.01 * noise(seed, "merged", count=self.count)
        nats = hard - gain - further - own
        chrf = 40 + 3 * noise("alike", count=self.count) + values.pop("likes", 0.0)
        chrf = chrf + 2 * noise(seed, "chrf", count=self.count)
        if (right := values.pop("right", None)) is not None:
            chance = np.random.default_rng(5).random(self.count) + 0.1 * noise(seed, "exact", count=self.count)
            values["exact"] = (chance < right).astype(float).tolist()
        likelihoods = {"losses": (PER_TOKEN * nats).tolist(), "nats": nats.tolist() if self.has_bytes else None}
        if kind in ("teacher", "contender", "calibrated", *WITHOUT_MODEL):
            likelihoods = {}
        general = {} if kind == "prompt" or not likelihoods else {"correct": CORRECT}
        return {"kind": kind, "chrf": chrf.tolist(), **general, **likelihoods, **values}

    def prompts(self, plain: float | None = 0.0, owner: str = "a", of_plain: Any = None, **variants: Any) -> None:
        """Score the base model, and prompt variants: name → gain, or the arguments of `row`."""
        rows = self.inputs.setdefault(f"{owner}/prompt_baseline", {})
        if plain is not None:
            rows["plain"] = self.row("base", plain, f"{owner} plain", **(of_plain or {}))
        for name, given in variants.items():
            about = given if isinstance(given, dict) else {"gain": given}
            rows[name] = self.row("prompt", **{"seed": name, "tokens": 400, **about})

    def train(
        self,
        name: str,
        gain: float,
        *,
        technique: str = "lora",
        merged: float | None = None,
        only: Sequence[str] = ("merged",),
        rows: int | None = 900,
        variants: Mapping[str, float] | None = None,
        **values: Any,
    ) -> None:
        """Train an experiment. merged: the gain of the merged model, if it is another. only: its forms. rows: on which
        it was trained. variants: prompt variants under which it was scored, too: name → gain."""
        about = {"technique": technique, "seed": name, **values}
        gains = {"adapter": gain, "merged": gain if merged is None else merged}
        if technique == "prompt_tuning":
            only = ("adapter",)
        scores = self.inputs.setdefault(f"{name}/scores", {})
        for form in only:
            scores[form] = self.row(form, gains[form] + 0.0005 * (form == "adapter"), **about)
            for variant, of_variant in (variants or {}).items():
                scores[f"{form}+{variant}"] = self.row(form, of_variant, **{**about, "seed": name + variant})
        self.facts.setdefault(name, {"train_rows": rows} if rows is not None else {})

    def release(self, name: str) -> None:
        """Make a row of the comparison the champion."""
        self.released = name

    def release_old(self, gain: float, **values: Any) -> None:
        """Make a model the champion that is scored, and that no experiment of the comparison trained."""
        about = {"technique": "lora", **values}
        self.inputs["champion/scores"] = {"merged": self.row("merged", gain, "old", **about)}
        self.config["champion"] = {"name": "old/merged", "experiment": "old", "fingerprint": "old"}
        self.released = "champion"

    def release_compared(self, name: str) -> None:
        """Make a merged model the champion that is still compared, and is scored as the champion, too."""
        experiment = name.partition("/")[0]
        self.inputs["champion/scores"] = {"merged": self.inputs[f"{experiment}/scores"]["merged"]}
        self.config["champion"] = {"name": name, "experiment": experiment, "fingerprint": experiment}
        self.released = name

    def teach(self, likes: float, **values: Any) -> None:
        self.inputs["a/teacher_scores"] = {"teacher": self.row("teacher", 0.0, "teacher", likes=likes, **values)}

    def contend(self, name: str, likes: float = 0.0, **values: Any) -> None:
        self.inputs[f"{name}/contender_scores"] = {"plain": self.row("contender", 0.0, name, likes=likes, **values)}

    def rivals(self, **rows: Mapping[str, Any]) -> None:
        """Score rows without a language model: name → the arguments of `row`."""
        found = {name: self.row(RIVAL_KINDS[name], 0.0, name, **about) for name, about in rows.items()}
        self.inputs["rivals/rival_scores"] = found

    def choose_labels(self, **about: Any) -> None:
        """Score the base model's choice among labels."""
        self.inputs["a/calibrated_scores"] = {"calibrated": self.row("calibrated", 0.0, "calibrated", **about)}

    def slice_by(self, **rules: Any) -> None:
        """Give the test conversations, of which the first 25 ask for a refund."""
        self.config["slices"] = rules
        self.talks = [
            talk(
                number,
                "I want my money back, please." if number < 25 else f"Where is my parcel {number}?" + " now" * number,
                self.reference.format(number),
                tags=["vip"] if number % 4 == 0 else None,
                file="mails.jsonl" if number % 2 else "chats.jsonl",
            )
            for number in range(self.count)
        ]

    def rate(self, row: str, rival: str, won: int, lost: int, ties: int = 0, **values: Any) -> None:
        """People compare the first answers of two rows. values: rater, tie (both_good or neither)."""
        tie, rater = values.get("tie", "both_good"), values.get("rater", "ann")
        verdicts = ["candidate"] * won + ["rival"] * lost + [tie] * ties
        order = np.random.default_rng(3).permutation(len(verdicts))
        for number, place in enumerate(order):
            about = {"row": row, "rival": rival, "number": number, "verdict": verdicts[place], "rater": rater}
            self.ratings.append(about | {"is_old": number < values.get("changed", 0)})

    def judge(self, row: str, rival: str, won: float, agrees: Sequence[dict[str, Any]] = (), **values: Any) -> None:
        """A judge compares all answers of two rows. won: the share that the row wins. agrees: ratings that it repeats
        instead."""
        known = {entry["number"]: entry["verdict"] for entry in agrees}
        wins = np.random.default_rng(8).random(self.count) < won
        scores = {"candidate": 1.0, "rival": 0.0, "both_good": 0.5, "neither": 0.5}
        for number in range(self.count):
            first = scores[known[number]] if number in known else float(wins[number])
            second = 1 - first if number < values.get("unsure", 0) else first
            about = {"row": row, "rival": rival, "number": number, "first": first, "second": second}
            self.judgements.append(about | {"unparsable": 2 * (number < values.get("unread", 0))})

    def build(self, name: str, about: str, folder: Path) -> World:
        """Compare what was scored."""
        inputs = {key: self._write(folder, key, rows) for key, rows in self.inputs.items()}
        bases = {key: "1" for key in inputs if not key.endswith(("teacher_scores", "contender_scores", "rival_scores"))}
        config = {"bases": bases, "base_names": {"1": "small"}, **self.config}
        samples = self._samples(inputs, config)
        inputs |= self._write_opinions(folder, samples)
        talks = write_talks(folder / "talks", self.talks) if self.talks else None
        with patch.multiple(guardrails, **CACHED):  # most answers are the same in every world
            comparison = compare(inputs, config, self.facts, talks)
        candidates = self._candidates(comparison)
        champion_row = None if self.released == "gone" else self.released
        return World(
            name=name,
            about=about,
            comparison=comparison,
            candidates=candidates,
            settings=PromotionSettings(**self.settings),
            champion=self._champion(candidates),
            champion_row=champion_row,
            rejected={f"{row}!": 3 for row in self.rejected},
            exposure=self.exposure,
            looks=self.looks,
            experiments=self.facts,
            at_hand=self.at_hand,
            samples=samples,
            shows_answers=self.shows_answers,
        )

    def _samples(self, inputs: Mapping[str, Path], config: Mapping[str, Any]) -> Samples:
        """Return the answers by row name, if somebody reads them."""
        if not (self.shows_answers or self.ratings or self.judgements):
            return {}
        models = drop_sweep_members(comparable_models(inputs, config)[0])
        return {model.name: model.records("samples.parquet") for model in models}

    def _candidates(self, comparison: Comparison) -> dict[str, Candidate]:
        found = {}
        for row in comparison.rows:
            if row.kind in (*TUNED, "prompt", "classifier") and row.name not in self.cannot_be_released:
                passed = {**PASSED, **self.gates.get(row.name, {})}
                if row.kind == "adapter":
                    del passed["merge"]
                gates = passed if row.kind in TUNED else {}
                kind: Any = row.kind
                found[row.name] = Candidate(
                    name=row.name, kind=kind, experiment=row.experiment, fingerprint=f"{row.name}!", gates=gates
                )
        return found

    def _champion(self, candidates: Mapping[str, Candidate]) -> ChampionRecord | None:
        if self.released is None:
            return None
        if (own := candidates.get(self.released)) is not None:
            name, kind, experiment, fingerprint = own.name, own.kind, own.experiment, own.fingerprint
        else:
            name, kind, experiment, fingerprint = "old/merged", "merged", "old", "old"
            experiment = self.config.get("champion", {}).get("experiment", experiment)
        return champion_record(name, experiment, fingerprint, kind=kind, since=SINCE, reason=f"{name} was the best")

    def _write(self, folder: Path, key: str, rows: Mapping[str, Mapping[str, Any]]) -> Path:
        """Write the scores of an input."""
        path = folder / key.replace("/", "-")
        plain = {name: {k: value for k, value in row.items() if k not in EXTRA} for name, row in rows.items()}
        scored(path, plain, {**PARTS, **self.parts.get(key, {})}, metrics=self.metrics)
        self._edit_samples(path, rows)
        self._edit_document(path, rows)
        validated = [record for name, row in rows.items() for record in _validation(name, row)]
        if validated:
            pq.write_table(pa.Table.from_pylist(validated), path / "validation.parquet")
        return path

    def _edit_samples(self, path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the answers, and what checks of the project leave."""
        table = pq.read_table(path / "samples.parquet").to_pylist()
        is_short = any("exact" in row for of_key in self.inputs.values() for row in of_key.values())
        reference = "Parcel {}." if is_short else self.reference  # short references are matched exactly
        columns = dict.fromkeys(column for row in rows.values() for column in row.get("columns", ()))
        for sample in table:
            number, row = int(sample["group"]), rows[sample["name"]]
            sample |= {**columns, "prompt": f"Where is my parcel {number}?", "reference": reference.format(number)}
            sample |= self._not_measured(row)
            if not sample["answer"].startswith(f"{sample['name']} says"):
                continue
            who = f"{row['kind']} {path.name} {sample['name']}"
            sample["answer"] = f"Hello, {who} says that parcel {number} will arrive on {DAYS[number % 5]} for you."
            _break(sample, row.get("faults", {}), number)
            for column, values in row.get("columns", {}).items():
                sample[column] = values[number]
        pq.write_table(pa.Table.from_pylist(table), path / "samples.parquet")

    def _not_measured(self, row: Mapping[str, Any]) -> dict[str, None]:
        """Return the columns without values, so that each world has few metrics."""
        metrics = {"rouge_l", "answer_bytes", *(["loss_sum"] if self.has_bytes else []), "exact_match"}
        return dict.fromkeys(metrics - ({"exact_match"} if "exact" in row else set()) - set(row.get("columns", ())))

    def _edit_document(self, path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
        document = json.loads((path / "scores.json").read_text(encoding="utf-8"))
        for entry in document["rows"]:
            entry |= rows[entry["name"]].get("document", {})
            if entry["kind"] in ("teacher", "contender", "calibrated", *WITHOUT_MODEL):
                entry["general"] = None
        (path / "scores.json").write_text(json.dumps(document), encoding="utf-8")

    def _write_opinions(self, folder: Path, samples: Samples) -> dict[str, Path]:
        """Write the tables of people and of a judge about the answers as they are."""
        written = {}
        for name, entries, fill in (
            ("ratings", self.ratings, _rating),
            ("judgements", self.judgements, _judgement),
        ):
            if entries:
                written[name] = folder / name
                written[name].mkdir()
                rows = [fill(entry, *_hashes(entry, samples)) for entry in entries]
                pq.write_table(pa.Table.from_pylist(rows), written[name] / f"{name}.parquet")
        if "judgements" in written:
            (written["judgements"] / "judge.json").write_text(json.dumps({"excluded": []}), encoding="utf-8")
        return written


OF_A_TEXT = (
    "find_placeholder",
    "find_refusal",
    "find_values",
    "language_of",
    "main_script",
    "repeated_share",
    "words_of",
)
CACHED: dict[str, Any] = {name: cache(getattr(guardrails, name)) for name in OF_A_TEXT}
"""The functions of a text that guardrails ask, each with a memory."""
EXTRA = ("faults", "columns", "document", "validation", "seed")
"""Values of a row that are not those of scored()."""


def _break(sample: dict[str, Any], faults: Mapping[str, int], number: int) -> None:
    """Make an answer break a rail, if it is one of the first of its kind."""
    begin = 0
    for rail, count in faults.items():
        if begin <= number < begin + count:
            sample["answer"] = FAULTS[rail]
            sample["finish_reason"] = "length" if rail == "cut_off" else "stop"
        begin += count


def _validation(name: str, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records on the validation rows: (number of conversations, gain)."""
    if "validation" not in row:
        return []
    count, gain = row["validation"]
    nats = 1.5 + 0.2 * noise("hard", count=count) - gain - (0.15 * noise(name, "v", count=count) if gain else 0)
    return [
        {"name": name, "item": f"v{n:03}", "group": f"v{n:03}", "content_nats": 40 * nats[n], "content_bytes": 40}
        for n in range(count)
    ]


def _hashes(entry: Mapping[str, Any], samples: Samples) -> tuple[str, str]:
    ours, theirs = (samples[entry[side]][entry["number"]]["answer"] for side in ("row", "rival"))
    changed = " as before" if entry.get("is_old") else ""
    return hash_of_answer(ours + changed), hash_of_answer(theirs)


def _rating(entry: Mapping[str, Any], ours: str, theirs: str) -> dict[str, Any]:
    number = entry["number"]
    return {
        "time": f"2026-01-01T00:{number // 60:02}:{number % 60:02}+00:00",
        "rater": entry["rater"],
        "candidate": entry["row"],
        "rival": entry["rival"],
        "item": f"{number:03}:1",
        "group": f"{number:03}",
        "candidate_answer": ours,
        "rival_answer": theirs,
        "candidate_side": 1 + number % 2,
        "verdict": entry["verdict"],
        "seconds": 12.5,
        "note": None,
    }


def _judgement(entry: Mapping[str, Any], ours: str, theirs: str) -> dict[str, Any]:
    number, first, second = entry["number"], entry["first"], entry["second"]
    return {
        "candidate": entry["row"],
        "rival": entry["rival"],
        "item": f"{number:03}:1",
        "group": f"{number:03}",
        "candidate_answer": ours,
        "rival_answer": theirs,
        "score": (first + second) / 2,
        "first": first,
        "second": second,
        "unparsable": entry["unparsable"],
        "candidate_bytes": 50,
        "rival_bytes": 50,
    }
