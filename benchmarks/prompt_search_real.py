"""The search of a prompt with the embedded model: answers that mean nothing, and a format that no prompt names.

    python -m benchmarks.prompt_search_real

- `shuffled`: the answers of the classification example are shuffled among its messages, with five seeds. All that a
  prompt can bring is that the model names the most frequent label (29 %), or always names a label.
- `even`: the answers are drawn from the labels with equal chances, with five seeds. Where the model always names a
  label, no prompt is better than another, and the searched one should not lead the given one on the test rows.
- `format`: right answers are in upper case, with the order number first. It is to be found from examples alone, and by
  instruction with a stand-in reflector that reads the right answers; one that writes nonsense should change nothing.

Results go to benchmarks/results/prompt_search_real.json. Some 45 minutes on two idle cores. `--only NAME` measures one
of them and leaves the rest of the results as it is.
"""

import argparse
import hashlib
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import machine
from benchmarks.embedded import ROOT, Silent, convert_base
from ft_pipeline.evaluation.comparison.leads import bounds
from ft_pipeline.evaluation.items import make_items, select_rows
from ft_pipeline.evaluation.prompt_search.measure import PromptScorer
from ft_pipeline.evaluation.prompt_search.questions import Questions
from ft_pipeline.evaluation.prompt_search.space import Variant, variant
from ft_pipeline.job import Job
from ft_pipeline.steps import searched_prompt
from ft_pipeline_tests.distillation.fault_server import serving

RESULTS = Path(__file__).parent / "results" / "prompt_search_real.json"
EXAMPLE = ROOT / "examples" / "classification" / "data" / "raw" / "alpaca"
LABELS = "What is the message about? Reply with one word: delivery, refund, damaged, product or account."
GIVEN = {"few_shot": variant({"system_prompt": LABELS}, 8)}
SPLITS = {"train": 200, "validation": 64, "test": 200}
WITHOUT_MEANING = ("shuffled", "even")
SEEDS = 5
TRIES = 30
FORMAT = r"LF-\d+: [A-Z' ,.]+"
ANSWERS = {
    "My parcel {} has not come yet.": "WE ASK THE CARRIER TODAY.",
    "I want my money back for {}.": "THE REFUND TAKES FIVE DAYS.",
    "The lamp of {} is broken.": "WE SEND A NEW ONE.",
    "Can I change the address of {}?": "YES, WITHIN A DAY.",
    "Please cancel {}.": "IT IS CANCELED.",
    "Where is the invoice for {}?": "IT IS IN YOUR ACCOUNT.",
}
HONEST = "Write the order number first, then a colon, then the answer. Use upper case letters only: LF-1: HELLO."
NONSENSE = ["", "{}", "x" * 100_000, "Sing a song of the sea.", "Think of the number seven.", "Be a teapot."]
Rows = list[dict[str, Any]]


