"""An erased row is followed into every copy, table, artifact, log and message, in any script and any form."""

import asyncio
import contextlib
import csv
import gzip
import html
import io
import json
import lzma
import shutil
import sqlite3
import threading
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from rich.console import Console

from ft_pipeline.distillation.answer_table import ANSWERS, answer_row
from ft_pipeline.erasure import erase as erasing
from ft_pipeline.erasure import raw_copies
from ft_pipeline.erasure.commands import show_erasure
from ft_pipeline.erasure.erase import ErasureResult, erase
from ft_pipeline.erasure.file_kinds import treatment_of
from ft_pipeline.erasure.raw_files import read_raw_rows
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.scoring.prompt_sources import shown_texts
from ft_pipeline.evaluation.scoring.retrieval import split_into_passages
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.models.endpoint.answer_log import AnswerLog
from ft_pipeline.models.endpoint.rate_limits import TokenEstimate
from ft_pipeline.models.endpoint.responses import Failure, Reply
from ft_pipeline.project import Project
from ft_pipeline.release.report.answers import escape_invisible
from ft_pipeline.sources.local_folder import snapshot_folder
from ft_pipeline.sources.snapshot import Snapshot, write_listing
from ft_pipeline.store.artifact_redaction import read_redactions
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.locks import project_lock
from ft_pipeline.store.text_redaction import ErasedTexts, UnknownFile
from ft_pipeline.tables.reading.sidecar import PLAIN
from ft_pipeline_tests.audit.shop import ALPACA, SHAREGPT, Shop
from ft_pipeline_tests.erasure.traces import kinds_of, traces

PEOPLE = {
    "english": (
        "I am Oswin Tarrant-Pell and I live at 9 Quillon Yard; my late aunt's clock never came, so where is it now?",
        "Dear Oswin, the clock left our Harwell depot on Monday & should reach Quillon Yard by Friday noon at last.",
    ),
    "quoted": (
        'They call me "Bérénice <b> O\'Malley & Söhne",\nPostfach 77, Größdorf: wo bleibt mein Paket mit dem Teppich?',
        "Liebe Bérénice O'Malley,\tIhr Päckchen liegt in Größdorf \\ Halle 3 und wird morgen früh um 8 Uhr zugestellt.",
    ),
    "hindi": (
        "मेरा नाम अनुष्का त्रिवेदी है और मैं लखनऊ के पुराने बाज़ार में रहती हूँ, मेरी घड़ी अभी तक क्यों नहीं पहुँची है?",
        "प्रिय अनुष्का त्रिवेदी, आपकी घड़ी कल सुबह लखनऊ के गोदाम से निकली है और शुक्रवार तक पुराने बाज़ार पहुँच जाएगी।",
    ),
    "tamil": (
        "என் பெயர் கார்த்திகேயன் சுந்தரம், நான் மதுரை வடக்கு மாசி வீதியில் வசிக்கிறேன், என் கடிகாரம் எங்கே இருக்கிறது?",
        "அன்புள்ள கார்த்திகேயன் சுந்தரம், உங்கள் கடிகாரம் நாளை மறுநாள் மதுரை கிளையில் இருந்து உங்களுக்கு வந்து சேரும்.",
    ),
    "chinese": (
        "我叫欧阳靖雯，住在成都市锦江区梨花街十七号，我上个月订购的那只黄铜座钟为什么到现在还没有送到我家里来？",
        "欧阳靖雯女士您好，您的黄铜座钟已于周一从仓库发出，预计本周五之前会送到锦江区梨花街十七号，请您耐心等待。",
    ),
}
FILE = "people.jsonl"


def person(name: str) -> dict[str, str]:
    return dict(zip(("instruction", "output"), PEOPLE[name], strict=True))


def erase_person(shop: Shop, row: int = 1, file: str = FILE) -> ErasureResult:
    return erase(Project(shop.root), shop.raw("alpaca", file), [row], "request 99")


def origins(result: ErasureResult) -> list[str]:
    return sorted(f"{row['format']}/{row['file']}:{row['row']}" for row in result.rows)


def identity_of(path: Path, number: int) -> str:
    """The id of a row of a raw file."""
    rows = read_raw_rows(path, path.name, path.parent.name, PLAIN, path.parent)
    return next(row.identity for row in rows if row.number == number)


def nearly(row: dict[str, str]) -> dict[str, str]:
    """A near duplicate: other case and punctuation, and one more word."""
    return {**row, "instruction": row["instruction"].upper().rstrip("?") + " !", "output": row["output"] + " ok"}


# --- copies -----------------------------------------------------------------------------------------------------------


def usual(*names: str) -> list[Any]:
    """All texts; those that are not named are long.

    "quoted" has characters that are escaped, "tamil" letters of several characters, and "chinese" no spaces.
    """
    return [name if name in names else pytest.param(name, marks=pytest.mark.long) for name in PEOPLE]


@pytest.mark.parametrize("name", usual("chinese"))
def test_near_copies_are_erased_in_every_format(shop: Shop, name: str) -> None:
    row = person(name)
    asked, answered = row["instruction"], row["output"]
    shop.write("alpaca", FILE, [row])
    shop.write("alpaca", "near.jsonl", [ALPACA[0], nearly(row)])
    turns = [
        {"from": "human", "value": "Good day to you, is this the clock department?"},
        {"from": "gpt", "value": "It is, and what can we do for you?"},
        {"from": "human", "value": asked},
        {"from": "gpt", "value": answered},
    ]
    shop.write("sharegpt", "long.jsonl", [{"conversations": turns}])
    shop.write("text", "letters.jsonl", [{"text": f"A letter:\n{asked}\nThe reply:\n{answered}\nEnd of the file."}])
    pair = {"prompt": asked, "chosen": answered, "rejected": "We do not know where your clock is."}
    shop.write("preferences", "pairs.jsonl", [pair])
    shop.write("unlabelled", "inbox.jsonl", [{"prompt": asked}, {"prompt": "Which clocks do you sell at present?"}])
    shop.materialize()
    result = erase_person(shop)
    assert origins(result) == [
        "alpaca/near.jsonl:2",
        "alpaca/people.jsonl:1",
        "preferences/pairs.jsonl:1",
        "sharegpt/long.jsonl:1",
        "text/letters.jsonl:1",
        "unlabelled/inbox.jsonl:1",
    ]
    assert read_redactions(shop.store.root)[0].rows == result.rows
    assert traces(shop.root, asked, answered, nearly(row)["instruction"]) == []
    messages = pq.read_table(shop.materialize()["conversations"].path / "rows.parquet")["messages"].to_pylist()
    said = [turn["content"] for turns in messages for turn in turns]
    assert ALPACA[0]["output"] in said and not {asked, answered, nearly(row)["instruction"]} & set(said)


