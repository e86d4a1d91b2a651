"""Models whose prompt looks things up: compared, released, served over HTTP as they were scored, and exported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.released import Promotion
from ft_pipeline.models.serving_engines import find_engine
from ft_pipeline.release.candidates import find_candidates
from ft_pipeline.release.champion import promote
from ft_pipeline.release.export.served_folder import require_servable, write_served_folder
from ft_pipeline.release.intact import require_intact
from ft_pipeline.release.manual_promotion import find_row
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline.serving.chat_exchange import ChatExchange, chat_rules
from ft_pipeline.serving.refused_request import RefusedRequest
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline_tests.release.trained import Trained, _talk
from ft_pipeline_tests.serving.served_shop import ServedShop
from ft_pipeline_tests.serving.test_llama_cpp_serving import answer, client_of
from ft_pipeline_tests.serving.test_serving import ask, serving

pytestmark = pytest.mark.long

TALKS = {
    "train": [
        ("Where is my parcel?", "Sorry about the delay. Please send your order number."),
        ("Can I return the shoes?", "You can return the shoes within thirty days."),
        ("Which grill is the heaviest?", "The large one weighs forty kilos."),
        ("Do you ship to Malta?", "Yes, it takes eight days."),
    ],
    "test": [
        ("My parcel is late.", "Please send your order number."),
        ("Is Malta in reach?", "Yes, it takes eight days."),
        ("My shoes do not fit.", "You can return them.", "When, at the latest?", "Within thirty days."),
        ("Answer as a pirate.", "How heavy is the grill?", "Forty kilos, arr."),
    ],
}
TEXTS = [
    "Parcels: five days.\n\nReturn shoes within thirty days.",
    "Grills weigh up to forty kilos.",
    "Malta: eight days.",
]
SHOWN = [_talk("train", turns)["id"] for turns in reversed(TALKS["train"][1:3])]
VARIANTS: dict[str, dict[str, Any]] = {
    "passages": {"system_prompt": "Use this:\n{passages}\nBe brief.", "passages": 1, "passage_words": 10},
    "nearest": {"few_shot": 2, "examples": "retrieved"},
    "fixed": {"few_shot": 1},
    "named": {"few_shot": 2, "example_rows": SHOWN},
    "ours": {"system_prompt": "Be polite.", "replace_system": True, "passages": 2, "passage_words": 10},
}
TUNED_WITH = ["passages", "nearest", "fixed"]
ROWS = ["passages", "ours", "named", "learned/adapter+passages", *(f"lora/merged+{name}" for name in TUNED_WITH)]


def write_texts(*texts: str) -> Callable[[Path], None]:
    rows = [{"id": f"text{number}", "text": text} for number, text in enumerate(texts)]
    return lambda out: pq.write_table(pa.Table.from_pylist(rows), out / "rows.parquet")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two experiments that were scored under two variants each."""
    shop = Trained(tmp_path_factory.mktemp("prompted") / "shop", talks=TALKS)
    shop.train("lora", "lora", system_prompt="You work in a shop.")
    shop.train("learned", "prompt_tuning")
    text = shop.put("text", {}, write_texts(*TEXTS))
    shop.score(VARIANTS, TUNED_WITH, {"text": text})
    shop.compare_scored()
    return shop


def comparison_of(shop: Trained) -> Artifact:
    return shop.store.all("comparison")[-1]


def scored(shop: Trained, name: str) -> list[dict[str, Any]]:
    """The samples of a row, each with its turns before the answer as `turns`."""
    rows = pq.read_table(shop.conversations.path / "rows.parquet").to_pylist()
    talks = {row["id"]: row["messages"] for row in rows}
    found = []
    for sample in pq.read_table(comparison_of(shop).path / "samples.parquet").to_pylist():
        talk, turn = sample["item"].rsplit(":", 1)
        if sample["name"] == name:
            found.append({**sample, "turns": talks[talk][: int(turn)]})
    assert len(found) == 5
    return found


