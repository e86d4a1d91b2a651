"""A reason that repeats something of an erased row: refused for the erasure itself, named where a record has it."""

import json

import pytest

from ft_pipeline.decide.released import Candidate, Promotion
from ft_pipeline.erasure.reasons import telling_words
from ft_pipeline.errors import UserError
from ft_pipeline.inbox import decisions
from ft_pipeline.release.champion import promote
from ft_pipeline.store import journal
from ft_pipeline.store.artifact_redaction import Redaction, append_redaction
from ft_pipeline_tests.audit.conftest import Command
from ft_pipeline_tests.audit.shop import SECRET, THINGS, Shop
from ft_pipeline_tests.erasure.traces import traces

FILE, ROW = "data/raw/alpaca/support.jsonl", "5"
ABOUT = "Ada Fenwick called, she was not happy"


def release_because(shop: Shop, reason: str) -> None:
    """Release a champion by hand, and write its artifact, as the asset does."""
    parts = {name: shop.store.all(name)[-1].fingerprint for name in ("base_model", "adapter", "merged_model")}
    candidate = Candidate(
        name="qlora/merged",
        kind="merged",
        experiment="qlora",
        fingerprint=parts["merged_model"],
        fingerprints=parts,
        gates={"merge": True},
    )
    record = promote(
        shop.store.root, lambda _: Promotion(candidate=candidate, reason=reason, forced=True, by_hand=True)
    )
    assert record is not None
    summary = {"champion": record.model_dump(), "moved": True}
    comparison = shop.store.all("comparison")[-1]
    files = {"champion.json": json.dumps(record.model_dump()).encode()}
    shop.put("champion", None, {"comparison": comparison}, {"n": 2}, files, summary)


def test_records_whose_reason_repeats_a_name_or_a_text_are_named(released: Shop, ft_json: Command, ft: Command) -> None:
    store = released.store.root
    release_because(released, f"forced: {ABOUT}")
    decisions.record(store, "rejected", {"a": (1, 1)}, f"she wrote: {SECRET['instruction']}", ())
    decisions.record(store, "rejected", {"b": (1, 1)}, "the address is wrong, please ask again", ())
    append_redaction(store, Redaction(1, "2026-11-01", "ada", "from Ada Fenwick, 12 mill lane", [], [], [], []))
    (released.root / "data" / "excluded.yaml").write_text(
        "salt: ab\nrows:\n- {hash: %s, format: alpaca, reason: asked by Ada Fenwick}\n" % ("ab" * 32), encoding="utf-8"
    )
    journal.replace_key(store, "the laptop of Ada Fenwick was stolen")
    notes = ft_json("erase", FILE, ROW, "--reason", "request 4711")["notes"]
    named = {note.split(":")[0]: note for note in notes if ": the reason repeats" in note}
    assert named.keys() == {
        "data/excluded.yaml",
        "data/store/champion/000002.json",
        "data/store/inbox/000001.json",
        "data/store/journal.jsonl",
        "data/store/redactions/000001.json",
    }
    assert "'Ada Fenwick'" in named["data/store/champion/000002.json"]
    assert "edit" in named["data/excluded.yaml"].lower()
    assert {*traces(released.root, "Fenwick"), "data/store/journal.jsonl"} == named.keys(), "all that is left is named"
    document = ft_json("audit", "--verify")
    assert document["problems"] == [], "the copy of a reason was redacted, the record was not"


def test_a_reason_that_repeats_the_row_is_refused(released: Shop, ft: Command) -> None:
    for reason in (ABOUT, SECRET["output"], SECRET["instruction"][15:].upper(), "Mill Lane moved"):
        with pytest.raises(UserError, match=r"The reason repeats .* Write the number of the request"):
            ft("erase", FILE, ROW, "--reason", reason)
    assert not (released.root / "data" / "excluded.yaml").exists()
    assert ft("erase", FILE, ROW, "--reason", "the address is not to be kept, request 4711")[0] == 0


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("Call me, Ada, at +49 30 5550-1234.", "she gave 0049 305550 1234"),
        ("Call me, Ada, at +49 30 5550-1234.", "request 4711, 030 5550 1234"),
        ("my parcel is DE89370400", "number 89370400"),
        ("I am ada.fenwick@example.org", "by Ada.Fenwick@Example.org"),
        ("I am Ada M. Fenwick", "'Ada Fenwick' called"),
        ("I am Sean O'Malley-Smith", "by Sean O\u2019Malley-Smith"),
        ("मेरा नाम अनुष्का त्रिवेदी है और मैं लखनऊ में रहती हूँ", "नाम अनुष्का त्रिवेदी है और मैं लखनऊ"),
        ("我叫欧阳靖雯，住在成都市锦江区梨花街", "欧阳靖雯，住在成都市锦江区"),
    ],
)
def test_names_and_numbers_are_recognized_in_other_forms(row: str, reason: str) -> None:
    assert telling_words([row]).keys() & telling_words([reason]).keys()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("My Request about GDPR: please Delete my account, order 20251130.", "Request of the customer"),
        ("My Request about GDPR: please Delete my account, order 20251130.", "GDPR request 4711"),
        ("My Request about GDPR: please Delete my account, order 20251130.", "Please delete my account"),
        ("GDPR Request. Delete it", "GDPR Request 4711"),
        ("Reimbursement", "Reimbursement, request 4711"),
        ("Kündigung", "Kündigung 4711"),
        ("请删除我的账户", "删除我的账户"),
        ("please change my address by 12:30, it is 4 of 100, 4711", "4711 by 12:30"),
    ],
)
def test_ordinary_words_identify_nobody(row: str, reason: str) -> None:
    assert not telling_words([row]).keys() & telling_words([reason]).keys()


def test_neutral_reasons_are_accepted(released: Shop, ft: Command) -> None:
    for thing, reason in zip(THINGS, ("Request of the customer", "GDPR request 4711", "Reimbursement"), strict=False):
        row = {"instruction": f"My Request about GDPR: please Delete my {thing}.", "output": "Reimbursement"}
        released.write("alpaca", f"{thing}.jsonl", [row])
        assert ft("erase", f"data/raw/alpaca/{thing}.jsonl", "1", "--reason", reason)[0] == 0


def test_long_texts_without_spaces_are_searched_in_one_pass() -> None:
    for text in ("a" * 500_000, "A-" * 100_000, "1 " * 100_000, "Ab " + "A. " * 100_000):
        telling_words([text])
