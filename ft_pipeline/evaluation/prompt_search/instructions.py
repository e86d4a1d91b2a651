"""Instructions that a reflector writes after it read answers to train rows. GEPA chooses which one is changed next.

GEPA ("reflective prompt evolution", arXiv:2507.19457) keeps the instructions that are best on some validation row,
shows a few train rows with the answers under one of these, and takes the reply if it is better on the same train rows.
This module knows neither a model nor a server, so that its errors can be measured in simulated worlds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.prompt_search.refusals import MOST_LETTERS, HeldOutTexts, why_no_instruction
from ft_pipeline.evaluation.prompt_search.space import Variant

SHOWN_ROWS = 6
"""Answers to train rows that a reflector reads at once."""
ROUNDS_PER_REPLY = 2
"""Rounds of GEPA for each reply that is asked for: in some, all answers are right, and nothing is asked."""
_INSTRUCTION = "instruction"
"""GEPA's name of the text that changes."""
VALIDATION, TRAIN = "validation", "train"


@dataclass(frozen=True)
class Answered:
    """A question with the answer under a prompt."""

    question: str
    answer: str
    reference: str
    score: float
    """Higher is better, whatever the metric."""
    is_right: bool
    """Whether nothing can be learned from it."""


@dataclass(frozen=True)
class Proposal:
    """A reply of a reflector, and what became of it."""

    text: str
    """At most MOST_LETTERS of it."""
    fate: str
    """TRIED on the validation rows; NO_BETTER on the train rows that it was written for; else why it was refused."""


TRIED, NO_BETTER = "tried", "no better"


@dataclass(frozen=True)
class World:
    """What the search of instructions needs of models and rows."""

    train_rows: int
    """Number of train rows whose answers may be shown."""
    validation_rows: int
    answer: Callable[[Variant, Sequence[int]], Sequence[Answered]]
    """Answers train rows, given by their numbers, under a prompt."""
    validation_scores: Callable[[Variant], Sequence[float]]
    """Scores a prompt on the validation rows, and counts it as a try. Higher is better."""
    reflect: Callable[[str, Sequence[Answered]], str | None]
    """Returns an instruction, given the present one and answers under it; None if nothing further is to be asked."""
    held_out: HeldOutTexts
    has_tries_left: Callable[[], bool]


def write_instructions(start: Variant, world: World, *, replies: int, seed: int) -> list[Proposal]:
    """Ask for instructions until there are `replies` of them, or no tries are left. Return what became of each.

    start: the prompt whose instruction is changed. Its examples stay.
    """
    import gepa

    if not world.train_rows:
        return []
    adapter: Any = _Adapter(start, world, replies)  # what GEPA asks for is wider: it may also be absent
    gepa.optimize(
        {_INSTRUCTION: start["system_prompt"] or ""},
        trainset=[(TRAIN, number) for number in range(world.train_rows)],
        valset=[(VALIDATION, number) for number in range(world.validation_rows)],
        adapter=adapter,
        reflection_minibatch_size=min(SHOWN_ROWS, world.train_rows),
        skip_perfect_score=False,
        stop_callbacks=[lambda state: adapter.is_done or state.i + 1 >= ROUNDS_PER_REPLY * replies],
        logger=_Silent(),
        seed=seed,
    )
    if adapter.error is not None:
        raise adapter.error
    return list(adapter.proposals())


class _Silent:
    """The search reports its own progress."""

    def log(self, message: str) -> None: ...


class _Adapter:
    """What GEPA asks of a system that it improves."""

    def __init__(self, start: Variant, world: World, replies: int) -> None:
        self.start, self.world, self.replies = start, world, replies
        self._asked: list[tuple[str, str]] = []
        """The replies, each with the reason why it was refused."""
        self._tried: set[str] = set()
        self._answers: dict[tuple[str, tuple[int, ...]], Sequence[Answered]] = {}
        self._shown: tuple[int, ...] = ()
        """The train rows that were answered last."""
        self._has_stopped = False
        self.error: Exception | None = None
        """GEPA would go on after an error, so that it is raised when GEPA ended."""

    @property
    def is_done(self) -> bool:
        return (
            self._has_stopped
            or self.error is not None
            or len(self._asked) >= self.replies
            or not self.world.has_tries_left()
        )

    def proposals(self) -> list[Proposal]:
        return [
            Proposal(text[:MOST_LETTERS], refused or (TRIED if text in self._tried else NO_BETTER))
            for text, refused in self._asked
        ]

    def evaluate(self, batch: list[tuple[str, int]], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """Score an instruction on some rows, all of one split."""
        try:
            return self._evaluate(batch, candidate)
        except Exception as error:
            self.error = error
            raise

    def _evaluate(self, batch: list[tuple[str, int]], candidate: dict[str, str]) -> Any:
        from gepa.core.adapter import EvaluationBatch

        text, numbers = candidate[_INSTRUCTION], tuple(number for _, number in batch)
        if batch[0][0] == VALIDATION:
            self._tried.add(text)
            scores = self.world.validation_scores(self.prompt(text))
            chosen = [scores[number] for number in numbers]
            return EvaluationBatch(outputs=chosen, scores=chosen)
        self._shown = numbers
        answers = self._answered(text, numbers)
        return EvaluationBatch(
            outputs=list(answers), scores=[each.score for each in answers], trajectories=list(answers)
        )

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """Return the answers as GEPA hands them to `propose_new_texts`."""
        return {_INSTRUCTION: [{"answer": answer} for answer in eval_batch.trajectories]}

    def propose_new_texts(
        self, candidate: dict[str, str], reflective_dataset: dict[str, Any], components_to_update: list[str]
    ) -> dict[str, str]:
        """Return the reflector's instruction; the present one if the reply is refused, or nothing is wrong with it."""
        answers: list[Answered] = [row["answer"] for row in reflective_dataset[_INSTRUCTION]]
        if self.is_done or all(answer.is_right for answer in answers):
            return candidate
        text = self._reflect(candidate[_INSTRUCTION], answers)
        if text is None:
            self._has_stopped = True
            return candidate
        refused = self._why_refused(text)
        self._asked.append((text, refused))
        return candidate if refused else {_INSTRUCTION: text}

    def _reflect(self, instruction: str, answers: Sequence[Answered]) -> str | None:
        try:
            return self.world.reflect(instruction, answers)
        except Exception as error:
            self.error = error
            return None

    def prompt(self, text: str) -> Variant:
        """Return the prompt with an instruction."""
        return {**self.start, "system_prompt": text or None}

    def _answered(self, text: str, numbers: tuple[int, ...]) -> Sequence[Answered]:
        """Answer train rows, once under each instruction."""
        if (text, numbers) not in self._answers:
            self._answers[text, numbers] = self.world.answer(self.prompt(text), numbers)
        return self._answers[text, numbers]

    def _why_refused(self, text: str) -> str:
        if why := why_no_instruction(text):
            return f"refused: the reply {why}"
        if any(text == earlier for earlier, _ in self._asked):
            return "refused: it was proposed before"
        copied = self.world.held_out.copied_words(text)
        if copied:
            return f"refused: it copies a held-out row ({copied!r})"
        try:
            self._answered(text, self._shown)
        except UserError as error:  # the context of the model is too short for it
            return f"refused: {error}"
        return ""
