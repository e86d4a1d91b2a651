"""Personal data is masked before rows are converted, and what was masked is counted."""

import json
import socket

import pyarrow.parquet as pq
import pytest

from ft_pipeline.erasure.raw_files import read_raw_rows
from ft_pipeline.settings.data import MaskSettings
from ft_pipeline.tables.masking import ENTITIES, Masker
from ft_pipeline.tables.reading.sidecar import PLAIN
from ft_pipeline_tests.tables.helpers import build, logged_call, write_jsonl

DEFAULT = MaskSettings().entities


@pytest.fixture(autouse=True)
def without_a_network(monkeypatch):
    """Fail on every connection: Presidio must ask nothing."""

    def refuse(*arguments, **options):
        raise AssertionError(f"a connection to {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to ada.fenwick+shop@mill.example, please.", "Write to <EMAIL_ADDRESS>, please."),
        ("Call +44 20 7946 0958 at noon", "Call <PHONE_NUMBER> at noon"),
        ("My card is 4111 1111 1111 1111.", "My card is <CREDIT_CARD>."),
        ("Pay to DE89 3704 0044 0532 0130 00", "Pay to <IBAN_CODE>"),
        ("I came from 203.0.113.7", "I came from <IP_ADDRESS>"),
        ("Order 482913 of 3 chairs, 2.5 m", "Order 482913 of 3 chairs, 2.5 m"),
        ("Grüße, 山田さん: a@b.example und c@d.example", "Grüße, 山田さん: <EMAIL_ADDRESS> und <EMAIL_ADDRESS>"),
    ],
)
def test_each_kind_is_replaced_by_its_name(text, masked):
    assert Masker(DEFAULT).mask(text) == masked


def test_every_kind_that_a_project_may_name_has_a_recognizer():
    masker = Masker(tuple(ENTITIES))
    assert masker.mask("078-05-1126 and 943 476 5919") == "<US_SSN> and <UK_NHS>"


def test_the_arguments_of_a_call_stay_json():
    arguments = json.dumps({"to": "ada@mill.example", "order": 7})
    turn = {"role": "assistant", "tool_calls": [{"id": "a@b.example", "function": {"arguments": arguments}}]}
    masker = Masker(DEFAULT)
    (call,) = masker.mask(turn)["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"to": "<EMAIL_ADDRESS>", "order": 7}
    assert call["id"] == "a@b.example" and masker.counts == {"EMAIL_ADDRESS": 1}


ROWS = [
    logged_call("I am ada@mill.example, where is my lamp?", "It is on its way to you, ada@mill.example."),
    logged_call("Call me: +44 20 7946 0958, thanks a lot", "We will call you tomorrow at noon."),
    {"request": {"messages": [{"role": "user", "content": "bob@mill.example"}]}, "response": None},
    '{"request": "carl@mill.example',
]


def test_a_table_and_its_quarantine_are_masked_and_the_report_counts(tmp_path):
    report = build(tmp_path, "traces", {"a.jsonl": ROWS}, mask={"traces": DEFAULT})
    assert report.reasons == {"invalid_json": 1, "no_content": 1} and report.accepted == 2
    (warning,) = [warning for warning in report.warnings if warning.code == "masked"]
    assert warning.message == "masked in the texts: 4 × EMAIL_ADDRESS, 1 × PHONE_NUMBER"
    for name in ("rows.parquet", "set_aside.parquet"):
        assert "mill.example" not in json.dumps(pq.read_table(tmp_path / "out" / name).to_pylist())
    plain = build(tmp_path, "traces", {"a.jsonl": ROWS})
    assert not [warning for warning in plain.warnings if warning.code == "masked"]


def test_a_masked_row_can_be_erased(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS[:2])
    build(tmp_path, "traces", {"a.jsonl": ROWS[:2]}, mask={"traces": DEFAULT})
    ids = pq.read_table(tmp_path / "out" / "rows.parquet")["id"].to_pylist()
    rows = list(read_raw_rows(path, "a.jsonl", "traces", PLAIN, tmp_path, DEFAULT))
    assert set(ids) <= {row.identity for row in rows}
    assert "I am ada@mill.example, where is my lamp?" in rows[0].texts