def test_rows_that_share_only_a_question_or_a_beginning_stay(shop: Shop) -> None:
    """A common question, a common answer and a sentence with which the erased one begins belong to other people too."""
    question = "How long does a parcel to the islands take in winter?"
    rows = [
        {"instruction": question, "output": "Dear Philippa Umber, yours takes nine days to Unst."},
        {"instruction": question, "output": "Up to two weeks, if the ferries run."},
        {"instruction": "Dear Philippa Umber", "output": "Please say what you need from us."},
        {"instruction": "How do I return a heavy rug?", "output": "Dear Philippa Umber, yours"},
    ]
    shop.write("text", "handbook.jsonl", [{"text": rows[0]["output"]}])
    shop.write("alpaca", FILE, rows)
    shop.write("unlabelled", "inbox.jsonl", [{"prompt": question}])
    before = shop.materialize()["alpaca"].path / "rows.parquet"
    prompt = {"id": identity_of(shop.raw("unlabelled", "inbox.jsonl"), 1), "file": "inbox.jsonl", "row": 1}
    answer = {**prompt, "answer": "It depends on the ferry and on the weather.", "request_id": "r1"}
    answered = shop.put("teacher_answers", None, {}, {}, {"answers.parquet": _table([answer])})
    result = erase_person(shop)
    assert origins(result) == ["alpaca/people.jsonl:1"]
    assert pq.read_table(answered.path / "answers.parquet").to_pylist() == [answer]
    assert result.also == ["alpaca/people.jsonl:2", "text/handbook.jsonl:1", "unlabelled/inbox.jsonl:1"]
    people, handbook, inbox = (
        f"data/raw/{name}" for name in ("alpaca/people.jsonl", "text/handbook.jsonl", "unlabelled/inbox.jsonl")
    )
    assert result.stays == [
        {"text": question, "rows": [{"file": people, "row": 2}, {"file": inbox, "row": 1}], "more": 0},
        {"text": rows[0]["output"], "rows": [{"file": handbook, "row": 1}], "more": 0},
    ]
    shown = _shown(result)
    assert f"“{question}” stays, because other rows or files have it, too" in shown
    assert f"ft erase {people} 2 --reason TEXT" in shown and f"ft erase {handbook} 1 --reason TEXT" in shown
    kept = [row for row in pq.read_table(before).to_pylist() if row["file"] == FILE][1:]
    assert [(row["instruction"], row["output"]) for row in kept] == [(r["instruction"], r["output"]) for r in rows[1:]]


def _shown(result: ErasureResult) -> str:
    with io.StringIO() as output:
        show_erasure(Console(file=output, width=400), result)
        return output.getvalue()


def test_a_text_that_many_rows_and_settings_share_is_named_with_its_places(shop: Shop) -> None:
    question = "Which <b>[bold]</b> clocks does Oswin sell?"
    rows = [{"instruction": question, "output": f"Clock number {at} and the {at + 1}th."} for at in range(60)]
    shop.write("alpaca", FILE, rows)
    (shop.root / "experiments").mkdir()
    (shop.root / "experiments" / "qlora.yaml").write_text(f"# {question}\n", encoding="utf-8")
    log = [logged("a", question, "None at all, sadly."), logged("b", question, "Only the tall ones.")]
    shop.write("traces", "log.jsonl", log)
    result = erase_person(shop)
    (text,) = result.stays
    assert text["text"] == question and len(text["rows"]) + text["more"] == 59 + 2 + 1
    shown = _shown(result)
    assert f"ft erase data/raw/alpaca/{FILE} 2 3 4" in shown
    assert "and 12 more" in shown
    shop.write("alpaca", FILE, rows[:1])
    shown = _shown(erase_person(shop))
    assert "ft erase data/raw/traces/log.jsonl 1 2 --reason TEXT" in shown
    assert "  edit experiments/qlora.yaml\n" in shown


def test_a_broken_line_that_repeats_the_row_is_erased(shop: Shop) -> None:
    row = person("hindi")
    broken = json.dumps(row)[:-1]  # \u escapes, and no closing brace
    path = shop.write("alpaca", FILE, [row])
    path.write_text(path.read_text(encoding="utf-8") + broken + "\n", encoding="utf-8")
    shop.materialize()
    assert origins(erase_person(shop)) == ["alpaca/people.jsonl:1", "alpaca/people.jsonl:2"]
    assert traces(shop.root, *row.values(), "अनुष्का") == []


@pytest.mark.parametrize("name", usual("tamil"))
def test_copies_that_are_cut_off_or_contain_control_characters_are_erased(shop: Shop, name: str) -> None:
    row = person(name)
    with_nul = {**row, "output": row["output"][:9] + "\0" + row["output"][9:]}
    path = shop.write("alpaca", FILE, [row, with_nul])
    cut_off = json.dumps(row, ensure_ascii=False)[:-30]
    path.write_text(path.read_text(encoding="utf-8") + cut_off + "\n", encoding="utf-8")
    shop.materialize()
    assert origins(erase_person(shop)) == [f"alpaca/people.jsonl:{number}" for number in (1, 2, 3)]
    assert traces(shop.root, *row.values()) == []


