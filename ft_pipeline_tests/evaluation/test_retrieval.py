"""Examples and passages that are retrieved for each question."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import make_items
from ft_pipeline.evaluation.scoring import prompt_baseline
from ft_pipeline.evaluation.scoring.prompts import Prompt, render_items
from ft_pipeline.evaluation.scoring.retrieval import TextIndex, split_into_passages
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.settings.prompt_variant import RETRIEVED, PromptVariant
from ft_pipeline_tests.evaluation.conftest import CONVERSATIONS, JobMaker, conversation

QUESTIONS = ("Where is my parcel?", "Can I return the shoes?", "Which grill is the heaviest?", "Do you ship to Malta?")
ROWS = [conversation("train", question, f"About: {question}") for question in QUESTIONS]
ROWS += [conversation("test", "May I return a parcel?", "Yes."), conversation("train", "Two", "a", "turns", "b")]
TEXTS = [
    "Shoes\n\nReturn shoes within thirty days.",
    "Grills weigh up to forty kilos.",
    "Malta: eight days.",
]


def user(*turns: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text} for text in turns]


def contents(messages: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages]


def test_an_index_ranks_by_shared_words_and_weights_rare_ones_more() -> None:
    index = TextIndex(["the parcel is late", "the shoes are late", "the parcel of the shop", "Где мой заказ?"])
    assert index.search("Late SHOES!", 2) == [1, 0]
    assert index.search("мой заказ", 1) == [3]
    assert index.search("nothing known", 3) == [0, 1, 2]
    assert index.search("", 9) == [0, 1, 2, 3]
    assert TextIndex([]).search("anything", 2) == []
    assert TextIndex(["...", "!"]).search("anything", 1) == [0]


def test_retrieved_examples_are_the_nearest_train_rows_nearest_last() -> None:
    variant = {"few_shot": 2, "examples": "retrieved", "system_prompt": "Be brief."}
    prompt = Prompt.from_variant(variant, ROWS, seed=0)
    texts = contents(prompt.prepend_to(user("How do I return the shoes?")))
    assert texts[0] == "Be brief."
    assert texts[3:] == ["Can I return the shoes?", "About: Can I return the shoes?", "How do I return the shoes?"]
    assert contents(prompt.prepend_to(user("Is Malta in reach?")))[3] == "Do you ship to Malta?"
    reordered = Prompt.from_variant(variant, list(reversed(ROWS)), seed=0).prepend_to(
        user("How do I return the shoes?")
    )
    assert contents(reordered) == texts
    with pytest.raises(UserError, match="few_shot is 5, but the train split has 4 single-turn rows"):
        Prompt.from_variant({"few_shot": 5, "examples": "retrieved"}, ROWS, seed=0)


def test_retrieval_uses_every_turn_of_the_user() -> None:
    prompt = Prompt.from_variant({"passages": 1}, ROWS, 0, TEXTS)
    turns = [*user("Do you ship to Malta?"), {"role": "assistant", "content": "Order number?"}, *user("LF-1")]
    assert contents(prompt.prepend_to(turns))[0] == TEXTS[2]


def test_passages_replace_their_placeholder_or_follow_the_system_prompt() -> None:
    question = user("How heavy are grills?")
    appended = Prompt.from_variant({"system_prompt": "Be brief.", "passages": 1}, ROWS, 0, TEXTS).prepend_to(question)
    assert contents(appended) == [f"Be brief.\n\n{TEXTS[1]}", "How heavy are grills?"]
    placed = Prompt.from_variant({"system_prompt": "Known: {passages} End.", "passages": 1}, ROWS, 0, TEXTS).prepend_to(
        question
    )
    assert contents(placed)[0] == f"Known: {TEXTS[1]} End."
    alone = Prompt.from_variant({"passages": 2}, ROWS, 0, TEXTS).prepend_to(question)
    assert alone[0]["role"] == "system"
    assert contents(alone)[0].startswith(f"{TEXTS[1]}\n\n")
    with_system_turn = [{"role": "system", "content": "Its own."}, *question]
    extended = Prompt.from_variant({"system_prompt": "Known: {passages}", "passages": 1}, ROWS, 0, TEXTS).prepend_to(
        with_system_turn
    )
    assert contents(extended) == [f"Its own.\n\n{TEXTS[1]}", "How heavy are grills?"]
    assert contents(with_system_turn) == ["Its own.", "How heavy are grills?"]


def test_passages_end_at_paragraphs_or_sentences() -> None:
    text = "One two three.\n\nFour five. Six seven eight.\n \nNine ten eleven twelve thirteen fourteen."
    assert split_into_passages(text, 100) == [
        "One two three.\n\nFour five. Six seven eight.\n\n" + text.split("\n \n")[1]
    ]
    assert split_into_passages(text, 5) == [
        "One two three.",
        "Four five. Six seven eight.",
        "Nine ten eleven twelve thirteen fourteen.",
    ]
    assert split_into_passages(text, 3)[1:3] == ["Four five.", "Six seven eight."]
    assert split_into_passages(" \n\n ", 5) == []


def test_an_inconsistent_prompt_variant_is_refused() -> None:
    with pytest.raises(ValidationError, match="`examples: retrieved` needs `few_shot`"):
        PromptVariant(examples="retrieved")
    with pytest.raises(ValidationError, match="`passages` is 0"):
        PromptVariant(system_prompt="Known: {passages}")
    with pytest.raises(UserError, match="data/raw/text contains no usable text"):
        Prompt.from_variant({"passages": 1}, ROWS, 0, [])


def test_the_prompt_baseline_scores_retrieved_examples_and_passages(make_job: JobMaker, tmp_path: Path) -> None:
    """A text that contains a held-out question with its answer is never shown, also if its passages are cut between
    them."""
    held_out = next(row for row in CONVERSATIONS if row["split"] == "test")
    question, answer = (message["content"] for message in held_out["messages"])
    leak = f"{question}\n\n{answer}"
    texts = [{"text": text, "file": "a.jsonl"} for text in (*TEXTS, leak)]
    (tmp_path / "text").mkdir()
    pq.write_table(pa.Table.from_pylist(texts), tmp_path / "text" / "rows.parquet")
    variants = {
        "nearest": {"few_shot": 1, "examples": "retrieved"},
        "passages": {"system_prompt": "Be brief.", "passages": 1, "passage_words": 10},
    }
    job = make_job("prompt_baseline", inputs={"text": tmp_path / "text"}, prompting={"variants": variants})
    rows = {row["name"]: row for row in prompt_baseline.run(job)["rows"]}
    assert [(row["name"], row["kind"]) for row in rows.values()][1:] == [("nearest", "prompt"), ("passages", "prompt")]
    assert rows["passages"]["model"]["passages"] == 1
    samples = pq.read_table(job.out / "samples.parquet").to_pylist()
    shown = [sample["prompt"] for sample in samples if sample["name"] == "passages"]
    assert all(any(passage in prompt for passage in TEXTS) for prompt in shown)
    assert not any(answer in prompt for prompt in shown)
    address = next(s["prompt"] for s in samples if s["name"] == "nearest" and "the address?" in s["prompt"])
    assert "Can I return the shoes?" in address  # shares "can", "I", "the"


def scored_prompts(**settings: Any) -> dict[str, PromptVariant]:
    return ProjectSettings.model_validate({"name": "shop", **settings}).scored_prompts()


def test_retrieved_examples_are_a_rival_in_every_project() -> None:
    assert scored_prompts() == {RETRIEVED: PromptVariant(few_shot=4, examples="retrieved")}
    variants = {"short": {"system_prompt": "Be brief."}, "long": {"system_prompt": "Be kind.", "few_shot": 8}}
    found = scored_prompts(prompting={"variants": variants})
    assert list(found) == ["short", "long", RETRIEVED]
    assert found[RETRIEVED] == PromptVariant(system_prompt="Be kind.", few_shot=8, examples="retrieved")
    own = {"near": {"few_shot": 2, "examples": "retrieved"}}
    assert list(scored_prompts(prompting={"variants": own})) == ["near"]
    assert scored_prompts(evaluation={"rivals": ["majority"]}) == {}


def test_the_rival_takes_no_prompt_whose_passages_it_would_not_have() -> None:
    variants = {"known": {"system_prompt": "Known: {passages}", "passages": 2, "few_shot": 8}}
    assert scored_prompts(prompting={"variants": variants})[RETRIEVED].system_prompt is None


def test_the_rival_is_left_out_where_there_are_too_few_examples(make_job: JobMaker) -> None:
    def names(few_shot: int) -> list[str]:
        variants = {RETRIEVED: PromptVariant(few_shot=few_shot, examples="retrieved").model_dump()}
        job = make_job("prompt_baseline", f"of_{few_shot}", prompting={"variants": variants})
        return [row["name"] for row in prompt_baseline.run(job)["rows"]]

    assert names(2) == ["plain", RETRIEVED]
    assert names(3) == ["plain"]  # there are two such rows


def test_examples_that_do_not_fit_the_model_are_left_out_the_least_similar_ones_first(tokenizer: Any) -> None:
    rows = [conversation("train", f"Where is my {thing}?", thing * 20) for thing in ("parcel", "order", "refund")]
    prompt = Prompt.from_variant({"few_shot": 3, "examples": "retrieved"}, rows, 0)
    [item] = make_items([conversation("test", "Where is my parcel?", "Here.")])

    def shown(window: int | None) -> list[str]:
        [found] = render_items(tokenizer, [item], prompt, name="near", window=window, max_new_tokens=8)
        return [thing for thing in ("parcel", "order", "refund") if thing * 20 in found.context]

    alone = Prompt()
    [bare] = render_items(tokenizer, [item], alone, name="bare", window=None, max_new_tokens=8)
    [all_of_them] = render_items(tokenizer, [item], prompt, name="near", window=None, max_new_tokens=8)
    sizes = [len(tokenizer(text.context, add_special_tokens=False)["input_ids"]) for text in (bare, all_of_them)]
    assert shown(None) == shown(sizes[1] + 8) == ["parcel", "order", "refund"]
    assert shown(sizes[1] + 7)[0] == "parcel"
    assert 1 <= len(shown(sizes[1] + 7)) < 3
    assert shown(sizes[0] + 8) == []
    with pytest.raises(UserError, match="near: 1 of 1 test answers need"):
        shown(sizes[0] + 7)
