"""Score a prompt on the validation rows, by what will decide on the test rows; answer train rows for a reflector."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from ft_pipeline.evaluation.comparison.deciding_metric import deciding_metric
from ft_pipeline.evaluation.comparison.estimates import estimate_samples
from ft_pipeline.evaluation.items import Item, make_items, select_rows
from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics
from ft_pipeline.evaluation.metrics.definitions import METRICS, Metric
from ft_pipeline.evaluation.prompt_search.instructions import Answered
from ft_pipeline.evaluation.prompt_search.questions import Questions
from ft_pipeline.evaluation.prompt_search.search import MOST_ROWS
from ft_pipeline.evaluation.prompt_search.space import Variant
from ft_pipeline.evaluation.prompt_search.tries import Measured
from ft_pipeline.evaluation.scoring.answer_limit import answer_limit
from ft_pipeline.evaluation.scoring.lm_eval_model import LoadedLM
from ft_pipeline.evaluation.scoring.prompts import Prompt, RenderedItem, render_items, token_ids
from ft_pipeline.evaluation.scoring.records import Answer, Likelihood, Record, sample_record
from ft_pipeline.evaluation.scoring.reference_tokens import byte_count, count_lost, find_reference
from ft_pipeline.evaluation.scoring.retrieval import ExamplePool
from ft_pipeline.evaluation.scoring.scorer import answer_of, window_of
from ft_pipeline.evaluation.tuned_variants import with_own_prompt
from ft_pipeline.job import Job
from ft_pipeline.models.chat import stop_strings
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.tables.formats.turns import spoken_text

LIKELIHOODS = ("nats_per_byte", "loss")
"""Metrics for which no answer is written."""
TIE_BREAK = 1e-3
"""Of a nat per byte, beside a metric of 0 to 1: it decides between answers that are equally right."""


class PromptScorer:
    """Scores prompts of one model on questions that are not test rows. A tuned model keeps the prompt of its training
    where a variant has none."""

    def __init__(self, job: Job, rows: Sequence[dict[str, Any]], questions: Questions) -> None:
        """rows: those of `conversations`. questions: at least one."""
        self.job = job
        self.rows = rows
        self.questions = questions
        self.settings = job.config["evaluation"]
        self.tokenizer = load_tokenizer(job.inputs["base_model"])
        self.items = questions.items
        self.answer_metrics = AnswerMetrics.of(job.config, self.items)
        references = [item.written for item in self.items]
        self._scores: tuple[Variant, Sequence[float]] | None = None
        """The prompt that was measured last, with the score of each validation row."""
        self.limit = answer_limit(self.settings["max_new_tokens"], self.tokenizer, references)

    @cached_property
    def lm(self) -> LoadedLM:
        """The base model. It is loaded with the first prompt."""
        model = load_model(self.job.inputs["base_model"], self.job.device)
        speed_up_products(model, trains=False)
        return LoadedLM(model, self.tokenizer, self.settings["batch_size"], lambda done: None)

    @cached_property
    def _of_references(self) -> list[Record]:
        """Records of a model that gives each reference answer."""
        content = None if self._loses_references else 0.0
        return self.answer_metrics.complete(
            [
                sample_record(
                    item,
                    "",
                    1,
                    Likelihood(0.0, content, 0.0),
                    Answer(item.reference, "stop", 0, 1, item.calls),
                    self.answer_metrics,
                )
                for item in self.items
            ]
        )

    @cached_property
    def metric(self) -> str:
        """The name of the metric that decides. Settings and references choose it, and no answer of a model does."""
        estimates = estimate_samples({"references": self._of_references}, self.answer_metrics.own)
        named, decides = self.job.config["metric"], {"decides": self.answer_metrics.decides}
        found = deciding_metric(named, decides, estimates, [item.reference for item in self.items]).metric
        return found if found in estimates["references"] else LIKELIHOODS[self._loses_references]

    @property
    def definition(self) -> Metric:
        """What the metric is."""
        return (METRICS | self.answer_metrics.own)[self.metric]

    @cached_property
    def _pool(self) -> ExamplePool:
        """The train rows, of which examples are retrieved: one index for all prompts."""
        return ExamplePool(self.questions.rows, 1, self.settings["seed"])

    @cached_property
    def _loses_references(self) -> bool:
        return count_lost(self.tokenizer, [item.reference for item in self.items]) > 0

    def measure(self, variant: Variant) -> Measured:
        """Score a prompt. Questions that leave no room for all examples get fewer of them."""
        asked = self._ask(variant, self.rows, self.items)
        nats = sum(value for value, _ in asked.nats) / max(1, sum(units for _, units in asked.nats))
        score = nats if self.metric in LIKELIHOODS else self.answer_metrics.means(asked.samples)[self.metric]
        self._scores = (variant, self._item_scores(asked))
        return Measured(self.definition.rank_key(score), score, nats, asked.prompt_tokens)

    def scores(self, variant: Variant) -> Sequence[float]:
        """Return the score of each validation row under a prompt. Higher is better, whatever the metric.

        Where answers decide, a likelier reference answer decides between equal ones.
        """
        if self._scores is None or self._scores[0] != variant:
            self.measure(variant)
        assert self._scores is not None
        return self._scores[1]

    @cached_property
    def train_items(self) -> list[Item]:
        """Questions of train rows whose answers a reflector may read. They are never examples for each other."""
        asked = {item.group for item in self.items}
        rows = [row for row in select_rows(self.questions.rows, "train", None) if row["id"] not in asked]
        return make_items(rows[: min(MOST_ROWS, len(rows) // 2)])

    @cached_property
    def _rows_of_examples(self) -> list[dict[str, Any]]:
        """The rows without those of `train_items`."""
        shown = {item.group for item in self.train_items}
        return [row for row in self.questions.rows if row["id"] not in shown]

    def answer(self, variant: Variant, numbers: Sequence[int]) -> list[Answered]:
        """Return what the model answers to some of `train_items`, given by their numbers, and how good that is."""
        items = [self.train_items[number] for number in numbers]
        asked = self._ask(variant, self._rows_of_examples, items, writes=True)
        return [
            Answered(spoken_question(item), sample["answer"], item.reference, score, self._is_right(sample))
            for item, sample, score in zip(items, asked.samples, self._item_scores(asked), strict=True)
        ]

    def _is_right(self, sample: Record) -> bool:
        if self.metric in LIKELIHOODS:
            return False
        perfect = self.answer_metrics.means(self._of_references)[self.metric]
        return self.definition.rank_key(sample[self.metric]) <= self.definition.rank_key(perfect)

    def _item_scores(self, asked: "_Asked") -> list[float]:
        nats = [value / max(1, units) for value, units in asked.nats]
        if self.metric in LIKELIHOODS:
            return [-value for value in nats]
        ranks = [self.definition.rank_key(sample[self.metric]) for sample in asked.samples]
        return [-rank - TIE_BREAK * value for rank, value in zip(ranks, nats, strict=True)]

    def _ask(
        self, variant: Variant, rows: Sequence[dict[str, Any]], items: Sequence[Item], *, writes: bool = False
    ) -> "_Asked":
        """Ask questions under a prompt. rows: of which examples are taken. writes: whether answers are written in any
        case; otherwise only if they decide."""
        pool = self._pool if variant["examples"] == "retrieved" and rows is self.rows else None
        own = self.job.config.get("own", {})
        prompted = with_own_prompt(variant, own.get("system_prompt"))
        prompt = Prompt.from_variant(prompted, rows, self.settings["seed"], pool=pool)
        prompt = replace(prompt, drops_reasoning=own.get("reasoning") == "drop")
        rendered = render_items(
            self.tokenizer,
            items,
            prompt,
            name="prompting.search",
            window=window_of(self.lm.model),
            max_new_tokens=self.limit,
        )
        pairs = token_ids(self.tokenizer, rendered)
        samples = self._answers(rendered) if writes or self.metric not in LIKELIHOODS else []
        return _Asked(self._nats(rendered, pairs), samples, fmean(len(context) for context, _ in pairs))

    def _nats(
        self, rendered: Sequence[RenderedItem], pairs: Sequence[tuple[list[int], list[int]]]
    ) -> list[tuple[float, int]]:
        """Return the nats of each reference answer, and its bytes; its tokens if the tokenizer loses some of them."""
        scores = self.lm.score_targets(pairs)
        if self._loses_references:
            return [(-score.total, len(score.log_probs)) for score in scores]
        return [
            (
                find_reference(self.tokenizer, text.target, text.item.reference).nats(score.log_probs)[0],
                byte_count(text.item.reference),
            )
            for text, score in zip(rendered, scores, strict=True)
        ]

    def _answers(self, rendered: Sequence[RenderedItem]) -> list[Record]:
        """Return the answers that the model writes, with their metrics."""
        from lm_eval.models.utils import postprocess_generated_text

        stop = stop_strings(self.tokenizer)
        samples: list[Record] = []
        answers = self.lm.answer_prompts([text.context for text in rendered], self.limit)
        for text, found in zip(rendered, answers, strict=True):
            cut = postprocess_generated_text(found.text, list(stop), None)
            answer = answer_of(self.tokenizer, text.item, cut, found)
            samples.append(sample_record(text.item, text.context, 1, Likelihood(), answer, self.answer_metrics))
        return self.answer_metrics.complete(samples)


@dataclass(frozen=True)
class _Asked:
    """What a model said to some questions under a prompt."""

    nats: Sequence[tuple[float, int]]
    """Of each reference answer, with its number of bytes, or of tokens if the tokenizer loses some."""
    samples: Sequence[Record]
    """Empty if no answer was written."""
    prompt_tokens: float
    """Mean over the questions."""


def spoken_question(item: Item) -> str:
    """Return the last turn that a model answers."""
    return spoken_text(item.messages[-2]) if len(item.messages) > 1 else ""