def test_rows_with_all_short_turns_of_the_row_are_listed(shop: Shop) -> None:
    """They are too short to say that the row is the same person's."""
    shop.write("alpaca", FILE, [{"instruction": "我叫张伟明", "output": "好的"}])
    turns = ["我叫张伟明", "好的", "谢谢", "不客气,再见。"]
    longer = [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(turns)]
    shop.write("sharegpt", "chats.jsonl", [*SHAREGPT, {"conversations": longer}])
    shop.materialize()
    assert f"sharegpt/chats.jsonl:{len(SHAREGPT) + 1}" in erase_person(shop).also


@pytest.mark.parametrize(
    ("hidden", "note"),
    [
        ("utf-16.jsonl", "still contains a text"),
        ("packed.jsonl.xz", "was not searched (it is packed with xz)"),
        pytest.param("packed.jsonl.lzma", "was not searched (it is packed with lzma)", marks=pytest.mark.long),
        ("cut.jsonl.gz", "was not searched (the gzip stream is cut off"),
        ("cut.json", "cannot be read row by row"),
    ],
)
def test_raw_files_that_cannot_be_read_are_named_with_their_kept_copies(shop: Shop, hidden: str, note: str) -> None:
    row = person("english")
    shop.write("alpaca", FILE, [row])
    content = {
        "utf-16.jsonl": json.dumps(row).encode("utf-16"),
        "packed.jsonl.xz": lzma.compress(json.dumps(row).encode()),
        "packed.jsonl.lzma": lzma.compress(json.dumps(row).encode(), lzma.FORMAT_ALONE),
        "cut.jsonl.gz": gzip.compress(json.dumps(row).encode())[:-4],
        "cut.json": json.dumps([row, row])[:-1].replace("O", "\\u004f").encode(),
    }
    shop.raw("alpaca", hidden).write_bytes(content[hidden])
    with contextlib.suppress(Exception):  # a run stops at such a file, after its copy was kept
        shop.materialize()
    notes = " ".join(erase_person(shop).notes)
    assert f"data/raw/alpaca/{hidden} {note}" in notes
    snapshots = ArtifactIndex(shop.store.root).all("raw_alpaca")
    kept = {entry["name"] for snapshot in snapshots for entry in snapshot.config["files"] if entry.get("sha256")}
    assert hidden not in kept or f"the kept copy of {hidden}" in notes


# --- fragments --------------------------------------------------------------------------------------------------------


def test_what_a_parser_quotes_of_the_row_is_erased(shop: Shop) -> None:
    """The message quotes the middle of the line, where no text of the row begins."""
    line = '{"instruction": "I am Ottokar Zwiebelhorn", "output": "Welcome Otto" "extra": "Zwiebelhorn-Str. 3"}'
    path = shop.write("alpaca", FILE, [ALPACA[0]])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    made = shop.materialize()["alpaca"].path
    shop.put("quarantine", None, {}, {}, {"notes.json": b"{}"}, {"message": _message(made)})
    assert "Welcome Otto" in _message(made)
    erase_person(shop, row=2)
    assert _message(made) == "[forgotten]"
    assert traces(shop.root, "Zwiebelhorn", "Welcome Otto", "lcome Otto") == []


def _message(table: Path) -> str:
    return next(
        row["message"]
        for row in pq.read_table(table / "set_aside.parquet").to_pylist()
        if row["code"] != "empty_output"
    )


def test_short_texts_are_erased(shop: Shop) -> None:
    """Too short to be searched for everywhere, but they belong to the row: in cells, previews, messages and logs."""
    shop.write(
        "alpaca", FILE, [{"instruction": "Zoë Åberg", "output": "7 Rue Bac"}, {"instruction": "Hm", "output": 5}]
    )
    artifacts = shop.materialize()
    shown = {"rows": [{"instruction": "Zoë Åberg", "output": "7 Rue Bac"}], "text": "seen: Zoë Åberg, at 7 Rue Bac."}
    shop.put("report", None, {"alpaca": artifacts["alpaca"]}, {}, {"a.json": json.dumps(shown).encode()}, shown)
    assert {row["instruction"] for row in artifacts["alpaca"].summary["preview"]} >= {"Zoë Åberg"}
    erase_person(shop)
    assert traces(shop.root, "Zoë", "Åberg", "7 Rue Bac") == []


def test_an_older_snapshot_under_another_format_is_redacted(shop: Shop) -> None:
    row = person("tamil")
    path = shop.write("sharegpt", FILE, [SHAREGPT[0], row])  # of the wrong format, so that it was set aside
    shop.materialize()
    path.unlink()
    shop.write("alpaca", FILE, [row])
    shop.materialize()
    erase_person(shop)
    assert traces(shop.root, *row.values()) == []


@pytest.mark.parametrize(
    "suffix", ["csv", "parquet", *(pytest.param(suffix, marks=pytest.mark.long) for suffix in ("json", "jsonl"))]
)
def test_every_container_is_redacted_in_the_store_too(shop: Shop, suffix: str) -> None:
    """The snapshot of the file, in which the row has another number, and the system prompt of all rows stays."""
    system = "You answer in the language of the question."
    rows = [{**row, "system": system} for row in (ALPACA[0], person("quoted"), ALPACA[1])]
    path = shop.raw("alpaca", f"people.{suffix}")
    for kept in (rows, rows[1:]):
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(kept), path)
        elif suffix == "csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(kept)
        elif suffix == "json":
            path.write_text(json.dumps(kept, indent=2), encoding="utf-8")
        else:
            shop.write("alpaca", path.name, kept)
        shop.materialize()
    result = erase_person(shop, row=1, file=path.name)
    assert result.raw_files == 2 and result.also == []
    assert traces(shop.root, *PEOPLE["quoted"]) == []
    assert len(traces(shop.root, ALPACA[0]["output"])) >= 3
    assert shop.materialize()["alpaca"].summary["reasons"]["excluded"] == 1


