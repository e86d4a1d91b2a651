"""Send one request to an OpenAI-compatible server and read the reply. request_loop.py retries.

The official client sends the request. The reply is parsed here, because the client accepts incomplete replies.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import openai

from ft_pipeline.models.endpoint.request_loop import ChatRequest
from ft_pipeline.models.endpoint.responses import Failure, Reply
from ft_pipeline.models.tool_calls import calls_of_reply
from ft_pipeline.settings.teacher import EndpointSettings, TeacherSettings
from ft_pipeline.tables.text_rules import is_empty

LENGTH_REASONS = frozenset({"length", "max_tokens", "model_length"})
"""Finish reasons of answers that reached max_new_tokens, at different providers."""
MAX_MESSAGE_CHARACTERS = 200
"""Maximum length of a failure's message, and of a name that a reply contains."""
HIDDEN_KEY = "***"
"""Replaces the API key in messages."""
NO_KEY = "none"
"""Sent if the server needs no key. Otherwise the client would read OPENAI_API_KEY and send that."""
_VERSION_SUFFIX = re.compile(r"[-@:](?:\d[\d.-]*|main|latest|[0-9a-f]{7,40})")
"""What may follow the name of the model in a reply: a date, a number, a commit, `main` or `latest`."""


class Endpoint:
    """A server, with the teacher's settings. Connections stay open until `close`."""

    def __init__(
        self, teacher: TeacherSettings, key: str | None, extra_fields: Mapping[str, Any] | None = None
    ) -> None:
        """extra_fields: additional fields of each request."""
        assert teacher.endpoint is not None
        self._extra_fields = dict(extra_fields or {})
        self.teacher = teacher
        self.settings: EndpointSettings = teacher.endpoint
        self._key = key
        concurrency = self.settings.concurrency
        http = openai.DefaultAsyncHttpxClient(
            limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            timeout=self.settings.timeout_seconds,
        )
        self._client = openai.AsyncOpenAI(
            api_key=key or NO_KEY, base_url=self.settings.url, max_retries=0, http_client=http
        )

    async def close(self) -> None:
        await self._client.close()

    async def ask(self, request: ChatRequest) -> Reply | Failure:
        """Request one chat completion. The sample's index among several answers to the prompt changes the seed."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                # `chat.completions.create` walks every request by type hints: a sixth of the time, not needed here.
                reply = await self._client.post(
                    "/chat/completions", cast_to=httpx2.Response, body=self._request_body(request)
                )
        except (TimeoutError, openai.APITimeoutError):
            return Failure("timeout", f"no complete reply within {self.settings.timeout_seconds:g} s")
        except openai.APIStatusError as error:
            return self._status_failure(error)
        except openai.APIConnectionError as error:
            return self._connection_failure(error)
        return self._parse_reply(reply.content, reply.headers, time.monotonic() - started)

    def _request_body(self, request: ChatRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.teacher.model,
            "messages": list(request.messages),
            "temperature": self.teacher.temperature,
            self.settings.limit_field: self.teacher.max_new_tokens,
        }
        if self.settings.send_seed:
            body["seed"] = self.teacher.seed + request.sample
        if request.tools is not None:
            body["tools"] = list(request.tools)
        body |= self._extra_fields | self.settings.extra_body
        return {name: value for name, value in body.items() if value is not None}

    def _parse_reply(self, content: bytes, headers: Mapping[str, str], seconds: float) -> Reply | Failure:
        """Return the reply in the JSON `content`, or why it is not usable."""
        try:
            document = json.loads(content)
            choice = document["choices"][0]
            text = choice["message"].get("content") or ""
            calls = calls_of_reply(choice["message"].get("tool_calls"))
            finish = choice.get("finish_reason") or "stop"
            usage = document.get("usage")
            usage = usage if isinstance(usage, dict) else {}
            model = document.get("model")
            if not isinstance(text, str) or not isinstance(finish, str):
                raise TypeError
            "".join(
                [text, *(value for call in calls for value in call.values())]
            ).encode()  # raises ValueError for an unpaired surrogate
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return Failure("broken_reply", f"the reply is not the JSON of a chat completion ({len(content)} bytes)")
        reply = Reply(
            text=text.strip(),
            finish_reason="length" if finish in LENGTH_REASONS else finish,
            prompt_tokens=_token_count(usage.get("prompt_tokens")),
            answer_tokens=_token_count(usage.get("completion_tokens")),
            model=_short_text(model),
            request_id=_short_text(headers.get("x-request-id") or document.get("id")),
            seconds=seconds,
            calls=calls,
        )
        return self._check_reply(reply)

    def _check_reply(self, reply: Reply) -> Reply | Failure:
        """Return `reply`, or why its answer is not usable."""
        if not self._accepts_model(reply.model):
            message = f"{self._clean(str(reply.model))} answered instead of {self.teacher.model}"
            return Failure("wrong_model", message, reply=reply)
        if reply.finish_reason == "content_filter":
            return Failure("filtered", "the provider's content filter removed the answer", reply=reply)
        if reply.finish_reason == "length":
            message = f"the answer did not end within {self.teacher.max_new_tokens} tokens (max_new_tokens)"
            return Failure("cut_off", message, reply=reply)
        if is_empty(reply.text) and not reply.calls:
            return Failure("empty", "the answer is empty", reply=reply)
        return reply

    def _accepts_model(self, model: str | None) -> bool:
        """Whether a reply may name this model: the teacher's, one of `reply_models`, or a version of these."""
        accepted = {self.teacher.model, *self.settings.reply_models}
        return (
            model is None
            or model in accepted
            or any(
                model.startswith(name) and _VERSION_SUFFIX.fullmatch(model[len(name) :]) is not None
                for name in accepted
            )
        )

    def _status_failure(self, error: openai.APIStatusError) -> Failure:
        """Return the failure that an HTTP status means."""
        status, body = error.status_code, error.body
        detail = body.get("message") if isinstance(body, dict) else None
        message = self._clean(f"HTTP {status}: {detail or error.message}")
        if status == 402 or "insufficient_quota" in {error.code, error.type}:
            return Failure("no_credit", message)
        if status == 429:
            return Failure("rate_limited", message, retry_after=_seconds_to_wait(error.response.headers))
        if status >= 500 or status in {408, 409}:
            return Failure("server_error", message, retry_after=_seconds_to_wait(error.response.headers))
        return Failure({401: "no_access", 403: "no_access", 404: "not_found"}.get(status, "refused"), message)

    def _connection_failure(self, error: openai.APIConnectionError) -> Failure:
        cause: BaseException = error.__cause__ or error
        reason = "unreachable" if "Connect" in type(cause).__name__ else "connection_lost"
        return Failure(reason, self._clean(f"{type(cause).__name__}: {cause}"))

    def _clean(self, message: str) -> str:
        """Return `message` as one short line without the key, which some servers repeat in their errors."""
        line = " ".join(message.encode(errors="replace").decode().split())
        return (line.replace(self._key, HIDDEN_KEY) if self._key else line)[:MAX_MESSAGE_CHARACTERS]


def _token_count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _short_text(value: Any) -> str | None:
    return (
        value.encode(errors="replace").decode()[:MAX_MESSAGE_CHARACTERS] if isinstance(value, str) and value else None
    )


def _seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait, from `retry-after-ms` or either form of `retry-after` (RFC 9110, 10.2.3)."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if value.strip().replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