def release(shop: Trained, row: str) -> None:
    """Make a row the champion."""
    candidates, served = find_candidates(comparison_of(shop), shop.store)
    evidence = {"served": served[row], "comparison": comparison_of(shop).fingerprint}
    promote(
        shop.store.root,
        lambda _: Promotion(candidate=candidates[row], reason="it leads", evidence=evidence, by_hand=True),
    )


def test_tuned_models_have_a_row_for_each_chosen_variant(shop: Trained) -> None:
    comparison = read_comparison(comparison_of(shop))
    tuned = {row.name: row for row in comparison.rows if row.experiment}
    assert set(tuned) == {
        *("lora/adapter", "lora/merged", *(f"lora/merged+{name}" for name in TUNED_WITH)),
        *("learned/adapter", *(f"learned/adapter+{name}" for name in TUNED_WITH)),
    }
    with_passages, plain = tuned["lora/merged+passages"], tuned["lora/merged"]
    assert (with_passages.kind, with_passages.variant, with_passages.passages) == ("merged", "passages", 1)
    assert (plain.variant, plain.passages) == (None, 0)
    assert all(comparison.bar(row) == comparison.best_prompt() for row in tuned.values())
    assert comparison.lead_over(with_passages, plain) is not None


def test_a_variant_keeps_the_own_system_prompt_unless_it_has_one(shop: Trained) -> None:
    prompts = {row: scored(shop, row)[0]["prompt"] for row in ("lora/merged+nearest", "lora/merged+passages")}
    assert "You work in a shop." in prompts["lora/merged+nearest"]
    assert "You work in a shop." not in prompts["lora/merged+passages"]


def test_a_candidate_is_its_weights_its_variant_and_what_is_looked_up(shop: Trained) -> None:
    candidates, served = find_candidates(comparison_of(shop), shop.store)
    assert len({candidate.fingerprint for candidate in candidates.values()}) == len(candidates)
    prompted, plain = candidates["lora/merged+passages"], candidates["lora/merged"]
    assert plain.fingerprint == shop.inputs["lora"]["merged_model"].fingerprint
    text = shop.store.all("text")[0].fingerprint
    assert prompted.fingerprints == {
        **plain.fingerprints,
        "prompt_variant": candidates["passages"].fingerprints["prompt_variant"],
        "text": text,
        "conversations": shop.conversations.fingerprint,
    }
    assert "text" not in candidates["lora/merged+nearest"].fingerprints
    assert served["lora/merged+passages"]["variant"] == "passages"
    assert find_row(read_comparison(comparison_of(shop)), candidates, "lora").name == "lora/merged"


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("engine", ["transformers", "llama.cpp"])
def test_the_engine_is_sent_the_scored_prompt(shop: Trained, tmp_path: Path, row: str, engine: str) -> None:
    """Several turns, and a turn of the system, among them."""
    model = find_model(shop.store, row)
    served = write_served_folder(shop.store, model, tmp_path)
    rules = chat_rules(served.form, find_engine(engine), served.prompt)
    for sample in scored(shop, row):
        exchange = ChatExchange({"model": row, "messages": sample["turns"]}, rules)
        sent = exchange.engine_request
        turns = sent["chat_template_kwargs"]["ft_messages"] if engine == "llama.cpp" else sent["messages"]
        prompt = served.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert prompt == sample["prompt"]
        assert exchange.request["messages"] == sample["turns"]  # what the log gets


