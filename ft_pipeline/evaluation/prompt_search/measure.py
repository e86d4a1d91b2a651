"""Score a prompt on the validation rows, by what will decide on the test rows."""

from collections.abc import Sequence
from functools import cached_property
from statistics import fmean
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.deciding_metric import deciding_metric
from ft_pipeline.evaluation.comparison.estimates import estimate_samples
from ft_pipeline.evaluation.items import make_items, select_rows
from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics
from ft_pipeline.evaluation.metrics.definitions import METRICS, Metric
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
from ft_pipeline.job import Job
from ft_pipeline.models.chat import stop_strings
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.load import load_model, load_tokenizer

LIKELIHOODS = ("nats_per_byte", "loss")
"""Metrics for which no answer is written."""


class PromptScorer:
    """Scores prompts of one base model on the validation rows."""

    def __init__(self, job: Job, rows: Sequence[dict[str, Any]]) -> None:
        """rows: those of `conversations`. Raises UserError if the validation split is empty."""
        self.job = job
        self.rows = rows
        self.settings = job.config["evaluation"]
        self.tokenizer = load_tokenizer(job.inputs["base_model"])
        self.items = make_items(select_rows(rows, "validation", MOST_ROWS))
        if not self.items:
            raise UserError(
                "There are no validation rows, on which prompts are compared. Raise data.validation_share, or remove "
                "prompting.search."
            )
        self.answer_metrics = AnswerMetrics.of(job.config, self.items)
        references = [item.written for item in self.items]
        self.limit = answer_limit(self.settings["max_new_tokens"], self.tokenizer, references)

    @cached_property
    def lm(self) -> LoadedLM:
        """The base model. It is loaded with the first prompt."""
        model = load_model(self.job.inputs["base_model"], self.job.device)
        speed_up_products(model, trains=False)
        return LoadedLM(model, self.tokenizer, self.settings["batch_size"], lambda done: None)

    @cached_property
    def metric(self) -> str:
        """The name of the metric that decides. Settings and references choose it, and no answer of a model does."""
        content = None if self._loses_references else 0.0
        perfect = self.answer_metrics.complete(
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
        estimates = estimate_samples({"references": perfect}, self.answer_metrics.own)
        named, decides = self.job.config["metric"], {"decides": self.answer_metrics.decides}
        found = deciding_metric(named, decides, estimates, [item.reference for item in self.items]).metric
        return found if found in estimates["references"] else LIKELIHOODS[content is None]

    @property
    def definition(self) -> Metric:
        """What the metric is."""
        return (METRICS | self.answer_metrics.own)[self.metric]

    @cached_property
    def _pool(self) -> ExamplePool:
        """The train rows, of which examples are retrieved: one index for all prompts."""
        return ExamplePool(self.rows, 1, self.settings["seed"])

    @cached_property
    def _loses_references(self) -> bool:
        return count_lost(self.tokenizer, [item.reference for item in self.items]) > 0

    def measure(self, variant: Variant) -> Measured:
        """Score a prompt. Questions that leave no room for all examples get fewer of them."""
        pool = self._pool if variant["examples"] == "retrieved" else None
        prompt = Prompt.from_variant(variant, self.rows, self.settings["seed"], pool=pool)
        rendered = render_items(
            self.tokenizer,
            self.items,
            prompt,
            name="prompting.search",
            window=window_of(self.lm.model),
            max_new_tokens=self.limit,
        )
        pairs = token_ids(self.tokenizer, rendered)
        nats = self._nats(rendered, pairs)
        score = nats if self.metric in LIKELIHOODS else self._score_answers(rendered)
        tokens = fmean(len(context) for context, _ in pairs)
        return Measured(self.definition.rank_key(score), score, nats, tokens)

    def _nats(self, rendered: Sequence[RenderedItem], pairs: Sequence[tuple[list[int], list[int]]]) -> float:
        """Return the nats of the reference answers per byte; per token if the tokenizer loses some of them."""
        scores = self.lm.score_targets(pairs)
        if self._loses_references:
            return -sum(score.total for score in scores) / sum(len(score.log_probs) for score in scores)
        nats = sum(
            find_reference(self.tokenizer, text.target, text.item.reference).nats(score.log_probs)[0]
            for text, score in zip(rendered, scores, strict=True)
        )
        return nats / max(1, sum(byte_count(text.item.reference) for text in rendered))

    def _score_answers(self, rendered: Sequence[RenderedItem]) -> float:
        """Return the deciding metric of the answers that the model writes."""
        from lm_eval.models.utils import postprocess_generated_text

        stop = stop_strings(self.tokenizer)
        samples: list[Record] = []
        answers = self.lm.answer_prompts([text.context for text in rendered], self.limit)
        for text, found in zip(rendered, answers, strict=True):
            cut = postprocess_generated_text(found.text, list(stop), None)
            answer = answer_of(self.tokenizer, text.item, cut, found)
            samples.append(sample_record(text.item, text.context, 1, Likelihood(), answer, self.answer_metrics))
        return self.answer_metrics.means(self.answer_metrics.complete(samples))[self.metric]