def test_half_a_character_does_not_stop_an_erasure(shop: Shop) -> None:
    path = shop.write("alpaca", FILE, [ALPACA[0]])
    line = '{"instruction": "Ich bin Thusnelda Grünwald, Auftrag 88 \\ud800", "output": "Guten Tag."}\n'
    path.write_text(path.read_text(encoding="utf-8") + line, encoding="utf-8")
    shop.materialize()
    erase_person(shop, row=2)
    assert traces(shop.root, "Thusnelda", "Grünwald") == []


def test_a_copy_that_no_snapshot_lists_is_redacted(shop: Shop) -> None:
    """`ft run --plan` stores the files before anything records them."""
    row = person("chinese")
    shop.write("alpaca", "earlier.jsonl", [ALPACA[1], row])
    snapshot_folder(shop.root / "data" / "raw" / "alpaca", shop.store)
    shop.raw("alpaca", "earlier.jsonl").unlink()
    shop.write("alpaca", FILE, [row])
    assert erase_person(shop).raw_files == 1
    assert traces(shop.root, *row.values()) == []


@pytest.mark.parametrize("name", ["people.jsonl.gz", "people.jsonl.zst"])
def test_rows_of_compressed_files_and_their_kept_copies_are_erased(shop: Shop, name: str) -> None:
    library = gzip if name.endswith("gz") else zstandard
    lines = [json.dumps(row) + "\n" for row in (person("english"), ALPACA[0], person("hindi"))]
    path = shop.raw("alpaca", name)
    path.write_bytes(library.compress("".join(lines).encode()))
    unlisted = shop.raw("alpaca", "earlier.jsonl.gz")
    unlisted.write_bytes(gzip.compress(f"{lines[0]}{lines[1]}".encode()))
    snapshot_folder(path.parent, shop.store)
    unlisted.unlink()
    assert shop.materialize()["alpaca"].summary["accepted"] >= 3
    result = erase_person(shop, file=name)
    assert result.files == [f"data/raw/alpaca/{name}"] and result.raw_files == 2
    marker, *others = library.decompress(path.read_bytes()).decode().splitlines(keepends=True)
    assert "excluded" in marker and others == lines[1:]
    assert traces(shop.root, *person("english").values()) == []
    assert list((shop.store.root / "drafts").iterdir()) == [], "no expanded copy is left"
    assert shop.materialize()["alpaca"].summary["reasons"]["excluded"] == 1


# --- what was made of the row -----------------------------------------------------------------------------------------


def test_blocks_of_several_texts_are_emptied_and_their_models_are_named(shop: Shop) -> None:
    """A block of continued pretraining has no row's id, so every block that may contain the text is emptied."""
    shop.write(
        "text", "letters.jsonl", [{"text": " ".join(PEOPLE["english"])}, {"text": "Barometers need no winding."}]
    )
    table = shop.table("text")
    blocks = [{"id": f"text:train:{n}", "source": "text", "input_ids": [n, 7], "labels": [n, 7]} for n in (1, 2)]
    human = {"id": "ab" * 32, "source": "human", "input_ids": [5], "labels": [5]}
    made = shop.put("training_data", "cpt", {"text": table}, {}, {"train.parquet": _table([*blocks, human])})
    shop.put("adapter", "cpt", {"training_data": made}, {}, {"adapter_model.safetensors": b"1"})
    result = erase(Project(shop.root), shop.raw("text", "letters.jsonl"), [1], "request 99")
    kept = pq.read_table(made.path / "train.parquet").to_pylist()
    assert [row["input_ids"] for row in kept] == [[], [], [5]]
    assert [(model["key"], model["how"]) for model in result.models] == [("adapter[cpt]", "trained on it")]
    assert result.retrain == ["cpt"]


def test_passages_of_an_erased_text_leave_prompts_and_what_a_champion_looks_up(shop: Shop) -> None:
    """A prompt holds a passage from the middle of a text; a released model keeps the table that it was scored with."""
    letter, other = "\n\n".join(["A letter", *PEOPLE["english"]]), "Barometers need no winding."
    shop.write("text", "letters.jsonl", [{"text": letter}, {"text": other}])
    table = shop.table("text")
    variant = {"passages": 1, "passage_words": 25}
    passages = [*split_into_passages(letter, 25), other]
    assert len(passages) == 3
    prompts = [{"name": "passages", "item": "7:1", "prompt": f"Use {passage}"} for passage in passages]
    scores = shop.put(
        "prompt_baseline",
        "qlora",
        {"text": table},
        {"prompting": {"variants": {"passages": variant}}},
        {"samples.parquet": _table(prompts)},
    )
    result = erase(Project(shop.root), shop.raw("text", "letters.jsonl"), [1], "request 99")
    assert {"prompt_baseline", "text"} <= {artifact["kind"] for artifact in result.artifacts}
    kept = [row["prompt"] for row in pq.read_table(scores.path / "samples.parquet").to_pylist()]
    assert kept == ["Use [forgotten]", "Use [forgotten]", f"Use {other}"]
    assert traces(shop.root, *PEOPLE["english"]) == []
    sources = {"text": table.path, "conversations": shop.materialize()["conversations"].path}
    assert shown_texts(sources) == ([other], 0)


def test_a_distilled_row_of_another_prompt_stays(shop: Shop) -> None:
    """The same line of the same file held another prompt in another snapshot."""
    first = shop.write("unlabelled", "inbox.jsonl", [{"prompt": "Is Ulrika Vantongeren's sofa in the van yet?"}])
    ids = [identity_of(first, 1)]
    second = shop.write("unlabelled", "inbox.jsonl", [{"prompt": "Which of your barometers needs no winding at all?"}])
    ids.append(identity_of(second, 1))
    rows = []
    for number, identity in enumerate(ids):
        place = {"file": "inbox.jsonl", "row": 1}
        answers = _table([{"id": identity, "answer": f"Answer number {number} is long enough.", **place}])
        made = shop.put("teacher_answers", None, {}, {"n": number}, {"answers.parquet": answers})
        row = {"id": f"{number}f" * 32, "table": "unlabelled", "messages": [], "split": "train", **place}
        distilled = shop.put(
            "distilled", None, {"teacher_answers": made}, {"n": number}, {"rows.parquet": _table([row])}
        )
        rows.append(distilled.path / "rows.parquet")
    erase(Project(shop.root), second, [1], "request 99")
    assert [pq.read_table(path)["id"].to_pylist()[0][:2] for path in rows] == ["0f", "ex"]


