"""The process of some measurements: `gpu.py task NAME ITEMS.json RESULTS.jsonl` writes a line for each item.

It ends at the first error, because a GPU may be unusable after one; bench.py starts another for the items that follow.
"""

import json
import sys
import time
import traceback
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

TASKS = {
    "models": "gpu_parts.models:build",
    "machine": "gpu_parts.models:describe_machine",
    "material": "gpu_parts.material:make",
    "training": "gpu_parts.trainings:train",
    "forward": "gpu_parts.forward:compare",
    "attention": "gpu_parts.forward:compare_attention",
    "merge": "gpu_parts.merging:merge_and_compare",
    "memory": "gpu_parts.memory_peak:measure",
    "speed": "gpu_parts.speed_runs:train",
    "scoring": "gpu_parts.scoring:measure",
    "teacher": "gpu_parts.vllm:answer",
    "server": "gpu_parts.vllm:serve",
    "ranks": "gpu_parts.ranks:train",
}
"""Task → the function that maps an item to its result."""


def main(name: str, items: Path, results: Path) -> None:
    """Run the items until one fails."""
    from ft_pipeline.rewards.sandbox import end_with_parent

    end_with_parent()
    for item in json.loads(items.read_text(encoding="utf-8")):
        started = time.monotonic()
        outcome = _outcome(name, item)
        outcome["seconds"] = round(time.monotonic() - started, 2)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(outcome) + "\n")
        if "error" in outcome:
            sys.exit(1)
        _free_memory()


def _outcome(name: str, item: dict[str, Any]) -> dict[str, Any]:
    from gpu_parts.bench import Skipped

    try:
        return {"result": resolve_name(TASKS[name])(item)}
    except Skipped as reason:
        return {"skipped": str(reason)}
    except Exception as error:
        traceback.print_exc()
        text = str(error).strip() or "no message"
        return {"error": f"{type(error).__name__}: {text.splitlines()[0][:400]}"}


def _free_memory() -> None:
    import gc

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
