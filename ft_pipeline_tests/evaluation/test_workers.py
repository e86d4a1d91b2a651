"""prompt_baseline and scores as the worker runs them: real lm-eval, a tiny model, a real adapter."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.decide.build import build_comparison
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.rivals.score import run as score_rivals
from ft_pipeline.evaluation.scoring import prompt_baseline, tuned_scores
from ft_pipeline.job import Job
from ft_pipeline_tests.distillation.fault_server import answer_to, serving
from ft_pipeline_tests.evaluation.conftest import CONVERSATIONS, JobMaker, conversation, job_maker

VARIANTS = {"variants": {"few_shot": {"system_prompt": "Be brief.", "few_shot": 2}}}
COMPARISON_CONFIG = {"primary_metric": "loss"}


def read(job: Job, name: str) -> list[dict[str, Any]]:
    return pq.read_table(job.out / f"{name}.parquet").to_pylist()


@pytest.fixture(scope="module")
def make_shared_job(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, conversations: Path) -> JobMaker:
    """As make_job. Its jobs run once; no test changes them."""
    return job_maker(tmp_path_factory.mktemp("workers"), tiny_base, conversations)


@pytest.fixture(scope="module")
def baseline(make_shared_job: JobMaker) -> Job:
    job = make_shared_job("prompt_baseline", "baseline", prompting=VARIANTS)
    prompt_baseline.run(job)
    return job


@pytest.fixture(scope="module")
def tuned(make_shared_job: JobMaker, tiny_adapter: Path, tiny_merged: Path) -> Job:
    inputs = {"adapter": tiny_adapter, "merged_model": tiny_merged}
    job = make_shared_job("scores", "tuned", inputs, technique="lora", quantization=None, system_prompt="Be brief.")
    tuned_scores.run(job)
    return job


def test_the_prompt_baseline_scores_the_base_model_and_every_variant(baseline: Job) -> None:
    rows = json.loads((baseline.out / "scores.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["name"], row["kind"]) for row in rows] == [("plain", "base"), ("few_shot", "prompt")]
    of_answers = {"nats_per_byte", "loss", "stop_nats", "chrf", "rouge_l", "exact_match", "length_ratio"}
    assert set(rows[0]["scores"]) == {*of_answers, "general_accuracy", "general_nats_per_byte"}
    assert set(rows[1]["scores"]) == of_answers
    assert rows[1]["prompt_tokens_per_call"] > rows[0]["prompt_tokens_per_call"]
    assert rows[0]["fingerprint"] == rows[1]["fingerprint"]
    assert rows[0]["general"]["accuracy"] == rows[0]["scores"]["general_accuracy"]["value"]
    assert {sample["name"] for sample in read(baseline, "samples")} == {"plain", "few_shot"}
    assert [record["kind"] for record in read(baseline, "general")] == ["question"] * 2 + ["text"] * 2


def test_the_best_use_of_the_base_model_is_scored_twice_in_other_batches(
    baseline: Job, make_shared_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, first = read(baseline, "second"), read(baseline, "samples")
    [name] = {record["name"] for record in second}
    rows = json.loads((baseline.out / "scores.json").read_text(encoding="utf-8"))["rows"]
    assert name == min(rows, key=lambda row: row["scores"]["nats_per_byte"]["value"])["name"]
    by_item = {sample["item"]: sample for sample in first if sample["name"] == name}
    assert [record["item"] for record in second] == list(by_item)
    for record in second:
        assert record["content_nats"] == pytest.approx(by_item[record["item"]]["content_nats"], rel=1e-3)
        assert not {"answer", "prompt", "reference"} & record.keys() and isinstance(record["differs"], bool)
    sizes: list[int] = []
    loaded = prompt_baseline.LoadedLM
    monkeypatch.setattr(prompt_baseline, "LoadedLM", lambda *args: sizes.append(args[2]) or loaded(*args))
    monkeypatch.setattr(prompt_baseline, "MOST_ITEMS", 3)
    job = make_shared_job("prompt_baseline", "sizes", prompting={"variants": {}})
    prompt_baseline.run(job)
    [size] = sizes
    assert size != baseline.config["evaluation"]["batch_size"] and len(read(job, "second")) == 3


def test_the_loss_of_a_row_equals_that_of_its_samples(baseline: Job) -> None:
    rows = json.loads((baseline.out / "scores.json").read_text(encoding="utf-8"))["rows"]
    samples = [sample for sample in read(baseline, "samples") if sample["name"] == "plain"]
    assert len(samples) == 4
    total = sum(sample["loss_sum"] for sample in samples) / sum(sample["answer_tokens"] for sample in samples)
    assert rows[0]["scores"]["loss"]["value"] == pytest.approx(total)
    assert all(sample["generated_tokens"] <= 8 for sample in samples)
    assert rows[0]["cut_off"] == sum(sample["finish_reason"] == "length" for sample in samples)


def test_nats_per_byte_leave_out_the_end_of_the_turn_and_count_bytes(baseline: Job) -> None:
    row = json.loads((baseline.out / "scores.json").read_text(encoding="utf-8"))["rows"][0]
    samples = [sample for sample in read(baseline, "samples") if sample["name"] == "plain"]
    for sample in samples:  # the target is the reference and its stop token
        assert sample["content_nats"] + sample["stop_nats"] == pytest.approx(sample["loss_sum"])
        assert sample["content_bytes"] == len(sample["reference"].encode())
        assert sample["answer_bytes"] == len(sample["answer"].encode())
    total = sum(sample["content_nats"] for sample in samples) / sum(sample["content_bytes"] for sample in samples)
    assert row["scores"]["nats_per_byte"]["value"] == pytest.approx(total)


def test_the_validation_rows_are_scored_by_likelihood_alone(baseline: Job, tuned: Job) -> None:
    expected = [row["id"] for row in CONVERSATIONS if row["split"] == "validation"]
    for job, names in ((baseline, {"plain", "few_shot"}), (tuned, {"adapter", "merged"})):
        records = read(job, "validation")
        assert {record["name"] for record in records} == names
        assert [record["group"] for record in records if record["name"] == records[0]["name"]] == expected
        assert all(record["content_nats"] > 0 and record["content_bytes"] == 30 for record in records)


def test_a_second_tokenizer_may_write_as_much_text(make_job: JobMaker, tiny_base: Path, tmp_path: Path) -> None:
    letters = Path(shutil.copytree(tiny_base, tmp_path / "letters"))  # the same model, but no merges: longer answers
    tokenizer = json.loads((letters / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["merges"] = []
    (letters / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    inputs = {"base_model": letters, "project_base": tiny_base}
    [row] = prompt_baseline.run(make_job("prompt_baseline", "letters", inputs, prompting={"variants": {}}))["rows"]
    [own] = prompt_baseline.run(make_job("prompt_baseline", "own", prompting={"variants": {}}))["rows"]
    assert (own["max_new_tokens"], row["max_new_tokens"] > 12) == (8, True)
    assert row["fingerprint"] == own["fingerprint"]  # they may be compared


def test_without_a_setting_the_reference_answers_limit_the_length(
    make_job: JobMaker, tmp_path: Path, tokenizer: Any
) -> None:
    def limit(answer: str) -> int:
        folder = tmp_path / str(len(answer))
        folder.mkdir()
        rows = [conversation("test", f"Where is parcel {number}?", answer) for number in range(4)]
        pq.write_table(pa.Table.from_pylist([*CONVERSATIONS[:2], *rows]), folder / "rows.parquet")
        job = make_job("prompt_baseline", folder.name, {"conversations": folder}, prompting={"variants": {}})
        job.config["evaluation"]["max_new_tokens"] = None
        return int(prompt_baseline.run(job)["rows"][0]["max_new_tokens"])

    assert limit("late") == 16
    text = "Please send the new address. " * 3
    assert limit(text) == math.ceil((len(tokenizer(text.strip(), add_special_tokens=False)["input_ids"]) + 1) * 4 / 3)


def test_progress_ends_at_its_total(baseline: Job) -> None:
    steps = baseline.report.steps  # type: ignore[attr-defined]
    assert (
        steps[-1][0] == steps[-1][1] == 2 * (2 * 4 + 1) + 5 + 2 + 2 * 4
    )  # the best use of the base model is scored twice
    assert steps == sorted(steps)


def test_a_restart_scores_only_what_is_missing(baseline: Job, make_job: JobMaker, tmp_path: Path) -> None:
    shutil.copytree(baseline.out.parent, tmp_path / "baseline")
    (tmp_path / "baseline" / "work" / "scored_few_shot.json").unlink()
    before = (baseline.out / "scores.json").read_text(encoding="utf-8")
    restarted = make_job("prompt_baseline", "baseline", prompting=VARIANTS)
    prompt_baseline.run(restarted)
    lines = restarted.report.lines  # type: ignore[attr-defined]
    assert [line.split(":")[0] for line in lines] == ["scoring few_shot"]
    after = json.loads((restarted.out / "scores.json").read_text(encoding="utf-8"))
    assert after["rows"][0] == json.loads(before)["rows"][0]
    assert after["rows"][1]["scores"] == json.loads(before)["rows"][1]["scores"]


def test_adapter_and_merged_model_are_both_scored(tuned: Job, tiny_adapter: Path) -> None:
    rows = json.loads((tuned.out / "scores.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["name"], row["kind"]) for row in rows] == [("adapter", "adapter"), ("merged", "merged")]
    # Two layers, q and v: 4 x (64 + 64) + 4 x (64 + 32).
    assert rows[0]["model"]["trainable_params"] == 2 * (4 * 128 + 4 * 96)
    assert rows[0]["scores"]["loss"]["value"] == pytest.approx(rows[1]["scores"]["loss"]["value"], abs=0.02)
    assert all("general_accuracy" in row["scores"] for row in rows)


def test_a_qlora_adapter_is_scored_on_the_4_bit_base(
    tuned: Job, make_job: JobMaker, tiny_adapter: Path, tiny_merged: Path
) -> None:
    inputs = {"adapter": tiny_adapter, "merged_model": tiny_merged}
    four_bit = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    job = make_job("scores", "qlora", inputs, technique="qlora", quantization=four_bit, system_prompt="Be brief.")
    adapter, merged = tuned_scores.run(job)["rows"]
    of_lora, merged_before = json.loads((tuned.out / "scores.json").read_text(encoding="utf-8"))["rows"]
    assert adapter["scores"]["loss"]["value"] != pytest.approx(of_lora["scores"]["loss"]["value"], abs=1e-4)
    assert merged["scores"]["loss"] == merged_before["scores"]["loss"]


def test_baseline_and_tuned_scores_can_be_compared(baseline: Job, tuned: Job, tmp_path: Path) -> None:
    inputs = {"lora/prompt_baseline": baseline.out, "lora/scores": tuned.out, "other/prompt_baseline": baseline.out}
    summary = build_comparison(inputs, COMPARISON_CONFIG, tmp_path)
    assert sorted(summary["rows"]) == ["base", "few_shot", "lora/adapter", "lora/merged"]
    assert summary["left_out"] == []
    document = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert document["test_rows"] == 3
    leads = [claim for claim in document["claims"] if claim["kind"] == "lead" and "value" in claim]
    assert len([lead for lead in leads if lead["measure"] == "general_accuracy"]) == 3
    assert pq.read_table(tmp_path / "samples.parquet").num_rows == 4 * 4


@pytest.fixture
def hosted(make_job: JobMaker) -> Iterator[Job]:
    """The scored teacher of an endpoint."""
    with serving(latency=0.01) as server:
        teacher = server.teacher(system_prompt="Be brief.").model_dump(mode="json", exclude={"max_new_tokens"})
        prices = {"input_per_million": 1000.0, "output_per_million": 0.0}
        job = make_job("teacher_scores", "teacher", teacher=teacher, name="big-teacher", prices=prices)
        score_rivals(job)
        assert {(body["max_tokens"], body["temperature"]) for body in server.bodies} == {(8, 0.0)}
        assert all(body["messages"][0] == {"role": "system", "content": "Be brief."} for body in server.bodies)
        assert server.requests == 4
        score_rivals(job)
        assert server.requests == 4
        yield job


def test_a_hosted_teacher_is_scored_by_its_answers_and_compared(hosted: Job, baseline: Job, tmp_path: Path) -> None:
    (row,) = json.loads((hosted.out / "scores.json").read_text(encoding="utf-8"))["rows"]
    plain = json.loads((baseline.out / "scores.json").read_text(encoding="utf-8"))["rows"][0]
    assert row["fingerprint"] == plain["fingerprint"]
    assert set(row["scores"]) == {"chrf", "rouge_l", "exact_match", "length_ratio"}
    assert (row["kind"], row["prompt_tokens_per_call"], row["cost_per_call"]) == ("teacher", 20, pytest.approx(0.02))
    assert row["seconds_per_call"] > 0.009
    assert row["model"]["endpoint_host"].startswith("127.0.0.1:")
    samples, plain_samples = (
        read(hosted, "samples"),
        [sample for sample in read(baseline, "samples") if sample["name"] == "plain"],
    )
    for key in ("item", "group", "reference", "answer_tokens"):
        assert sorted(sample[key] for sample in samples) == sorted(sample[key] for sample in plain_samples)
    assert all(answer_to(sample["prompt"].split("\n\n")[-1]) == sample["answer"] for sample in samples)
    inputs = {
        "lora/prompt_baseline": baseline.out,
        "lora/teacher_scores": hosted.out,
        "other/teacher_scores": hosted.out,
    }
    build_comparison(inputs, COMPARISON_CONFIG, tmp_path)
    document = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert sorted(row["name"] for row in document["rows"]) == ["base", "few_shot", "teacher"]
    last = document["rows"][-1]
    assert (last["kind"], last["experiment"], last["general"]) == ("teacher", None, None)
    assert set(last["scores"]) == {"chrf", "rouge_l", "exact_match", "length_ratio"}
    leads = [claim for claim in document["claims"] if claim["kind"] == "lead" and "value" in claim]
    of_teacher = [lead for lead in leads if "teacher" in (lead["row"], lead["rival"])]
    assert Counter(lead["measure"] for lead in of_teacher) == dict.fromkeys(last["scores"], 2)
    assert "| teacher |" in (tmp_path / "comparison.md").read_text(encoding="utf-8")


def test_a_local_teacher_is_scored_too(make_job: JobMaker, tiny_merged: Path, tiny_base: Path) -> None:
    teacher_folder = tiny_merged.parent / "with_tokenizer"
    shutil.copytree(tiny_base, teacher_folder)
    shutil.copy(tiny_merged / "model.safetensors", teacher_folder)
    inputs = {"teacher_model": teacher_folder}
    prices = {"input_per_million": 0.0, "output_per_million": 0.0}
    job = make_job("teacher_scores", "local", inputs, teacher={"few_shot": 1}, name="other", prices=prices)
    (row,) = score_rivals(job)["rows"]
    assert (row["kind"], row["cost_per_call"], row["model"]["endpoint_host"]) == ("teacher", None, None)
    assert row["prompt_tokens_per_call"] > 20


def test_an_empty_test_split_raises_a_clear_error(make_job: JobMaker, tmp_path: Path, conversations: Path) -> None:
    table = pq.read_table(conversations / "rows.parquet")
    (tmp_path / "none").mkdir()
    pq.write_table(table.slice(0, 2), tmp_path / "none" / "rows.parquet")
    job = make_job("prompt_baseline", inputs={"conversations": tmp_path / "none"}, prompting={"variants": {}})
    with pytest.raises(UserError, match="None of the 2 conversations is in the test split"):
        prompt_baseline.run(job)


def test_scoring_works_without_a_general_suite(make_job: JobMaker) -> None:
    job = make_job("prompt_baseline", prompting={"variants": {}}, general_questions=[], general_texts=[])
    [row] = prompt_baseline.run(job)["rows"]
    assert row["general"] is None
    assert read(job, "general") == []