def row(split: str, number: int, question: str, answer: str) -> dict[str, Any]:
    """Return a row of `conversations`."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    identity = hashlib.sha256(f"{number} {question}".encode()).hexdigest()
    return {"id": identity, "split": split, "messages": turns, "tools": None, "table": "alpaca", "file": "a.jsonl"}


def splits(count: dict[str, int]) -> Iterator[str]:
    """Yield the split of each row."""
    for split, rows in count.items():
        yield from [split] * rows


def without_meaning(seed: int, how: str) -> Rows:
    """Return messages of the classification example with the answers of others (`shuffled`), or drawn ones (`even`)."""
    lines = [json.loads(line) for path in sorted(EXAMPLE.glob("*.jsonl")) for line in path.open(encoding="utf-8")]
    chance = random.Random(seed)
    chance.shuffle(lines)
    answers = [line["output"] for line in lines]
    chance.shuffle(answers)
    if how == "even":
        answers = chance.choices(sorted(set(answers)), k=len(answers))
    pairs = zip(splits(SPLITS), lines, answers, strict=False)
    return [row(split, number, line["instruction"], answer) for number, (split, line, answer) in enumerate(pairs)]


def formatted() -> Rows:
    """Return messages whose right answers have a format."""
    questions = list(ANSWERS.items())
    return [
        row(split, number, question.format(f"LF-{1000 + 7 * number}"), f"LF-{1000 + 7 * number}: {answer}")
        for number, split in enumerate(splits({"train": 48, "validation": 32}))
        for question, answer in [questions[number % len(questions)]]
    ]


def search_job(folder: Path, base: Path, rows: Rows, **config: Any) -> Job:
    """Return the job of a search over rows."""
    for name in ("rows", "out", "work"):
        (folder / name).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows" / "rows.parquet")
    inputs = {"conversations": folder / "rows", "base_model": base}
    evaluation = {"seed": 0, "batch_size": 32, "max_new_tokens": 24, **config.pop("evaluation", {})}
    settings = searched_prompt.Config(**config).model_dump(mode="json") | {"evaluation": evaluation}
    return Job("searched_prompt", settings, inputs, folder / "out", folder / "work", "cpu", Silent())


def measure_without_meaning(folder: Path, base: Path, rows: Rows) -> dict[str, Any]:
    """Search a prompt where answers mean nothing, and compare it with the given one on the test rows."""
    started = time.perf_counter()
    job = search_job(folder, base, rows, search={"tries": TRIES}, given=GIVEN, evaluation={"max_new_tokens": 4})
    found = searched_prompt.run(job)
    seconds = time.perf_counter() - started
    scorer = PromptScorer(job, rows, Questions(make_items(select_rows(rows, "test", None)), 0, rows))
    assert scorer.metric == "exact_match"

    def right(prompt: Variant) -> np.ndarray:
        asked = scorer._ask(prompt, rows, scorer.items)
        return np.array([sample[scorer.metric] for sample in asked.samples])

    gains = right(found["variant"]) - right(GIVEN["few_shot"])
    low, high = bounds(gains, 0.975)
    return {
        **{key: found[key] for key in ("tries", "ended", "row", "score", "of_given")},
        "lead_on_test": round(float(gains.mean()), 4),
        "interval": [round(low, 4), round(high, 4)],
        "tries_per_minute": round(60 * found["tries"] / seconds, 1),
    }


def measure_format(folder: Path, base: Path, most_examples: int, reply: Callable[[str], str] | None) -> dict[str, Any]:
    """Search a prompt for answers with a format, from examples, or with a stand-in reflector."""
    settings = {
        "search": {"tries": 24, "most_examples": most_examples, "reflections": len(NONSENSE)},
        "metric": "format_valid",
        "evaluation": {"answer_format": {"type": "regex", "pattern": FORMAT}},
    }
    if reply is None:
        found = searched_prompt.run(search_job(folder, base, formatted(), **settings))
    else:
        with serving(reply=reply) as server:
            config, handling = server.teacher({"max_failed": 1.0}).config_and_handling()
            job = search_job(folder, base, formatted(), reflector=config, **settings)
            found = searched_prompt.run(replace(job, handling=handling))
    replies = folder / "out" / searched_prompt.INSTRUCTIONS
    became = [each["fate"] for each in json.loads(replies.read_text())["replies"]] if replies.is_file() else []
    chosen = {key: found["variant"][key] for key in ("system_prompt", "few_shot")}
    return {**{key: found[key] for key in ("tries", "ended", "of_plain", "score")}, **chosen, "replies": became}


def honest(request: str) -> str:
    """Reply as a reflector that sees what the right answers have in common."""
    shown = request.split("The right answer:\n")[1:]
    assert all(text.startswith("LF-") for text in shown)
    return f"```\n{HONEST}\n```"


def foolish(replies: Sequence[str]) -> Callable[[str], str]:
    """Return a reflector that gives some replies, one after the other, again and again."""
    left = cycle(replies)  # an empty reply is asked for once more
    return lambda request: next(left)


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", choices=("format", *WITHOUT_MEANING))
    options = parser.parse_args()
    wanted = [options.only] if options.only else ["format", *WITHOUT_MEANING]
    document: dict[str, Any] = json.loads(options.out.read_text()) if options.only and options.out.is_file() else {}
    document |= {"machine": machine.describe()} | {name: {} if name == "format" else [] for name in wanted}

    def keep(name: str, result: object) -> None:
        """Write what is measured so far: an interruption loses one line."""
        print(name, result, flush=True)
        options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        base = convert_base(root)
        lines = {"examples alone": (8, None), "honest": (0, honest), "foolish": (0, foolish(NONSENSE))}
        for name, (most_examples, reply) in lines.items() if "format" in wanted else ():
            document["format"][name] = measure_format(root / name.replace(" ", "-"), base, most_examples, reply)
            keep(name, document["format"][name])
        for how in (name for name in wanted if name in WITHOUT_MEANING):
            for seed in range(SEEDS):
                rows = without_meaning(seed, how)
                document[how].append(measure_without_meaning(root / f"{how}-{seed}", base, rows))
                keep(how, document[how][-1])


if __name__ == "__main__":
    main()
