"""Recognizes what a document of a trace file is, and returns the rows that it becomes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.tables.excluded_rows import is_erasure_marker
from ft_pipeline.tables.reading.batches import Batch, divide
from ft_pipeline.tables.reading.json_parser import parse_line
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault, Refused
from ft_pipeline.tables.traces import langfuse, openai_log, otel
from ft_pipeline.tables.traces.calls import (
    Feedback,
    ModelCall,
    conversation_of,
    distrusted_key,
    pair_of,
    thumb_of,
    with_feedback,
)


@dataclass
class FileFeedback:
    """The feedback in a file, which may be far from the calls that it is about."""

    by_call: dict[str, Feedback] = field(default_factory=dict)
    distrusted: set[str] = field(default_factory=set)
    """Keys of the answers that people corrected or rated down (calls.distrusted_key)."""


def read_calls(document: Any, sidecar: Sidecar) -> list[ModelCall | Fault]:
    """Return the calls of a document; an empty list if it is none and has none, such as feedback.

    Raises Refused if it comes from a tool whose files are known and not read.
    """
    if isinstance(document, Fault):
        return [document]
    if not isinstance(document, Mapping):
        return [Fault("wrong_type", "a document of a trace file must be an object with named values")]
    if openai_log.is_feedback(document):
        feedback = openai_log.read_feedback_line(document)
        return [feedback] if isinstance(feedback, Fault) else []
    people = frozenset(sidecar.feedback)
    if otel.is_otlp(document):
        return otel.read_otlp(document)
    if openai_log.is_litellm(document):
        return [openai_log.read_litellm(document)]
    if openai_log.is_log(document):
        return [openai_log.read_log(document)]
    if langfuse.is_trace(document):
        return langfuse.read_trace(document, people)
    if langfuse.is_batch(document):
        return langfuse.read_batch(document, people)
    if langfuse.is_observation(document):
        call = langfuse.read_observation(document)
        return [] if call is None else [call]
    _refuse_by_name(document)
    return [
        Fault("wrong_format", "the document is of no known tracer or request log; docs/traces.md lists those that are")
    ]


def _refuse_by_name(document: Mapping[str, Any]) -> None:
    """Raise Refused if the document comes from a tool that is known and not read."""
    for name, keys, advice in _NOT_READ:
        if keys <= document.keys():
            raise Refused("unknown_format", f"the file is an export of {name}, which is not read; {advice}")


_NOT_READ = (
    ("LangSmith", frozenset({"run_type", "inputs"}), "export the runs through its OpenTelemetry endpoint"),
    ("LangSmith", frozenset({"post", "patch"}), "export the runs through its OpenTelemetry endpoint"),
    ("MLflow", frozenset({"info", "data"}), "export the traces as OTLP JSON"),
    ("OpenAI's evals", frozenset({"datasource_item", "sample"}), "download the stored completions with their requests"),
    ("OpenAI's stored completions", frozenset({"object", "choices"}), "join each with its messages as its `request`"),
)


_MAY_BE_FEEDBACK = (b'"feedback"', b"CORRECTION", b"ANNOTATION")
"""Bytes of which every document with feedback has one."""


def collect_feedback(batches: Callable[[], Iterable[Batch]], sidecar: Sidecar) -> FileFeedback:
    """Return the feedback in a file. batches: reads it, once or twice. Only what may be feedback is parsed."""
    collected, has_own = FileFeedback(), False
    for document in _documents(batches(), _MAY_BE_FEEDBACK if not sidecar.feedback else None):
        line = openai_log.read_feedback_line(document) if openai_log.is_feedback(document) else None
        if isinstance(line, tuple):
            identity, feedback = line
            collected.by_call[identity] = collected.by_call.get(identity, Feedback()).merge(feedback)
        has_own = has_own or line is None
    if collected.by_call or has_own:
        for document in _documents(batches(), None):
            for call in read_calls(document, sidecar):
                if isinstance(call, ModelCall):
                    key = distrusted_key(with_feedback(call, collected.by_call), sidecar)
                    collected.distrusted |= {key} if key else set()
    return collected


def _documents(batches: Iterable[Batch], markers: tuple[bytes, ...] | None) -> Iterator[Any]:
    """Yield the parsed documents of batches. markers: only those whose bytes contain one of them."""
    for batch in map(divide, batches):
        if batch.lines is None:
            yield from batch.values
        else:
            lines = (line for line in batch.lines if markers is None or any(marker in line for marker in markers))
            yield from map(parse_line, lines)


def call_of_feedback(document: Any) -> str | None:
    """Return the id of the call that a line of feedback is about, even if the line cannot be used; None for other
    documents."""
    feedback = document["feedback"] if openai_log.is_feedback(document) else None
    identity = feedback.get("id") if isinstance(feedback, Mapping) else None
    return None if identity is None else str(identity)


def ids_of_calls(document: Any, sidecar: Sidecar) -> frozenset[str]:
    """Return the ids by which feedback may name the calls of a document, even if they cannot be used."""
    calls = [call.identity for call in read_calls(document, sidecar) if isinstance(call, ModelCall)]
    return frozenset(filter(None, [openai_log.id_of(document), *calls]))


def rows_of(document: Any, sidecar: Sidecar, feedback: FileFeedback) -> Iterator[Any]:
    """Yield the raw chat rows of a document: one for each call, or why it has none. An erasure marker stays."""
    if isinstance(document, dict) and is_erasure_marker(document):
        yield document
        return
    for call in read_calls(document, sidecar):
        if isinstance(call, Fault):
            yield call
        else:
            yield conversation_of(with_feedback(call, feedback.by_call), sidecar, feedback.distrusted)


def pairs_of(document: Any, sidecar: Sidecar, feedback: FileFeedback) -> Iterator[Any]:
    """Yield the raw preference rows of a document: one for each answer that a person corrected."""
    yield from _some_rows(pair_of, document, sidecar, feedback)


def thumbs_of(document: Any, sidecar: Sidecar, feedback: FileFeedback) -> Iterator[Any]:
    """Yield the raw feedback rows of a document: one for each answer that a person rated."""
    yield from _some_rows(thumb_of, document, sidecar, feedback)


def _some_rows(
    row_of: Callable[[ModelCall], dict[str, Any] | None], document: Any, sidecar: Sidecar, feedback: FileFeedback
) -> Iterator[Any]:
    """Yield the rows of the calls that have one. An erasure marker stays."""
    if isinstance(document, dict) and is_erasure_marker(document):
        yield document
        return
    for call in read_calls(document, sidecar):
        row = None if isinstance(call, Fault) else row_of(with_feedback(call, feedback.by_call))
        if row is not None:
            yield row
