"""Renew the records of the golden worlds: python -m ft_pipeline_tests.golden.record

A reviewer reads the change as a diff.
"""

from pathlib import Path

from ft_pipeline_tests.golden import worlds
from ft_pipeline_tests.golden.told import tell
from ft_pipeline_tests.golden.unreached import unreached

TOLD = Path(__file__).parent / "told"
UNREACHED = Path(__file__).parent / "unreached.txt"


def record() -> None:
    """Write what each world tells, and the sentences that none of them does. Records of other names are removed."""
    told = {name: tell(worlds.make(name)) for name in worlds.MADE}
    TOLD.mkdir(exist_ok=True)
    for path in TOLD.glob("*.txt"):
        if path.stem not in told:
            path.unlink()
    for name, text in told.items():
        (TOLD / f"{name}.txt").write_text(text, encoding="utf-8")
    lines = "".join(f"{template!r}\n" for template in unreached(told.values()))
    UNREACHED.write_text(lines, encoding="utf-8")
    print(f"{len(told)} worlds, {sum(map(len, told.values())):,} characters")


if __name__ == "__main__":
    record()
