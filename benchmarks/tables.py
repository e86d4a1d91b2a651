"""A million Alpaca rows: read, validated, deduplicated and split, against the usual way with `datasets`.

    python benchmarks/tables.py [--rows 1000000] [--only ours|datasets] [--out FILE]

Both ways run as processes of their own, one after the other, over the same rows; peak memory is that of the whole
process tree, sampled ten times a second. The usual way does less: it loads, filters empty rows, drops exact copies,
splits at random and writes Parquet. It cannot read lines that are no JSON or hold a number for a text, so it gets the
file without those. Results go to benchmarks/results/tables.json; those of one way only where `--out` says so.

To compute as a CPU without AVX-512 does:

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 ARROW_USER_SIMD_LEVEL=AVX2 \\
        NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL" \\
        python benchmarks/tables.py --out benchmarks/results/tables_avx2.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
import orjson
import psutil

RESULTS = Path(__file__).parent / "results" / "tables.json"
CHUNK = 20_000
BROKEN_SHARE, COPY_SHARE, NEAR_SHARE = 0.001, 0.005, 0.005


def generate(rows: int, path: Path, loadable: Path, seed: int = 0) -> dict[str, int]:
    """Write `rows` rows to `path`, and to `loadable` those that `datasets` can load; how many of each flaw."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array([_word(rng) for _ in range(30_000)])
    weights = 1 / (np.arange(len(vocabulary)) + 10)
    weights /= weights.sum()
    counts = {"broken_json": 0, "wrong_type": 0, "null_output": 0, "empty_output": 0, "copies": 0, "near_copies": 0}
    with path.open("wb") as file, loadable.open("wb") as other:
        for begin in range(0, rows, CHUNK):
            size = min(CHUNK, rows - begin)
            lengths = np.stack([rng.integers(6, 18, size), rng.integers(0, 40, size), rng.integers(12, 60, size)])
            lengths[1][lengths[1] > 12] = 0
            words = iter(vocabulary[rng.choice(len(vocabulary), int(lengths.sum()), p=weights)].tolist())
            earlier: dict[str, str] = {}
            for question, extra, answer in lengths.T.tolist():
                row = {
                    "instruction": " ".join(next(words) for _ in range(question)).capitalize() + "?",
                    "input": " ".join(next(words) for _ in range(extra)),
                    "output": " ".join(next(words) for _ in range(answer)).capitalize() + ".",
                }
                draw = rng.random()
                if draw < COPY_SHARE and earlier:
                    row, kind = earlier, "copies"
                elif draw < COPY_SHARE + NEAR_SHARE and earlier:
                    row, kind = {**earlier, "output": earlier["output"].upper() + " "}, "near_copies"
                else:
                    kind = ""
                    earlier = row
                line, kind = _broken(rng, row) if rng.random() < BROKEN_SHARE else (orjson.dumps(row), kind)
                if kind:
                    counts[kind] += 1
                file.write(line + b"\n")
                if kind not in {"broken_json", "wrong_type"}:
                    other.write(line + b"\n")
    return counts


def _word(rng: np.random.Generator) -> str:
    return "".join(map(chr, rng.integers(97, 123, rng.integers(2, 10))))


def _broken(rng: np.random.Generator, row: dict[str, str]) -> tuple[bytes, str]:
    kind = ("broken_json", "wrong_type", "null_output", "empty_output")[rng.integers(4)]
    changed = {"broken_json": "", "wrong_type": 7, "null_output": None, "empty_output": " "}[kind]
    line = orjson.dumps({**row, "output": changed} if kind != "broken_json" else row)
    return (line[:-4] if kind == "broken_json" else line), kind


