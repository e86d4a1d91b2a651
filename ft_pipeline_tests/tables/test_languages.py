"""The languages of a table, from a sample of its rows."""

import json
import random

import pyarrow.parquet as pq
import pytest

from ft_pipeline.tables import languages
from ft_pipeline.tables.languages import UNKNOWN, identify_languages, language_of
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.tables.helpers import build, build_chat_tables

QUESTIONS = {
    "en": [
        "Where is my order?",
        "Can I return a lamp after three weeks?",
        "My refund hasn't arrived yet.",
        "Do you ship to Canada, and how much is it?",
    ],
    "de": [
        "Wo ist meine Bestellung?",
        "Kann ich die Lampe nach drei Wochen zurückgeben?",
        "Meine Rückerstattung ist noch nicht da.",
        "Liefern Sie auch nach Österreich?",
    ],
    "fr": [
        "Où est ma commande ?",
        "Puis-je retourner une lampe après trois semaines ?",
        "Je n'ai pas encore reçu mon remboursement.",
        "Livrez-vous en Belgique ?",
    ],
    "es": [
        "¿Dónde está mi pedido?",
        "¿Puedo devolver una lámpara después de tres semanas?",
        "Todavía no he recibido el reembolso.",
        "¿Hacen envíos a México?",
    ],
    "it": [
        "Dov'è il mio ordine?",
        "Posso restituire una lampada dopo tre settimane?",
        "Non ho ancora ricevuto il rimborso.",
        "Spedite anche in Svizzera?",
    ],
    "pt": [
        "Onde está a minha encomenda?",
        "Posso devolver um candeeiro depois de três semanas?",
        "Ainda não recebi o reembolso.",
        "Vocês entregam no Brasil?",
    ],
    "nl": [
        "Waar is mijn bestelling?",
        "Kan ik een lamp na drie weken nog terugsturen?",
        "Ik heb mijn geld nog niet teruggekregen.",
        "Leveren jullie ook in België?",
    ],
    "pl": [
        "Gdzie jest moje zamówienie?",
        "Czy mogę zwrócić lampę po trzech tygodniach?",
        "Nie dostałem jeszcze zwrotu pieniędzy.",
        "Czy wysyłacie do Niemiec?",
    ],
    "sv": [
        "Var är min beställning?",
        "Kan jag lämna tillbaka en lampa efter tre veckor?",
        "Jag har inte fått min återbetalning än.",
        "Skickar ni till Norge?",
    ],
    "tr": [
        "Siparişim nerede?",
        "Üç hafta sonra lambayı iade edebilir miyim?",
        "Param henüz iade edilmedi.",
        "Almanya'ya gönderim yapıyor musunuz?",
    ],
    "ru": [
        "Где мой заказ?",
        "Можно ли вернуть лампу через три недели?",
        "Деньги ещё не вернули.",
        "Вы доставляете в Казахстан?",
    ],
    "hi": [
        "मेरा ऑर्डर कहाँ है?",
        "क्या मैं तीन हफ़्ते बाद लैंप वापस कर सकता हूँ?",
        "मुझे अभी तक रिफंड नहीं मिला।",
        "क्या आप नेपाल में डिलीवरी करते हैं?",
    ],
    "ar": [
        "أين طلبي؟",
        "هل يمكنني إرجاع المصباح بعد ثلاثة أسابيع؟",
        "لم أستلم المبلغ المسترد بعد.",
        "هل تشحنون إلى المغرب؟",
    ],
    "zh": [
        "我的订单在哪里?",
        "三个星期以后还能退货吗?",
        "我还没有收到退款。",
        "你们送货到新加坡吗?",
    ],
    "ja": [
        "注文した商品はどこですか?",
        "三週間後でもランプを返品できますか?",
        "まだ返金されていません。",
        "シンガポールに配送していますか?",
    ],
}
"""Short questions of customers: four in each of 15 languages."""
GERMAN = [
    {"instruction": question, "output": answer}
    for question, answer in [
        ("Wo ist meine Bestellung geblieben?", "Sie ist gestern verschickt worden und kommt morgen an."),
        ("Kann ich den Wasserkocher zurückgeben?", "Ja, innerhalb von dreißig Tagen nach der Lieferung."),
        ("Wann öffnet der Laden am Samstag?", "Am Samstag haben wir von neun bis achtzehn Uhr geöffnet."),
        ("Wie bezahle ich mit einem Gutschein?", "Geben Sie den Code an der Kasse in das Feld Gutschein ein."),
    ]
]


def english(count):
    things = ["kettle", "garden chair", "bedside lamp", "wool rug", "picture frame", "bread knife", "bird table"]
    return [
        {
            "instruction": f"How long does the {things[number % 7]} with part number {number} take to arrive?",
            "output": f"The {things[number % 7]} leaves our warehouse within {number + 2} working days.",
        }
        for number in range(count)
    ]


