"""Answer the probes: greedy, as the model is served. What the answers show is judged in the comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.scoring.lm_eval_model import RecordingLM
from ft_pipeline.evaluation.scoring.probe_files import PROBES_FILE, Probe
from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.models.chat import render

PROBES = pa.schema(
    [
        *((name, pa.string()) for name in ("name", "item", "probe", "system", "query", "answer", "finish_reason")),
        ("generated_tokens", pa.int64()),
    ]
)
"""probes.parquet: a model's answer to each question. `probe` is the name in the settings, `system` the system prompt of
the question itself."""

Record = dict[str, Any]


@dataclass(frozen=True)
class RenderedProbe:
    """A question as the model reads it."""

    name: str
    """Of the probes."""
    number: int
    probe: Probe
    context: str


def render_probes(
    tokenizer: Any,
    probes: Mapping[str, Sequence[Probe]],
    prompt: Prompt,
    *,
    window: int | None,
    max_new_tokens: int,
) -> list[RenderedProbe]:
    """Return the questions under the model's prompt. A system prompt of their own takes the place of the model's.

    window: tokens of text that the model can read; None: no limit. UserError if a question does not fit.
    """
    rendered = [
        RenderedProbe(name, number, probe, _render(tokenizer, probe, prompt))
        for name, rows in probes.items()
        for number, probe in enumerate(rows, 1)
    ]
    for entry in rendered:
        needed = len(tokenizer(entry.context, add_special_tokens=False)["input_ids"]) + max_new_tokens
        if window is not None and needed > window:
            raise UserError(
                f"evaluation.probes.{entry.name}: question {entry.number} needs {needed} tokens of context with its "
                f"answer, but the model has {window}. Shorten it."
            )
    return rendered


def answer_probes(lm: RecordingLM, rendered: Sequence[RenderedProbe], max_new_tokens: int) -> list[Record]:
    """Return the records of probes.parquet, without the name of the model.

    The questions of each file are answered by themselves: in 16 bit, an answer depends a little on the others of its
    batch, and a further file of probes must not change it.
    """
    answers = [
        answer
        for _, entries in groupby(rendered, key=lambda entry: entry.name)
        for answer in lm.answer_prompts([entry.context for entry in entries], max_new_tokens)
    ]
    return [
        {
            "item": f"{entry.name}:{entry.number:05}",
            "probe": entry.name,
            "system": entry.probe.get("system"),
            "query": entry.probe["query"],
            "answer": answer.text,
            "finish_reason": answer.finish_reason,
            "generated_tokens": answer.answer_tokens,
        }
        for entry, answer in zip(rendered, answers, strict=True)
    ]


def write_probes(out: Path, records: Sequence[Record]) -> None:
    """Write probes.parquet."""
    pq.write_table(pa.Table.from_pylist(list(records), schema=PROBES), out / PROBES_FILE)


def _render(tokenizer: Any, probe: Probe, prompt: Prompt) -> str:
    system = [{"role": "system", "content": probe["system"]}] if "system" in probe else []
    messages = [*system, {"role": "user", "content": probe["query"]}]
    return render(tokenizer, prompt.prepend_to(messages), add_generation_prompt=True)