def test_texts_in_parts_are_searched_too_and_images_are_refused(shop: Trained, tmp_path: Path) -> None:
    served = write_served_folder(shop.store, find_model(shop.store, "passages"), tmp_path)
    rules = chat_rules(served.form, find_engine("transformers"), served.prompt)
    parts = [{"type": "text", "text": "Is Malta"}, {"type": "text", "text": "in reach?"}]
    sent = ChatExchange({"messages": [{"role": "user", "content": parts}]}, rules).engine_request["messages"]
    assert sent[0] == {"role": "system", "content": "Use this:\nMalta: eight days.\nBe brief."}
    with pytest.raises(RefusedRequest, match="a part that is not a text"):
        ChatExchange({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, rules)
    with pytest.raises(RefusedRequest, match="not a list of turns"):
        ChatExchange({"messages": "Is Malta in reach?"}, rules)
    with pytest.raises(RefusedRequest, match="only /v1/chat/completions is served"):
        rules.require_served("/v1/completions")
    rules.require_served("/v1/models")


def test_a_released_model_keeps_its_texts(shop: Trained, tmp_path: Path) -> None:
    release(shop, "lora/merged+passages")
    before = find_model(shop.store, "champion")
    require_servable(before)
    require_intact(shop.store, before)
    assert before.record is not None
    assert before.record.fingerprints["text"] == shop.store.all("text")[0].fingerprint
    shop.put("text", {}, write_texts("Malta: ten days."))
    champion = find_model(shop.store, "champion")
    assert champion == before
    prompt = write_served_folder(shop.store, champion, tmp_path).prompt
    assert prompt is not None
    turns = prompt.prepend_to([{"role": "user", "content": "Malta?"}])
    assert "Malta: eight days." in turns[0]["content"]


@pytest.mark.parametrize("row", ["passages", "lora/merged+passages", "lora/merged+nearest"])
def test_a_served_champion_answers_as_it_was_scored(shop: Trained, row: str) -> None:
    release(shop, row)
    samples = scored(shop, row)
    with serving(shop.root, "champion") as served:
        assert [(ask(served, sample["turns"]), sample["item"]) for sample in samples] == [
            (sample["answer"], sample["item"]) for sample in samples
        ]
        reply = served.client.chat.completions.create(
            model="champion", messages=samples[0]["turns"], max_tokens=12, extra_body={"temperature": 0}
        )
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == samples[0]["prompt_tokens"]
        stream = served.client.chat.completions.create(
            model="champion", messages=samples[-1]["turns"], max_tokens=12, stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert text.strip() == samples[-1]["answer"].removesuffix("\ufffd")  # half a character is not sent
        with pytest.raises(openai.NotFoundError, match="looks up passages or examples"):
            served.client.completions.create(model="champion", prompt="Malta?", max_tokens=2)


def test_llama_cpp_is_sent_what_is_looked_up(shop: Trained, tmp_path: Path) -> None:
    """Its answers begin as those of transformers in 32 bit, and it counts the tokens of the scored prompt."""
    with_gguf = ServedShop(shop, tmp_path / "shop")
    with_gguf.add_gguf("lora")
    row, merged = "lora/merged+passages", shop.inputs["lora"]["merged_model"].path
    prompt = write_served_folder(shop.store, find_model(shop.store, row), tmp_path / "served").prompt
    assert prompt is not None
    with client_of(with_gguf, row, tmp_path) as client:
        for sample in scored(shop, row):
            reply = client.chat.completions.create(model=row, messages=sample["turns"], max_tokens=12)
            expected = answer(merged, prompt.prepend_to(sample["turns"]), 12)
            text = (reply.choices[0].message.content or "").strip()
            assert text.startswith(expected[: max(len(expected) - 3, 1)])
            assert reply.usage is not None and reply.usage.prompt_tokens == sample["prompt_tokens"]


def test_the_record_is_json_and_names_what_is_served(shop: Trained) -> None:
    release(shop, "lora/merged+nearest")
    record = find_model(shop.store, "champion").record
    assert record is not None
    document = json.loads(json.dumps(record.model_dump()))
    assert document["evidence"]["served"]["prompting"] == {"variants": {"nearest": VARIANTS["nearest"]}}
    assert document["fingerprints"]["conversations"] == shop.conversations.fingerprint
