"""Writes data/raw/alpaca/mails.jsonl: invented e-mails of customers, and the JSON that a shop wants to know of each.

The same seed gives the same file. Run it in this folder with `python make_rows.py`.
"""

import json
import random
from pathlib import Path

ROWS, SEED = 360, 20
COLORS = ("blue", "green", "white", "red", "grey", "black", "yellow", "oak")
THINGS = (
    *("kettle", "lamp", "rug", "teapot", "bench", "clock", "tray", "basket", "stool", "mirror", "vase", "shelf"),
    *("blanket", "toaster", "bowl", "hammock", "ladder", "parasol", "doormat", "curtain"),
)
CITIES = (
    *("Leeds", "Cork", "Bath", "York", "Derby", "Perth", "Truro", "Luton", "Exeter", "Dundee", "Galway", "Norwich"),
    *("Swansea", "Lincoln", "Durham", "Sligo", "Bangor", "Preston"),
)
REASONS = (
    *("it does not work", "the glass is broken", "a screw is missing", "the colour is wrong", "it is too small"),
    *(
        "the lid is cracked",
        "it smells of paint",
        "one leg is loose",
        "the cable is too short",
        "it has a deep scratch",
    ),
    *("the parcel was open", "it is too heavy for me", "it came two weeks late", "I ordered the wrong size"),
    *("the fabric is torn", "it leaks", "there is rust on it", "the handle came off", "it makes a loud noise"),
    *("I found a cheaper one", "it was a gift and she has one", "the switch is stuck", "I changed my mind"),
    *("the picture online looked different",),
)
GREETINGS = ("Hello,", "Hi there,", "Good morning,", "Dear team,", "Hi,", "To whom it may concern,", "Hey,", "")
ENDINGS = (
    *("Thanks.", "Please help.", "What can I do?", "Kind regards", "Please tell me what happens next.", "Best wishes"),
    *("I look forward to your answer.", "Many thanks in advance.", "Can I send it back?", ""),
)
ORDERS = (
    *("My order number is {id}.", "This is about order {id}.", "Order {id}.", "I am writing about {id}."),
    *("The number on the invoice is {id}.", "It concerns my order {id} from last month.", "See order {id}, please."),
)
ITEMS = (
    *("I bought {items}.", "You sent me {items}.", "I ordered {items} from your site.", "The order was for {items}."),
    *("Last week I received {items}.", "There were {items} in the box.", "I paid for {items}."),
)
TOTALS = (
    *("I paid £{total}.", "The total was £{total}.", "It cost me £{total} with delivery.", "£{total} left my account."),
    *("The bill says £{total}.", "That was £{total} in all."),
)
PLACES = (
    *("I live in {city}.", "It was delivered to {city}.", "You can collect it in {city}.", "My address is in {city}."),
    *("I am in {city} all week.", "It went to my flat in {city}."),
)
FAULTS = (
    *(
        "The problem: {reason}.",
        "Sadly {reason}.",
        "I am not happy because {reason}.",
        "I want to return it, {reason}.",
    ),
    *("The thing is, {reason}.", "When I opened it I saw that {reason}.", "My complaint is that {reason}."),
)
ALWAYS, OFTEN = 1.0, 0.7


def make_row(rng: random.Random) -> dict[str, str]:
    """Return a row: the e-mail, and the JSON with what it says. What it does not say is left out."""
    items = [f"{color} {thing}" for color, thing in zip(rng.sample(COLORS, 2), rng.sample(THINGS, 2), strict=True)]
    items = items[: rng.choice((1, 1, 2))]
    order_id, total = f"LF-{rng.randrange(10_000, 99_999)}", round(rng.uniform(5, 250), 2)
    city, reason = rng.choice(CITIES), rng.choice(REASONS)
    answer: dict[str, object] = {"order_id": order_id, "items": items}
    named = " and ".join(f"{'an' if item[0] in 'aeio' else 'a'} {item}" for item in items)
    middle = [rng.choice(ORDERS).format(id=order_id), rng.choice(ITEMS).format(items=named)]
    if rng.random() < OFTEN:
        answer["total"] = total
        middle.append(rng.choice(TOTALS).format(total=f"{total:.2f}"))
    if rng.random() < OFTEN:
        answer["delivery"] = {"city": city}
        middle.append(rng.choice(PLACES).format(city=city))
    answer["reason"] = reason
    middle.append(rng.choice(FAULTS).format(reason=reason))
    rng.shuffle(middle)
    mail = " ".join(filter(None, (rng.choice(GREETINGS), *middle, rng.choice(ENDINGS))))
    return {"instruction": mail, "input": "", "output": json.dumps(answer)}


def main() -> None:
    """Write the file."""
    rng = random.Random(SEED)
    rows = [json.dumps(make_row(rng), ensure_ascii=False) for _ in range(ROWS)]
    path = Path(__file__).parent / "data" / "raw" / "alpaca" / "mails.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
