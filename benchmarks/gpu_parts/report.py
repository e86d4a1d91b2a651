"""REPORT.md and pictures of the parts that have a result."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu_parts.runner import Part, Results, describe_check

SPEED, MEMORY = "speed.png", "memory.png"
_DIGITS = 4


def write(results: Results, parts: Sequence[Part]) -> str:
    """Write the report into the folder of the results; return what happened, in a line."""
    setup = results.setup()
    found = {part.name: result for part in parts if (result := results.of(part.name))}
    pictures = [name for name, draw in _PICTURES.items() if _drawn(results.folder / name, draw, found)]
    text = "\n".join(_lines(setup, parts, found, pictures)) + "\n"
    path = results.folder / "REPORT.md"
    path.write_text(text, encoding="utf-8")
    counts = _counts(found)
    return f"{path}: {counts}, {len(parts) - len(found)} not run"


def _lines(setup: dict[str, Any], parts: Sequence[Part], found: dict[str, Any], pictures: Sequence[str]) -> list[str]:
    lines = ["# Acceptance on a GPU" if setup["device"] == "cuda" else "# Trial of the acceptance on a CPU", ""]
    if setup["device"] == "cpu":
        lines += ["Nothing here ran on a GPU. It shows that the program works, with tiny models.", ""]
    lines += _machine(found.get("models", {}))
    lines += [f"{_counts(found)}, {len(parts) - len(found)} not run.", ""]
    lines += ["| part | question | result | checks | seconds |", "|---|---|---|---|---|"]
    for part in parts:
        result = found.get(part.name)
        lines.append(f"| [{part.name}](#{part.name}) | {part.question} | {_cells(result)} |")
    failed = [
        (name, check) for name, result in found.items() for check in result.get("checks", []) if not check["passed"]
    ]
    if failed:
        lines += ["", "## Failed checks", ""]
        lines += [f"- {name}: {_plain(describe_check(check))}" for name, check in failed]
    for picture in pictures:
        lines += ["", f"![{picture}]({picture})"]
    for part in parts:
        if part.name in found:
            lines += ["", f"## {part.name}", "", *_section(part, found[part.name])]
    return lines


def _machine(models: dict[str, Any]) -> list[str]:
    """The machine, driver, versions and date."""
    (facts,) = models.get("tables", {}).get("machine", [{}])
    if not facts:
        return []
    lines = [f"- Date: {models['finished_at']}"]
    if gpu := facts.get("gpu"):
        names = ", ".join(gpu["names"])
        lines.append(
            f"- GPU: {names}, {gpu['memory_gb']} GB ({gpu['free_gb']} GB free), capability {gpu['capability']}"
        )
        lines.append(f"- Driver {gpu['driver']}, CUDA {gpu['cuda']}, computes in {gpu['compute_dtype']}")
        lines.append("- Products: " + ", ".join(f"{value} TFLOP/s in {name}" for name, value in gpu["tflops"].items()))
    cpu = facts["machine"]
    lines.append(f"- CPU: {cpu['cpu']}, {cpu['cores']} cores, {cpu['memory_gb']} GB, Python {cpu['python']}")
    versions = [f"{name} {version}" for name, version in facts["versions"].items() if version]
    missing = [name for name, version in facts["versions"].items() if not version]
    lines.append(f"- Versions: {', '.join(versions)}. Not installed: {', '.join(missing) or 'none'}")
    return [*lines, ""]


def _counts(found: dict[str, Any]) -> str:
    """`9 parts passed, 1 failed, 2 skipped`."""
    statuses = [result["status"] for result in found.values()]
    counts = {name: statuses.count(name) for name in ("passed", "failed", "error", "skipped")}
    return ", ".join(f"{count} {'parts ' if name == 'passed' else ''}{name}" for name, count in counts.items())


def _cells(result: dict[str, Any] | None) -> str:
    if result is None:
        return "not run | - | -"
    checks = result.get("checks", [])
    passed = f"{sum(check['passed'] for check in checks)} of {len(checks)}" if checks else "-"
    return f"{result['status']} | {passed} | {result['seconds']:.0f}"


def _section(part: Part, result: dict[str, Any]) -> list[str]:
    lines = [f"{part.question} **{result['status']}**, {result['finished_at']}."]
    if result.get("error"):
        lines += ["", _plain(result["error"])]
    lines += [
        line for name, reason in result.get("skipped", {}).items() for line in ("", f"Skipped {name}: {_plain(reason)}")
    ]
    for title, rows in result.get("tables", {}).items():
        if title != "machine":
            lines += ["", f"**{title}**", "", *_table(rows)]
    if checks := result.get("checks"):
        lines += ["", "<details><summary>Checks</summary>", ""]
        lines += [
            f"- {'passed' if check['passed'] else '**failed**'}: {_plain(describe_check(check))}" for check in checks
        ]
        lines += ["", "</details>"]
    return lines


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(name.replace("_", " ") for name in columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_shown(row.get(name)) for name in columns) + " |" for row in rows]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{_DIGITS}g}"
    return _plain(f"{value:,}" if isinstance(value, int) else str(value))


def _plain(text: str) -> str:
    """Text that a table and Markdown keep as it is."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


# --- pictures ---------------------------------------------------------------------------------------------------------


def _drawn(path: Path, draw: Callable[[Any, dict[str, Any]], bool], found: dict[str, Any]) -> bool:
    """Whether there was something to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=110)
    try:
        if not draw(axes, found):
            path.unlink(missing_ok=True)
            return False
        figure.savefig(path, bbox_inches="tight")
        return True
    finally:
        pyplot.close(figure)


def _draw_speed(axes: Any, found: dict[str, Any]) -> bool:
    rows = [row for name in found if name.startswith("speed-") for row in _rows(found[name], "speed")]
    labels = [f"{row['technique']}: {row['contender']}" for row in rows]
    colors = ["#0072B2" if row["contender"].startswith("ours") else "#D55E00" for row in rows]
    axes.barh(labels, [row["tokens_per_second"] for row in rows], color=colors)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set(title="Training speed (blue: this project)", xlabel="tokens per second")
    return bool(rows)


def _draw_memory(axes: Any, found: dict[str, Any]) -> bool:
    rows = _rows(found.get("memory", {}), "memory")
    positions = range(len(rows))
    for shift, name, color in ((-0.2, "predicted_gb", "#E69F00"), (0.2, "peak_gb", "#0072B2")):
        heights = [row[name] for row in rows]
        axes.barh([position + shift for position in positions], heights, height=0.4, label=name, color=color)
    axes.set_yticks(list(positions), [row["training"] for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set(title="Memory: estimate and measured peak", xlabel="GB (10⁹ bytes)")
    axes.legend()
    return bool(rows)


def _rows(result: dict[str, Any], table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = result.get("tables", {}).get(table, [])
    return rows


_PICTURES = {SPEED: _draw_speed, MEMORY: _draw_memory}
