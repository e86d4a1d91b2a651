"""A contender whose answers are in a log of production: nothing is called."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.rivals.questions import PLAIN, Answer, Answered, Questions
from ft_pipeline.models.tool_calls import Call, calls_of_reply
from ft_pipeline.project import read_jsonl
from ft_pipeline.settings.contenders import ContenderSettings


def answers(questions: Questions) -> Iterator[Answered]:
    """Yield the logged answers. config: contender, answers_sha256. handling: answers (the path of the log).

    UserError if an item has no answer, or if the file changed meanwhile.
    """
    job = questions.job
    contender = ContenderSettings.model_validate(job.config["contender"])
    path, sha256 = Path(job.handling["answers"]), job.config["answers_sha256"]
    found = _logged_answers(contender.name, path, sha256, questions.items)
    facts = {"technique": None, "model": contender.answers, "endpoint_host": None}
    yield Answered(PLAIN, "contender", found, facts)


def _logged_answers(name: str, path: Path, sha256: str, items: Sequence[Item]) -> list[Answer]:
    """Return the logged answer to each item."""
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise UserError(f"Contender {name}: {path.name} was changed while the run was planned. Run it again.")
    logged: dict[str, tuple[str, list[Call]]] = {}
    for number, line in enumerate(read_jsonl(path), 1):
        question, answer = _question_of(line), _answer_of(line)
        if question is None or answer is None:
            raise UserError(
                f"Contender {name}: line {number} of {path.name} is not a logged answer. Write `answer` (and "
                "`tool_calls` if it calls tools), and `query` or `messages`."
            )
        logged[question] = answer
    missing = [item for item in items if _asked(item.messages[:-1]) not in logged]
    if missing:
        raise UserError(
            f"Contender {name}: {path.name} has no answer to {len(missing)} of {len(items)} test questions, such as "
            f"{missing[0].messages[-2]['content'][:80]!r}. Add them, or make the logged questions the test rows."
        )
    answers = [logged[_asked(item.messages[:-1])] for item in items]
    unknown = {"finish_reason": "stop", "prompt_tokens": None, "seconds": None}
    return [{"answer": text, "calls": calls, **unknown} for text, calls in answers]


def _answer_of(line: Mapping[str, Any]) -> tuple[str, list[Call]] | None:
    """Return the text of a logged answer and its calls of tools; None if it cannot be read."""
    try:
        calls = calls_of_reply(line.get("tool_calls"))
    except ValueError:
        return None
    text = line.get("answer") or ("" if calls else line.get("answer"))
    return (text, calls) if isinstance(text, str) else None


def _question_of(line: Mapping[str, Any]) -> str | None:
    """Return what a logged line asks, as the test items ask it; None if it cannot be read."""
    if isinstance(line.get("query"), str):
        return _asked([{"role": "user", "content": line["query"]}])
    messages = line.get("messages")
    if not isinstance(messages, list) or not all(isinstance(turn, dict) and "role" in turn for turn in messages):
        return None
    return _asked(messages)


def _asked(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the turns before an answer as one text: without system turns, which a provider may have changed."""
    turns = [turn for turn in messages if turn["role"] not in ("system", "developer")]
    return "\n".join(f"{turn['role']}: {' '.join(str(turn.get('content') or '').split())}" for turn in turns)