def test_short_questions_are_identified_or_unknown() -> None:
    found = {text: language_of(text) for texts in QUESTIONS.values() for text in texts}
    wrong = {
        text: found[text] for code, texts in QUESTIONS.items() for text in texts if found[text] not in {code, UNKNOWN}
    }
    assert len(found) == 60 and wrong == {}
    assert sum(language == UNKNOWN for language in found.values()) <= 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Yes",
        "google pay?",
        "ORD-48213 / SKU 99-ABX-12",
        "12345 67890 2024-05-06 17:30",
        '{"order_id": 48213, "status": "shipped"}',
        "SELECT id, name FROM orders WHERE total > 100 ORDER BY id",
        "https://www.example.com/help/returns?id=3",
        "asdkjh qwelkjh zxmcnb qpwoei",
        "🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂🙂",
    ],
)
def test_code_numbers_and_short_texts_are_unknown(text: str) -> None:
    assert language_of(text) == UNKNOWN


def test_prompt_and_answer_both_count() -> None:
    assert language_of("", "Sie ist gestern verschickt worden.") == "de"
    assert language_of(None, "Where is my order?") == "en"


@pytest.mark.parametrize("data_format", GOOD)
def test_every_table_reports_its_languages(tmp_path, data_format) -> None:
    report = build(tmp_path, data_format, {"a.jsonl": GOOD[data_format]})
    assert report.to_json()["languages"] == {"rows": 2, "sampled": 2, "counts": {"en": 2}}


def test_the_page_of_a_table_shows_its_languages(tmp_path) -> None:
    from ft_pipeline.steps.shared.table_pages import language_table

    build(tmp_path, "alpaca", {"a.jsonl": [*english(12), *GERMAN]})
    found = identify_languages(tmp_path / "out" / "rows.parquet", "alpaca")
    sorted_as_in_a_manifest = json.loads(json.dumps(found.to_json(), sort_keys=True))
    shown = language_table({"languages": sorted_as_in_a_manifest})["languages"]
    assert shown.rows == [
        {"language": "en", "rows": 12, "share": 0.75},
        {"language": "de", "rows": 4, "share": 0.25},
    ]
    assert language_table({}) == {}, "a summary of an older version"


def test_an_empty_table_has_no_languages(tmp_path) -> None:
    assert build(tmp_path, "text", {}).languages == {"rows": 0, "sampled": 0, "counts": {}}


def test_the_conversations_report_their_languages(tmp_path) -> None:
    report, rows, _ = build_chat_tables(tmp_path, {"a.jsonl": english(30), "b.jsonl": GERMAN})
    counts = report.to_json()["languages"]["counts"]
    assert counts["de"] == 4 and sum(counts.values()) == len(rows)


def test_a_few_rows_in_another_language_are_named_and_used(tmp_path) -> None:
    rows = [*english(100)[:50], *GERMAN, *english(100)[50:]]
    report = build(tmp_path, "alpaca", {"a.jsonl": rows})
    (warning,) = [warning for warning in report.warnings if warning.code == "other_language"]
    assert (warning.file, warning.rows) == ("a.jsonl", [51, 52, 53, 54])
    assert "4 row(s) are in the language de" in warning.message and f"{report.languages['counts']['en']} are in en"
    assert report.languages["counts"]["de"] == 4 and not report.reasons.get("other_language")


@pytest.mark.parametrize(("count", "german"), [(100, 2), (20, 4)], ids=["too few", "a usual language"])
def test_other_rows_are_not_named(tmp_path, count, german) -> None:
    report = build(tmp_path, "alpaca", {"a.jsonl": [*english(count), *GERMAN[:german]]})
    assert report.languages["counts"]["de"] == german
    assert "other_language" not in {warning.code for warning in report.warnings}


def test_a_table_in_many_languages_has_no_other_language(tmp_path) -> None:
    texts = [{"text": text} for questions in QUESTIONS.values() for text in questions[1:]]
    report = build(tmp_path, "text", {"a.jsonl": texts})
    assert len(report.languages["counts"]) >= 15
    assert "other_language" not in {warning.code for warning in report.warnings}


def test_the_sample_does_not_depend_on_the_order_of_the_rows(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(languages, "SAMPLED_ROWS", 20)
    build(tmp_path, "alpaca", {"a.jsonl": [*english(60), *GERMAN]})
    path = tmp_path / "out" / "rows.parquet"
    found = identify_languages(path, "alpaca")
    assert (found.rows, found.sampled) == (pq.read_metadata(path).num_rows, 20) and found.sampled < found.rows
    table = pq.read_table(path)
    order = random.Random(1).sample(range(len(table)), len(table))
    pq.write_table(table.take(order), path)
    assert identify_languages(path, "alpaca").counts == found.counts
