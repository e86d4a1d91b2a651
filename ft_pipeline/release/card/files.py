"""The card's section on the files of an export: their hashes, and how anybody checks them without this project."""

from collections.abc import Mapping

TITLE = "Files and how to check them"
ROW_RECIPE = """\
import hashlib, json, re
text = open("training_rows.txt", encoding="utf-8").read()
salt = bytes.fromhex(re.search(r"^# salt: (\\w+)$", text, re.M)[1])
row = {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hi."}]}
said = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
leaf = hashlib.sha256(b"\\0" + salt + hashlib.sha256(said).digest()).hexdigest()
print("in the list" if leaf in text.splitlines() else "not in the list")"""
"""Computes a row's leaf and looks it up. Only the line `row = …` is to be changed."""
_SHAPES = """\
`row` is one of these. What a row does not have is null in the first, and left out in the others.

- question and answer (Alpaca): `{"instruction": …, "input": "", "output": …, "system": None, "history": None}`
- conversation: `{"messages": [{"role": "user", "content": …}, …]}`; the roles are system, user, assistant and tool
- raw text: `{"text": …}`
- pair of answers: `{"prompt_messages": […], "chosen": […], "rejected": […]}`, each a list of turns
- rated answer: `{"prompt_messages": […], "completion": […], "label": True}`, `completion` a list of one turn"""
_UNSIGNED = (
    "This folder is not signed: the hashes show that its files fit together, not who made them. `ft init` makes a key "
    "for a new project, `ft keys new --reason TEXT` for an existing one. Then export again."
)
_SIGNED = """\
The folder is signed (OpenSSF model signing, ECDSA P-256). With the publisher's public key, and without this project:

```sh
pip install model-signing pyOpenSSL
model_signing verify key . --signature model.sig --public_key PUBLISHERS_KEY.pub
```

`signing_key.pub` is the public key, with the id `{key_id}`:
`openssl pkey -pubin -in signing_key.pub -outform der | sha256sum`. Whoever changes this folder can put another key \
there, and another id here. Compare them with what you obtained elsewhere, from the publisher."""


def files_section(hashes: Mapping[str, str], *, root: str, leaves: int, withheld: int, key_id: str | None) -> str:
    """Return the section as Markdown.

    hashes: SHA-256 of the weight files and of the documents about them, by name. root, leaves, withheld: those of the
    list of training rows. key_id: of the key that signs the export; None if it is not signed.
    """
    listed = "\n".join(f"{sha256}  {name}" for name, sha256 in hashes.items())
    gone = f" Rows that were erased since the training, and whose leaves are withheld: {withheld}." if withheld else ""
    parts = [
        f"## {TITLE}",
        f"```text\n{listed}\n```",
        "`sha256sum -c SHA256SUMS` checks these and all other files. `bom.cdx.json` (CycloneDX) lists what the model "
        "was made from, `provenance.json` (SLSA) how, `training_rows.txt` the salted hashes of its training rows.",
        f"Merkle root of the {leaves:,} training rows: `{root}`.{gone} To check whether a row is among them:",
        f"```python\n{ROW_RECIPE}\n```",
        _SHAPES,
        _UNSIGNED if key_id is None else _SIGNED.format(key_id=key_id),
    ]
    return "\n\n".join(parts) + "\n"