def ours(path: Path, out: Path) -> dict[str, object]:
    """Table and conversations, as the pipeline makes them."""
    from rich.console import Console
    from rich.progress import Progress

    from ft_pipeline.settings.data import DataSettings
    from ft_pipeline.tables.build import build_table
    from ft_pipeline.tables.conversations import build_conversations
    from ft_pipeline.tables.file_result import SourceFile
    from ft_pipeline.tables.held_out import SuiteTexts

    questions = [(question, "") for question in _general_suite("questions", "query")]
    shares, suite = DataSettings(), SuiteTexts.of(questions, [], _general_suite("texts", "text"))
    start = time.perf_counter()
    source = SourceFile(path.name, path, "")
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("rows", total=None)
        table = build_table(
            "alpaca",
            [source],
            out / "alpaca",
            max_quarantined=0.1,
            shares=shares,
            progress=lambda rows: bar.advance(task, rows),
        )
    built = time.perf_counter()
    build_table("sharegpt", [], out / "sharegpt", max_quarantined=0.1)
    folders = {name: out / name for name in ("alpaca", "sharegpt")}
    report = build_conversations(folders, out / "conversations", settings=shares, suite=suite)
    assert table.passed and report.passed, (table.checks, report.checks)
    return {
        "table_seconds": built - start, "conversations_seconds": time.perf_counter() - built, "read": table.read,
        "accepted": table.accepted, "reasons": table.reasons, "splits": report.splits,
    }  # fmt: skip


def _general_suite(name: str, column: str) -> list[str]:
    path = Path(__file__).parents[1] / "data" / "general" / f"{name}.jsonl"
    return [orjson.loads(line)[column] for line in path.read_bytes().splitlines()]


def usual(path: Path, out: Path) -> dict[str, object]:
    """load_dataset, filter, exact deduplication, train_test_split, Parquet."""
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(out / "cache"))
    read = len(rows)
    rows = rows.filter(lambda row: bool(row["instruction"] and row["output"] and row["output"].strip()))
    seen: set[tuple[str, str, str]] = set()

    def fresh(row: dict[str, str]) -> bool:
        key = (row["instruction"], row["input"], row["output"])
        return not (key in seen or seen.add(key))

    rows = rows.filter(fresh)
    parts = rows.train_test_split(test_size=0.15, seed=0)
    for name, part in parts.items():
        part.to_parquet(str(out / f"{name}.parquet"))
    return {"read": read, "accepted": len(rows), "splits": {name: len(part) for name, part in parts.items()}}


def measure(way: str, path: Path, out: Path) -> dict[str, object]:
    """Run one way in a separate process: its account, wall seconds (imports included), peak memory in GB."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--run", way, str(path), str(out)]
    process = psutil.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        sampled = time.perf_counter()
        peak = max(peak, _memory(process))
        time.sleep(max(0.1, 10 * (time.perf_counter() - sampled)))
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{way} failed")
    account = json.loads(process.stdout.read().splitlines()[-1])
    return {"seconds": round(seconds, 2), "peak_gb": round(peak / 1e9, 2), **account}


def _memory(process: psutil.Process) -> int:
    """Proportional set size of the tree: shared pages count once."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["ours", "datasets"])
    parser.add_argument("--out", type=Path, help="the file for the results")
    parser.add_argument("--run", nargs=3, metavar=("WAY", "FILE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        way, path, out = options.run
        print(json.dumps({"ours": ours, "datasets": usual}[way](Path(path), Path(out))))
        return
    with tempfile.TemporaryDirectory(prefix="bench-tables-") as folder:
        ways = [options.only] if options.only else ["datasets", "ours"]
        results = compare(Path(folder), options.rows, ways)
    out = options.out or (None if options.only else RESULTS)
    if out:
        out.write_text(json.dumps(results, indent=1) + "\n")


def compare(folder: Path, rows: int, ways: list[str]) -> dict[str, object]:
    """Generate the rows, run the ways in turn, print and return their results."""
    path, loadable = folder / "rows.jsonl", folder / "loadable.jsonl"
    flaws = generate(rows, path, loadable)
    print(f"{rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB, {flaws}")
    results: dict[str, Any] = {"rows": rows, "flaws": flaws, "machine": machine.describe()}
    for way in ways:
        (folder / way).mkdir()
        results[way] = measure(way, path if way == "ours" else loadable, folder / way)
        print(way, json.dumps(results[way], indent=1))
    if len(ways) == 2:
        results["speed_ratio"] = round(results["datasets"]["seconds"] / results["ours"]["seconds"], 2)
        print(f"ours is {results['speed_ratio']:.2f} times as fast as datasets")
    return results


if __name__ == "__main__":
    main()
