"""Writes data/raw/alpaca/messages.jsonl: invented messages of customers, and the label of each.

The same seed gives the same file. Run it in this folder with `python make_rows.py`.
"""

import json
import random
from pathlib import Path

ROWS, SEED = 360, 22
THINGS = (
    *("kettle", "lamp", "rug", "teapot", "bench", "clock", "tray", "basket", "stool", "mirror", "vase", "shelf"),
    *("blanket", "toaster", "bowl", "hammock", "ladder", "parasol", "doormat", "curtain"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "last week", "two weeks ago", "yesterday")
SENTENCES = {
    "delivery": (
        *("Where is my {thing}?", "The {thing} has not arrived yet.", "When will the {thing} get here?"),
        *("Tracking has not moved since {day}.", "I was told it would come {day}.", "The courier left no card."),
        *("How long does it take to reach Ireland?", "My neighbour did not get the parcel either."),
        *("It says delivered, but nothing is here.", "Can the driver leave it in the shed?"),
    ),
    "refund": (
        *("I want my money back for the {thing}.", "You got the {thing} back {day}, but nothing was paid."),
        *("When do I see the money on my card?", "I was charged twice for the {thing}.", "The sum is too low."),
        *("I sent it back {day} and still wait for the payment.", "Please transfer what I paid."),
        *("Does the payment go to the same account?", "I would rather have the money than a voucher."),
    ),
    "damaged": (
        *("The {thing} is broken.", "There is a crack in the {thing}.", "A part of the {thing} came off."),
        *("It arrived in pieces {day}.", "One corner is bent and the box was torn.", "It stopped working {day}."),
        *(
            "The paint is coming off.",
            "It wobbles and one screw does not hold.",
            "There is a big scratch on the front.",
        ),
    ),
    "product": (
        *("How wide is the {thing}?", "Does the {thing} come in green?", "Is the {thing} safe for outdoors?"),
        *("What is the {thing} made of?", "Can I wash it by hand?", "Which bulb does it need?", "How heavy is it?"),
        *("Is it back in stock soon?", "Will it fit on a small balcony?", "Do you also sell spare parts for it?"),
    ),
    "account": (
        *("I cannot log in.", "The link to change my password does not work.", "Please close my account."),
        *("How do I change my e-mail address?", "I get no code on my phone.", "Stop sending me the newsletter."),
        *("My orders from {day} do not show when I sign in.", "Someone else seems to use my login."),
    ),
}
WEIGHTS = {"delivery": 30, "refund": 22, "damaged": 20, "product": 18, "account": 10}
BEFORE = (
    *(
        "Hello,",
        "Hi,",
        "Good morning,",
        "Hey there,",
        "Hi team,",
        "I bought a {thing} {day}.",
        "It is about a {thing}.",
    ),
    *("Second time I write.", "I am a customer since spring.", "Quick question.", "Sorry to bother you.", ""),
)
AFTER = (
    *("Thanks.", "Please help.", "Kind regards", "I am waiting for an answer.", "Best wishes", "Can you check?"),
    *("I need it by {day}.", "My sister has the same {thing}.", "I liked the {thing} I got before.", "What now?", ""),
)


def make_row(rng: random.Random) -> dict[str, str]:
    """Return a row: the message, and its label."""
    label = rng.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
    said = rng.sample(SENTENCES[label], rng.choice((1, 2, 2)))
    parts = [rng.choice(BEFORE), *said, rng.choice(AFTER)]
    thing, day = rng.choice(THINGS), rng.choice(DAYS)
    message = " ".join(part.format(thing=thing, day=day) for part in parts if part)
    return {"instruction": message, "input": "", "output": label}


def main() -> None:
    """Write the file."""
    rng = random.Random(SEED)
    rows = [json.dumps(make_row(rng), ensure_ascii=False) for _ in range(ROWS)]
    path = Path(__file__).parent / "data" / "raw" / "alpaca" / "messages.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
