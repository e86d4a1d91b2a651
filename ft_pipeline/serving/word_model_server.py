"""Serves a word model on 127.0.0.1 as an OpenAI-compatible endpoint, until the process is ended.

python -m ft_pipeline.serving.word_model_server FOLDER PORT

FOLDER: of the artifact. The choice of a reply also has `probabilities`: by field, or by `answer`, the likeliest labels.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ft_pipeline.evaluation.rivals.answered_questions import question_of
from ft_pipeline.evaluation.rivals.word_model import WordAnswer, WordModel
from ft_pipeline.models.serving_engines import HOST

NAMED = 20
"""Largest number of labels whose probabilities are in a reply."""
NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
"""The usage: it reads and writes no tokens."""
ONLY_CHATS = "A classifier answers /v1/chat/completions only. Send chats."
Document = dict[str, Any]


class BadRequest(Exception):
    """A request that is not a chat, with the reason as a sentence."""


def answer_chat(model: WordModel, request: Any) -> WordAnswer:
    """Return the answer to a request of /v1/chat/completions. Raises BadRequest."""
    messages = request.get("messages") if isinstance(request, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(turn, dict) for turn in messages):
        raise BadRequest("`messages` is not a list of turns. Send at least one.")
    turns = [{"role": turn.get("role"), "content": _text_of(turn.get("content"))} for turn in messages]
    [answer] = model.answers([question_of(turns)])
    return answer


def _text_of(content: Any) -> str:
    """Return the text of a turn, which may be in parts."""
    if isinstance(content, list):
        return "\n".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return content if isinstance(content, str) else ""


def reply(request: Mapping[str, Any], answer: WordAnswer) -> Document:
    """Return the reply to a request that does not stream."""
    message = {"role": "assistant", "content": answer.text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "probabilities": _likeliest(answer)}
    return {**_head(request, "chat.completion"), "choices": [choice], "usage": NO_TOKENS}


def chunks(request: Mapping[str, Any], answer: WordAnswer) -> Sequence[Document]:
    """Return the chunks of a reply that streams."""
    head, end = _head(request, "chat.completion.chunk"), {"index": 0, "delta": {}, "finish_reason": "stop"}
    delta = {"role": "assistant", "content": answer.text}
    parts: list[Document] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**head, "choices": [{**end, "probabilities": _likeliest(answer)}]},
    ]
    if (request.get("stream_options") or {}).get("include_usage"):
        parts.append({**head, "choices": [], "usage": NO_TOKENS})
    return parts


def _head(request: Mapping[str, Any], kind: str) -> Document:
    return {"id": "chatcmpl", "object": kind, "created": int(time.time()), "model": request.get("model")}


def _likeliest(answer: WordAnswer) -> dict[str, dict[str, float]]:
    return {
        name: {label: round(chance, 6) for label, chance in list(labels.items())[:NAMED]}
        for name, labels in answer.probabilities.items()
    }


def application(model: WordModel) -> Starlette:
    """Return a server of the model, as an ASGI application."""

    async def chat(request: Request) -> Response:
        try:
            document = json.loads(await request.body())
            answer = await run_in_threadpool(answer_chat, model, document)
        except ValueError:
            return _refusal(400, "The request is not JSON. Correct it.")
        except BadRequest as error:
            return _refusal(400, str(error))
        if document.get("stream") is not True:
            return JSONResponse(reply(document, answer))
        events = [*map(json.dumps, chunks(document, answer)), "[DONE]"]
        return Response("".join(f"data: {event}\n\n" for event in events), media_type="text/event-stream")

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": []})

    async def refuse(_: Request, error: Exception) -> Response:
        return _refusal(404, ONLY_CHATS)

    routes = [Route("/v1/chat/completions", chat, methods=["POST"])]
    routes += [Route(path, models) for path in ("/health", "/v1/models")]
    return Starlette(routes=routes, exception_handlers={404: refuse, 405: refuse})


def _refusal(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status)


if __name__ == "__main__":
    served = application(WordModel.read(Path(sys.argv[1])))
    uvicorn.run(served, host=HOST, port=int(sys.argv[2]), log_config=None, lifespan="off")