# --- everything at once -----------------------------------------------------------------------------------------------


def plant(shop: Shop, row: dict[str, str]) -> None:
    """Put the row's texts into every kind of file that a project has, as the pipeline would."""
    asked, answered = row.values()
    shop.write("sharegpt", "old.jsonl", [row, SHAREGPT[0]])
    shop.materialize()
    shop.raw("sharegpt", "old.jsonl").unlink()
    shop.write("alpaca", FILE, [row, {**row, "output": None}])
    shop.write("unlabelled", "inbox.jsonl", [{"prompt": asked}])
    made = shop.materialize()
    conversation = next(
        row for row in pq.read_table(made["conversations"].path / "rows.parquet").to_pylist() if row["file"] == FILE
    )
    prompt_id = identity_of(shop.raw("unlabelled", "inbox.jsonl"), 1)
    answers = _table([{"id": prompt_id, "answer": answered, "request_id": "r1", "file": "inbox.jsonl", "row": 1}])
    shop.put("teacher_answers", None, {"conversations": made["conversations"]}, {}, {"answers.parquet": answers})
    log = shop.store.root / "teachers" / "t" / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"event": "answered", "key": "cd" * 32, "answer": f"Hm. {answered}"}) + "\n")
    distilled = {"id": "ef" * 32, "messages": conversation["messages"], "file": "inbox.jsonl", "row": 1}
    shop.put("distilled", None, {}, {}, {"rows.parquet": _table([distilled])}, {"samples": {"kept": [distilled]}})
    sample = {
        "item": f"{conversation['id']}:1",
        "group": conversation["id"],
        "prompt": f"<|u|>{asked}",
        "answer": "Mine!",
    }
    shop.put("scores", "qlora", {}, {}, {"samples.parquet": _table([sample])})
    page = "".join(f"<td>{_escaped(str(escape_invisible(text)))}</td>" for text in row.values())
    shop.put("report", None, {}, {}, {"report.html": page.encode()})
    shop.put("model_card", None, {}, {}, {"README.md": f"| {asked} | {answered} |".encode()})
    for place in ("work/adapter/1/state.json", "drafts/x/worker.log", "cache/tables/1/outcome.json"):
        (shop.store.root / place).parent.mkdir(parents=True, exist_ok=True)
        (shop.store.root / place).write_text(json.dumps(row), encoding="utf-8")
    (shop.store.root / "notifications.jsonl").write_text(json.dumps({"message": f"failed: {asked!r}"}) + "\n")
    logs = shop.root / "dagster_home" / "storage" / "1" / "compute_logs"
    logs.mkdir(parents=True)
    (logs / "a.err").write_text(f"row: {asked!r}\nend: {answered[:40]}\n", encoding="utf-8")
    (logs / "a.out").write_text(json.dumps(json.dumps(row)), encoding="utf-8")
    event = {"label": json.dumps({"shown": f"**{answered}**"}), "table": [{"file": FILE, "row": 2, "raw": asked[9:50]}]}
    with closing(sqlite3.connect(shop.root / "dagster_home" / "index.db")) as connection:
        connection.execute("CREATE TABLE event_logs (id INTEGER PRIMARY KEY, event TEXT)")
        connection.execute("INSERT INTO event_logs (event) VALUES (?)", (json.dumps(event),))
        connection.commit()


def _escaped(text: str) -> str:
    """As jinja2 escapes it."""
    escapes = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&#39;", '"': "&#34;"}
    return "".join(escapes.get(char, char) for char in text)


