"""A tuned model with passages, from the settings to the server: compared, released, served, and frozen."""

import json
from pathlib import Path
from typing import Any

import openai
import pyarrow.parquet as pq
import pytest
import yaml

from ft_pipeline_tests.end_to_end.project import current, ft, ft_in_turn, small_project
from ft_pipeline_tests.serving.test_serving import serving

pytestmark = pytest.mark.long
ROW = "qlora/merged+passages"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose tuned model is also scored with passages, after its first run."""
    root = small_project(tmp_path_factory.mktemp("prompted") / "shop")
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    settings["prompting"] = {
        "variants": {"passages": {"system_prompt": "Use this: {passages}", "passages": 1, "passage_words": 40}},
        "tuned_with": ["passages"],
    }
    settings["evaluation"]["batch_size"] = 1
    (root / "project.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    assert ft(root, "run", "--experiment", "qlora").returncode == 0
    return root


def talks_of(shop: Path) -> dict[str, list[dict[str, Any]]]:
    rows = pq.read_table(current(shop, "conversations").path / "rows.parquet").to_pylist()
    return {row["id"]: row["messages"] for row in rows}


def samples_of(shop: Path, name: str) -> list[dict[str, Any]]:
    """The samples of a row of the current comparison."""
    samples = pq.read_table(current(shop, "comparison").path / "samples.parquet").to_pylist()
    return [sample for sample in samples if sample["name"] == name]


def prompts_of(shop: Path, name: str) -> dict[str, str]:
    """Test item → the prompt of a row."""
    return {sample["item"]: sample["prompt"] for sample in samples_of(shop, name)}


def test_a_released_model_with_passages_is_served_as_scored_and_stays(shop: Path) -> None:
    compared, promoted = ft_in_turn(shop, ("compare",), ("promote", ROW, "--force", "--reason", "it looks facts up"))
    rows = {row["name"]: row for row in compared[1]["rows"]}
    assert rows[ROW]["passages"] == 1 and rows[ROW]["kind"] == "merged"
    kept = {claim["row"]: claim["facts"] for claim in compared[1]["claims"] if claim["kind"] == "general"}
    assert kept[ROW]["lost"] == kept["qlora/merged"]["lost"]
    record = promoted[1]
    text = current(shop, "text").fingerprint
    assert (record["name"], record["fingerprints"]["text"]) == (ROW, text)
    assert record["evidence"]["served"]["variant"] == "passages"

    talks = talks_of(shop)
    before = prompts_of(shop, ROW)
    with (shop / "data" / "raw" / "text" / "help_centre.jsonl").open("a", encoding="utf-8") as file:
        for talk, turn in (item.rsplit(":", 1) for item in before):  # nearer to each question than any other text
            asked = " ".join(message["content"] for message in talks[talk][: int(turn)] if message["role"] == "user")
            file.write(json.dumps({"text": " ".join(reversed(asked.split()))}) + "\n")
    run, verified = ft_in_turn(shop, ("run", "--experiment", "qlora"), ("audit", "--verify"))
    assert run[0] == 0 and run[1]["champion"]["sequence"] == record["sequence"]
    assert verified[0] == 0
    assert current(shop, "text").fingerprint != text
    assert prompts_of(shop, "champion") == before, "the champion is scored with the texts of its release"
    assert prompts_of(shop, ROW) != before

    samples = samples_of(shop, "champion")
    with serving(shop, "champion") as served:
        for sample in samples[:4]:
            talk, turn = sample["item"].rsplit(":", 1)
            turns = [{"role": m["role"], "content": m["content"]} for m in talks[talk][: int(turn)]]
            reply = served.client.chat.completions.create(
                model="champion",
                messages=turns,
                max_tokens=sample["generated_tokens"],  # type: ignore[arg-type]
            )
            assert (reply.choices[0].message.content or "").strip() == sample["answer"]
            assert reply.usage is not None and reply.usage.prompt_tokens == sample["prompt_tokens"]
        with pytest.raises(openai.NotFoundError, match="looks up passages or examples"):
            served.client.completions.create(model="champion", prompt="Hello", max_tokens=2)


def test_an_export_says_what_is_not_in_the_weights(shop: Path, tmp_path: Path) -> None:
    plain, with_texts = tmp_path / "plain", tmp_path / "texts"
    result = ft(shop, "export", ROW, str(plain))
    assert result.returncode == 0
    assert "Its examples or passages are not in the weights" in result.stdout.replace("\n", " ")
    assert "**Not in the weights:** the nearest passage of data/raw/text" in (plain / "README.md").read_text(
        encoding="utf-8"
    )
    assert json.loads((plain / "prompt.json").read_text(encoding="utf-8"))["passages"] == 1
    assert not (plain / "passages.jsonl").exists()
    assert ft(shop, "export", ROW, str(with_texts), "--with-texts").returncode == 0
    passages = (with_texts / "passages.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(passages) > 1 and "passages.jsonl" in (with_texts / "SHA256SUMS").read_text(encoding="utf-8")
    refused = ft(shop, "export", "qlora", str(tmp_path / "none"), "--with-texts")
    assert refused.returncode == 2 and "has no prompt variant" in refused.stderr
