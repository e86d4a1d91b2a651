"""Make the thumbs of the worked example from its preference pairs: `python data/make_thumbs.py`.

Each pair becomes two rows of data/raw/feedback/thumbs.jsonl, as in the KTO paper (arXiv 2402.01306): a thumb up on the
preferred answer and a thumb down on the other one. The rows are in the order of the hashes of their texts, so that
nothing shows which two were a pair.
"""

import json
from hashlib import sha256
from pathlib import Path

RAW = Path(__file__).parent / "raw"
SOURCES = ("pairs.jsonl", "pairs_02.jsonl")


def rows() -> list[str]:
    """Return the lines of the file."""
    thumbs = []
    for name in SOURCES:
        for line in (RAW / "preferences" / name).read_text(encoding="utf-8").splitlines():
            pair = json.loads(line)
            for side, label in (("chosen", True), ("rejected", False)):
                thumbs.append({"prompt": pair["prompt"], "completion": pair[side], "label": label})
    lines = [json.dumps(thumb, ensure_ascii=False) for thumb in thumbs]
    return sorted(lines, key=lambda line: sha256(line.encode()).hexdigest())


def main() -> None:
    """Write the file."""
    path = RAW / "feedback" / "thumbs.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