def _table(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("name", usual("quoted"))
def test_a_search_of_the_whole_project_finds_nothing(shop: Shop, name: str) -> None:
    row = person(name)
    plant(shop, row)
    fragments = [row["instruction"][9:50], row["output"][:40]]
    found = kinds_of(traces(shop.root, *row.values(), *fragments))
    assert found >= {
        "data/raw/alpaca/people.jsonl",
        "data/raw/unlabelled/inbox.jsonl",
        "data/store/blobs.zst",
        "data/store/artifacts/alpaca/rows.parquet",
        "data/store/artifacts/alpaca/set_aside.parquet",
        "data/store/artifacts/alpaca/manifest.json",
        "data/store/artifacts/sharegpt/set_aside.parquet",
        "data/store/artifacts/conversations/rows.parquet",
        "data/store/artifacts/conversations/manifest.json",
        "data/store/artifacts/teacher_answers/answers.parquet",
        "data/store/artifacts/distilled/rows.parquet",
        "data/store/artifacts/distilled/manifest.json",
        "data/store/artifacts/scores/samples.parquet",
        "data/store/artifacts/report/report.html",
        "data/store/artifacts/model_card/README.md",
        "data/store/teachers/t/log.jsonl",
        "data/store/work/adapter/1/state.json",
        "data/store/drafts/x/worker.log",
        "data/store/cache/tables/1/outcome.json",
        "data/store/notifications.jsonl",
        "dagster_home/storage/1/compute_logs/a.err",
        "dagster_home/storage/1/compute_logs/a.out",
        "dagster_home/index.db",
    }
    conversations = pq.read_table(shop.store.all("conversations")[-1].path / "rows.parquet").to_pylist()
    hashes = [row[name] for row in conversations if row["file"] == FILE for name in ("id", "group")]
    result = erase_person(shop)
    assert traces(shop.root, *row.values(), *fragments, *hashes, "Mine!") == []
    assert not [note for note in result.notes if "unknown kind" in note or "cannot be read" in note]


def test_the_search_refuses_a_kind_of_file_that_it_cannot_read(shop: Shop) -> None:
    shop.store.root.mkdir()
    (shop.store.root / "model.onnx").write_bytes(b"?")
    with pytest.raises(AssertionError, match="no way to search"):
        traces(shop.root, "x")


def _file(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def test_an_unknown_kind_of_file_is_named(shop: Shop) -> None:
    assert treatment_of("data/store/new.sqlite") == treatment_of("dagster_home/new.bin") == "unknown"
    with pytest.raises(UnknownFile):
        ErasedTexts({}).redact_file(_file(shop.root / "rows.feather"), shop.root / "redacted")
    shop.write("alpaca", FILE, [person("english")])
    shop.materialize()
    shop.put("report", None, {}, {}, {"rows.feather": b"\0"})
    (shop.store.root / "new.sqlite").write_bytes(b"\0")
    notes = " ".join(erase_person(shop).notes)
    assert "data/store/new.sqlite is of an unknown kind" in notes and "rows.feather" in notes


def test_the_users_own_files_are_named(shop: Shop) -> None:
    row = person("english")
    shop.write("alpaca", FILE, [row])
    for place in ("data/notes.md", "data/raw/alpaca/broken.json"):
        (shop.root / place).write_text("[" + json.dumps(row), encoding="utf-8")
    notes = " ".join(erase_person(shop).notes)
    assert "data/notes.md still contains" in notes and "data/raw/alpaca/broken.json still contains" in notes


PACKED = {
    "copy.txt.gz": lambda text: gzip.compress(text.encode()),
    "copy.tar.zst": lambda text: zstandard.compress(gzip.compress(text.encode())),
    "copy.zip": lambda text: zipped({"letters/a.json": json.dumps([text]).encode()}),
    "copy.docx": lambda text: zipped({"a.txt": b"?" * 99, "word/document.xml": html.escape(text).encode("utf-16")}),
    "nested.zip": lambda text: zipped({"b.zip": zipped({"c.txt.gz": gzip.compress(text.encode())})}),
    "copy.csv": lambda text: text.encode("utf-16"),
    "little.csv": lambda text: text.encode("utf-16-le"),
    "big.csv": lambda text: text.encode("utf-16-be"),
    "copy.parquet": lambda text: _table([{"said": text}]),
}


def zipped(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


@pytest.mark.parametrize("name", usual("quoted"))
def test_packed_and_encoded_copies_are_named(shop: Shop, name: str) -> None:
    row = person(name)
    shop.write("alpaca", FILE, [row])
    (shop.root / "notes").mkdir()
    for file, pack in PACKED.items():
        (shop.root / "notes" / file).write_bytes(pack(row["instruction"]))
        (shop.root / "notes" / f"other-{file}").write_bytes(pack("Barometers need no winding."))
    shop.raw("alpaca", "backup.zip").write_bytes(PACKED["copy.zip"](row["output"]))
    notes = [note.split(" still contains")[0] for note in erase_person(shop).notes if " still contains" in note]
    assert sorted(notes) == ["data/raw/alpaca/backup.zip", *sorted(f"notes/{file}" for file in PACKED)]
    assert not list((shop.store.root / "drafts").iterdir()), "no expanded copy is left"


def test_what_cannot_be_unpacked_is_named_as_not_searched(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ft_pipeline.tables.reading.compressed.MIN_LIMIT_BYTES", 1 << 20)
    bomb = bytes(8 << 20)
    text = PEOPLE["english"][0].encode()
    contents = {
        "bomb.gz": gzip.compress(bomb),
        "bomb.zip": zipped({"bomb.txt": bomb}),
        "bombs.zip": zipped({f"{number}.gz": gzip.compress(bytes(900 << 10)) for number in range(9)}),
        "cut.zip": zipped({"a.txt": text})[:-30],
        "damaged.zip": zipped({"a.txt": text}).replace(b"a.txt", b"b.txt", 1),
        "deep.gz": gzip.compress(gzip.compress(gzip.compress(gzip.compress(text)))),
        "x.xz": lzma.compress(text),
        **{f"y{preset}.lzma": lzma.compress(text, lzma.FORMAT_ALONE, preset=preset) for preset in (0, 6, 9)},
    }
    for name, content in contents.items():
        (shop.root / name).write_bytes(content)
    shop.write("alpaca", FILE, [person("english")])
    notes = [note for note in erase_person(shop).notes if "was not searched" in note]
    assert [note.split()[0] for note in notes] == sorted(contents)
    assert all(note.endswith("). Check it.") for note in notes)


# --- one lock ---------------------------------------------------------------------------------------------------------


def test_a_snapshot_waits_for_the_erasure(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    row = person("english")
    shop.write("alpaca", FILE, [row])
    shop.materialize()
    folder = shop.root / "data" / "raw" / "alpaca"
    snapshot = threading.Thread(target=lambda: snapshot_folder(folder, shop.store))
    append_redaction = erasing.append_redaction

    def append_and_snapshot(*arguments: Any) -> None:
        append_redaction(*arguments)
        snapshot.start()
        snapshot.join(timeout=0.5)

    monkeypatch.setattr(erasing, "append_redaction", append_and_snapshot)
    erase_person(shop)
    snapshot.join()
    assert traces(shop.root, *row.values()) == []


def test_a_step_and_an_erasure_exclude_each_other(shop: Shop) -> None:
    shop.write("alpaca", FILE, [person("english")])
    with project_lock(shop.store.root).hold(shared=True), project_lock(shop.store.root).hold(shared=True):
        with pytest.raises(UserError, match="a run is in progress"):
            erase_person(shop)
        assert not project_lock(shop.store.root).try_acquire()
    assert not (shop.root / "data" / "excluded.yaml").exists()


# --- the teacher's log ------------------------------------------------------------------------------------------------


def _log(folder: Path, answers: dict[str, Reply | Failure]) -> AnswerLog:
    """Write the answers as a run does, and return the log as the next run reads it."""

    async def write(log: AnswerLog) -> None:
        for key, outcome in answers.items():
            log.write_request(key, TokenEstimate(10, 5))
            if isinstance(outcome, Reply):
                log.write_answer(key, outcome)
            else:
                log.write_failure(key, outcome, final=True)
        await log.flush()

    with AnswerLog.open(folder, print) as log:
        asyncio.run(write(log))
    return _opened(folder)


def _opened(folder: Path) -> AnswerLog:
    with AnswerLog.open(folder, print) as log:
        return log


def test_an_erased_answer_of_a_teacher_is_asked_again(shop: Shop) -> None:
    row = person("tamil")
    shop.write("alpaca", FILE, [row])
    first, second, third, fourth = ("1" * 64, "2" * 64, "3" * 64, "4" * 64)
    cut_off = Failure("cut_off", "cut off", reply=Reply(row["output"], "length", 9, 4))
    replies = {
        first: Reply(f"Sorry. {row['output']}", "stop", 12, 7, request_id="r1"),
        second: Reply("The ferry takes two days.", "stop", 10, 6, request_id="r2"),
        third: cut_off,
        fourth: Reply("Of course.", "stop", 11, 3, request_id="r4"),
    }
    folder = shop.store.root / "teachers" / "t"
    before = _log(folder, replies)
    assert before.has_answer(first) and before.has_settled_failure(third)
    prompt = {"id": "ab" * 32, "file": "x.jsonl", "row": 1, "messages": []}
    table = pa.Table.from_pylist([answer_row(prompt, 0, answer="Of course.", request_id="r4")], schema=ANSWERS)
    result = erase_person(shop)
    after = _opened(folder)
    assert result.answers == 2 and table.num_rows
    assert not after.has_answer(first) and not after.has_settled_failure(third)
    assert after.entry(first) is None and after.entry(third) is None
    assert after.has_answer(second) and after.has_answer(fourth)
    assert after.spent == before.spent, "they were paid for"
    assert traces(shop.root, *row.values()) == []


def test_an_answer_that_an_older_version_redacted_is_asked_again(tmp_path: Path) -> None:
    log = _log(tmp_path, {"1" * 64: Reply("Sorry, [forgotten]", "stop", 12, 7)})
    assert not log.has_answer("1" * 64) and log.spent.answers == 1


def test_an_answer_that_two_prompts_share_stays_with_the_other_prompt(shop: Shop) -> None:
    prompts = ["Is Ulrika Vantongeren's sofa in the van yet?", "Is my sofa in the van yet?"]
    shared, own = "Yes, it left the depot at seven this morning.", "Ulrika Vantongeren's sofa left at seven."
    shop.write("unlabelled", "inbox.jsonl", [{"prompt": prompt} for prompt in prompts])
    ids = [identity_of(shop.raw("unlabelled", "inbox.jsonl"), number) for number in (1, 2)]
    answers = [
        {"id": identity, "answer": answer, "request_id": request_id, "file": "inbox.jsonl", "row": number}
        for identity, answer, request_id, number in (
            (ids[0], shared, "r1", 1),
            (ids[0], own, "r2", 1),
            (ids[1], shared, "r3", 2),
        )
    ]
    artifact = shop.put("teacher_answers", None, {}, {}, {"answers.parquet": _table(answers)})
    replies = {
        str(number) * 64: Reply(answer["answer"], "stop", 9, 9, request_id=answer["request_id"])
        for number, answer in enumerate(answers, 1)
    }
    folder = shop.store.root / "teachers" / "t"
    _log(folder, replies)
    erase(Project(shop.root), shop.raw("unlabelled", "inbox.jsonl"), [1], "request 99")
    kept = [row["answer"] for row in pq.read_table(artifact.path / "answers.parquet").to_pylist()]
    assert kept == ["[forgotten]", "[forgotten]", shared]
    assert [_opened(folder).has_answer(key) for key in replies] == [False, False, True]
    assert traces(shop.root, "Vantongeren") == []


# --- large files, interruptions ---------------------------------------------------------------------------------------


def test_rows_of_a_file_that_is_stored_by_reference_are_erased(shop: Shop) -> None:
    rows = [person("english"), ALPACA[0], person("hindi")]
    path = shop.write("alpaca", FILE, rows)
    blobs = BlobStore(shop.store.root, by_reference_above=10)
    spec = snapshot_folder(path.parent, shop.store, blobs).spec("alpaca")
    draft = shop.store.begin(spec.with_code_version("1"))
    shop.store.commit(draft, write_listing(Snapshot.from_json(spec.config), draft.out))
    sha256 = next(entry["sha256"] for entry in spec.config["files"] if entry["name"] == FILE)
    assert blobs.state(sha256) == "reference"
    for number in (1, 3):
        result = erase_person(shop, row=number)
        assert result.raw_files == 1 and result.files == [f"data/raw/alpaca/{FILE}"]
        assert blobs.state(sha256) == "redacted"
    assert traces(shop.root, *rows[0].values(), *rows[2].values()) == []
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[1]) == ALPACA[0]


STAGES = ["add_excluded", "usage_of", "erase_answers", "redact_database", "redact_artifact", "append_redaction"]
STAGES += ["replace_with_markers"]
"""Functions that an erasure calls, in order."""


@pytest.fixture(scope="module")
def planted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shop = Shop(tmp_path_factory.mktemp("planted") / "shop")
    shop.write_project()
    plant(shop, person("quoted"))
    shop.write("alpaca", "near.jsonl", [nearly(person("quoted"))])
    return shop.root


@pytest.fixture
def planted(planted_once: Path, opened: Path) -> Shop:
    shutil.copytree(planted_once, opened)
    return Shop(opened)


@pytest.mark.parametrize("calls", [0, *(pytest.param(calls, marks=pytest.mark.long) for calls in (1, 3))])
@pytest.mark.parametrize("stage", STAGES)
def test_an_erasure_that_is_killed_is_completed_by_the_same_command(
    planted: Shop, monkeypatch: pytest.MonkeyPatch, stage: str, calls: int
) -> None:
    """The process dies at each stage, after `calls` calls of a function."""
    row = person("quoted")
    real = getattr(erasing, stage)
    count = iter(range(1000))

    def die(*arguments: Any) -> Any:
        if next(count) >= calls:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):  # a stage may have fewer calls
        patch.setattr(erasing, stage, die)
        erase_person(planted)
    if next(count) > calls:
        erase_person(planted)
    assert traces(planted.root, *row.values(), *nearly(row).values(), "Mine!") == []
    assert project_lock(planted.store.root).try_acquire()


def test_a_corrected_call_is_erased_as_conversation_and_as_pair(shop: Shop) -> None:
    asked, wrong, right = "Ada Fenwick asks for parcel LF-7", "It is lost for good", "It is on its way to Ada Fenwick"
    call = {
        "id": "a",
        "request": {"messages": [{"role": "user", "content": asked}]},
        "response": {"choices": [{"message": {"role": "assistant", "content": wrong}, "finish_reason": "stop"}]},
    }
    path = shop.write("traces", "log.jsonl", [call, {"feedback": {"id": "a", "correction": right}}])
    shop.materialize()
    result = erase(Project(shop.root), path, [1], "request 99")
    assert {(row["format"], row["file"]) for row in result.rows} == {
        ("traces", "log.jsonl"),
        ("preferences", "../traces/log.jsonl"),
        ("feedback", "../traces/log.jsonl"),
    }
    shown = _shown(result)
    assert shown.count("data/raw/traces/log.jsonl:1") == shown.count("data/raw/traces/log.jsonl:2") == 1
    assert "../" not in shown
    assert traces(shop.root, asked, wrong, right) == []


def logged(identity: str, asked: str, answer: str, finish_reason: str = "stop") -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": answer}, "finish_reason": finish_reason}
    return {
        "id": identity,
        "request": {"messages": [{"role": "user", "content": asked}]},
        "response": {"choices": [choice]},
    }


@pytest.mark.parametrize(
    ("finish_reason", "feedback"),
    [("stop", {"rating": "down"}), ("length", {"rating": "up"}), ("stop", {"rating": 5}), ("stop", {})],
)
def test_feedback_is_erased_with_its_call_even_if_neither_can_be_used(
    shop: Shop, finish_reason: str, feedback: dict[str, Any]
) -> None:
    comment = "Call me back, Oswin Tarrant-Pell, 030 5550 1234."
    call = logged("a", "Where is the parcel LF-7?", "It is lost for good.", finish_reason)
    other = logged("b", "Do you sell barometers?", "We do, in two sizes.")
    kept = {"feedback": {"id": "b", "rating": "up", "comment": "Thank you, that helped."}}
    shop.write("traces", "later.jsonl", [{"feedback": {"id": "a", "comment": comment + " At noon."}}])
    path = shop.write("traces", "log.jsonl", [call, {"feedback": {"id": "a", "comment": comment, **feedback}}])
    shop.write("traces", "log.jsonl", [call, {"feedback": {"id": "a", "comment": comment, **feedback}}, other, kept])
    snapshot_folder(path.parent, shop.store)
    result = erase(Project(shop.root), path, [1], "request 99")
    assert result.files == ["data/raw/traces/later.jsonl", "data/raw/traces/log.jsonl"]
    assert traces(shop.root, "Tarrant-Pell", "5550 1234", "LF-7") == []
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[2:]] == [other, kept]


def test_a_log_with_other_feedback_on_the_call_is_named(shop: Shop) -> None:
    """It came after the call was accepted, so that its text is in no raw file."""
    identity = "chatcmpl-5f0c2b7e9a31"
    path = shop.write("traces", "log.jsonl", [logged(identity, "Where is the parcel LF-7?", "It is lost for good.")])
    (shop.root / "traffic").mkdir()
    comment = {"id": identity, "comment": "Call me back, Oswin Tarrant-Pell, 030 5550 1234."}
    (shop.root / "traffic" / "later.jsonl").write_text(json.dumps({"feedback": comment}), encoding="utf-8")
    (shop.root / "traffic" / "other.jsonl").write_text(
        '{"feedback": {"id": "chatcmpl-5f0c2b7e9a32"}}', encoding="utf-8"
    )
    reason = f"request about {identity}"  # an id of a call may be in a record
    notes = [note for note in erase(Project(shop.root), path, [1], reason).notes if "traffic" in note]
    assert notes == ["traffic/later.jsonl still contains a text of an erased row. Edit or remove it."]


def test_feedback_on_a_copy_of_the_call_is_erased(shop: Shop) -> None:
    asked, answer = PEOPLE["english"]
    feedback = {"feedback": {"id": "b", "comment": "Call me back: Tarrant-Pell, 030 5550 1234."}}
    shop.write("traces", "copy.jsonl", [feedback, logged("b", asked, answer)])
    path = shop.write("traces", "log.jsonl", [logged("a", asked, answer), logged("c", "Are you open?", "Until six.")])
    snapshot_folder(path.parent, shop.store)
    erase(Project(shop.root), path, [1], "request 99")
    assert traces(shop.root, "Tarrant-Pell", "5550 1234") == []


def test_a_stored_sidecar_with_aliases_without_end_is_read_as_none(shop: Shop, tmp_path: Path) -> None:
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    sidecar = tmp_path / "bomb.yaml"
    sidecar.write_text("\n".join(["a0: &a0 [x]", *lines, "columns: *a11"]), encoding="utf-8")
    blobs = BlobStore(shop.store.root)
    assert raw_copies._stored_sidecar(blobs, blobs.add(sidecar), tmp_path) == PLAIN
