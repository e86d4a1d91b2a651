"""A model behind an endpoint that writes instructions. Replies come from its log, so that each is paid for once."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ft_pipeline.distillation import endpoint_teacher
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.prompt_search.instructions import SHOWN_ROWS, Answered
from ft_pipeline.evaluation.prompt_search.refusals import MOST_LETTERS
from ft_pipeline.job import Job
from ft_pipeline.models.endpoint.answer_log import AnswerLog
from ft_pipeline.models.endpoint.rate_limits import cost
from ft_pipeline.models.endpoint.request_loop import Asked, ChatRequest, RequestsStopped
from ft_pipeline.models.endpoint.responses import RULES
from ft_pipeline.settings.prompt_variant import MAX_INSTRUCTION_TOKENS
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline.tables.text_rules import without_control_tokens

SHOWN_LETTERS = 1500
"""Of a question, an answer and a reference answer: the rest of a longer one is left out."""
LETTERS_PER_TOKEN = 4
"""Of English, in most vocabularies: for the estimate of a bill."""
_ASKED = Asked("reflector", "prompting.search.reflector", "the reflector's endpoint")
_FENCED = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)
_NOTHING = "(none)"
_REQUEST = """\
You write the instruction for a language model, which reads it before each question.

The task: {task}

The instruction that it has now:
```
{instruction}
```

With that instruction, it answered as follows:

{answers}

Write a better instruction, so that its answers become those that are right. Say which form an answer has, and by \
which rules the right answer follows from a question. Name all that the model cannot know. Write rules, and copy no \
question. Be brief: fewer than 300 words.

Reply with the instruction alone, between two lines of ```."""
_ANSWER = "Question {number}:\n{question}\n\nIts answer:\n{answer}\n\nThe right answer:\n{reference}"


class Reflector:
    """Asks a model for instructions, and counts what it costs."""

    def __init__(self, job: Job, model: TeacherSettings, task: str, log: AnswerLog) -> None:
        """model: as ProjectSettings.reflector returns it. log: open for writing.

        Takes the key of the endpoint out of the environment: metrics of the project run in this process.
        """
        self._job, self._model, self._task, self._log = job, model, task, log
        self._secrets = {name: os.environ.pop(name) for name in job.secrets if name in os.environ}
        self._used: dict[str, None] = {}
        """Keys of the requests, in their order."""
        self.stopped = ""
        """Why it is not asked any more; empty while it is."""

    def reflect(self, instruction: str, answers: Sequence[Answered]) -> str | None:
        """Return a new instruction; empty if the reply is none, and None if the budget is used up.

        Raises UserError if the server cannot be reached, or rejects the request.
        """
        request = self.request(instruction, answers)
        try:
            with self._secrets_set():
                endpoint_teacher.send_requests(self._log, [request], 1, self._model, self._job, _ASKED)
        except RequestsStopped as stopped:
            if not stopped.by_budget:
                raise
            self.stopped = stopped.reason
            return None
        self._used[request.key] = None
        return self._reply(request)

    @contextmanager
    def _secrets_set(self) -> Iterator[None]:
        os.environ |= self._secrets
        try:
            yield
        finally:
            for name in self._secrets:
                os.environ.pop(name, None)

    def _reply(self, request: ChatRequest) -> str:
        entry = self._log.entry(request.key)
        assert entry is not None
        if entry["event"] == "failed" and not RULES[entry["reason"]].settled and entry["reason"] != "empty":
            raise UserError(
                f"The reflector {self._model.model} gave no answer ({entry['message'].rstrip('.')}). Run again when "
                "its server works, or remove prompting.search.reflector."
            )
        return read_instruction(entry["answer"])

    def request(self, instruction: str, answers: Sequence[Answered]) -> ChatRequest:
        """Return the request. Its key is a hash of the model and of all that it is sent."""
        shown = [
            _ANSWER.format(
                number=number,
                question=_cut(answer.question),
                answer=_cut(answer.answer) or _NOTHING,
                reference=_cut(answer.reference),
            )
            for number, answer in enumerate(answers, 1)
        ]
        content = _REQUEST.format(
            task=self._task or "not described", instruction=instruction or _NOTHING, answers="\n\n".join(shown)
        )
        return TeacherPrompt(self._model, []).request([{"role": "user", "content": content}])

    def spent(self) -> dict[str, Any]:
        """Return the number of replies that this search used, their tokens, and what they cost."""
        assert self._model.endpoint is not None
        entries = [entry for entry in map(self._log.entry, self._used) if entry]
        tokens = [sum(entry[key] or 0 for entry in entries) for key in ("prompt_tokens", "answer_tokens")]
        return {
            "model": self._model.model,
            "host": endpoint_teacher.host_of(self._model.endpoint),
            "calls": len(entries),
            "prompt_tokens": tokens[0],
            "answer_tokens": tokens[1],
            "cost": round(cost(self._model.endpoint.prices, *tokens), 6),
            "stopped": self.stopped,
        }


@contextmanager
def reflector_of(job: Job, model: TeacherSettings, task: str) -> Iterator[Reflector]:
    """Yield a reflector whose log is open. The log is that of the same model as a teacher or contender, and so is its
    budget."""
    with AnswerLog.open(endpoint_teacher.log_folder(job.shared or job.work, model), job.report.log) as log:
        yield Reflector(job, model, task, log)


def plan_of(model: TeacherSettings, replies: int) -> str:
    """Return what asking a reflector sends, where to, and the largest bill."""
    assert model.endpoint is not None
    letters = len(_REQUEST) + MOST_LETTERS + SHOWN_ROWS * (len(_ANSWER) + 3 * SHOWN_LETTERS)
    prompts, written = replies * letters // LETTERS_PER_TOKEN, replies * MAX_INSTRUCTION_TOKENS
    money = cost(model.endpoint.prices, prompts, written)
    bill = f"at most about {money:.2f} by its prices" if money else "no prices given"
    return (
        f"reflector {model.model}: up to {replies} calls to {endpoint_teacher.host_of(model.endpoint)} with train rows "
        f"and answers to them, at most about {prompts + written:,} tokens, {bill}"
    )


def read_instruction(reply: str) -> str:
    """Return the instruction in a reply: what stands between two lines of ```, else all of it."""
    fenced = _FENCED.search(reply)
    return (fenced[1] if fenced else reply).strip()


def _cut(text: str) -> str:
    cleaned = without_control_tokens(text)
    return cleaned if len(cleaned) <= SHOWN_LETTERS else f"{cleaned[:SHOWN_LETTERS]} …"
