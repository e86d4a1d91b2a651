"""Draws docs/images/graph.svg: the groups of assets from left to right, with their assets, at a width of 800 pixels.

    python docs/pictures/graph.py

Names, groups and arrows come from the definitions. A test compares the file with them. Dagster's own view of the graph
is three times as wide.
"""

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import dagster as dg

TARGET = Path(__file__).parents[1] / "images" / "graph.svg"
GROUPS = {
    "sources": "your files",
    "tables": "checked rows",
    "distillation": "a teacher's answers",
    "training": "per experiment",
    "evaluation": "scores, verdict",
    "release": "the model to ship",
}
"""The groups from left to right, and what is in them."""
WIDTH, BOX_WIDTH, GAP = 800, 118, 15
TOP, HEADER, LINE = 10, 46, 19
RAIL = 14
"""Distance between the boxes and the line of the arrows that skip a box."""
ACCENT = {"release": "#009E73"}
BLUE = "#0072B2"


def draw(specs: Sequence[dg.AssetSpec]) -> str:
    """Return the picture of these assets."""
    names: dict[str, list[str]] = {group: [] for group in GROUPS}
    group_of = {}
    for spec in _in_order(specs):
        name = spec.key.path[-1]
        group_of[name] = str(spec.group_name)
        names[str(spec.group_name)].append(name)
    lefts = {group: 8 + number * (BOX_WIDTH + GAP) for number, group in enumerate(GROUPS)}
    bottom = TOP + HEADER + LINE * max(map(len, names.values())) + 8
    arrows = sorted(_arrows(specs, group_of), key=lambda arrow: (lefts[arrow[0]], lefts[arrow[1]]))
    parts = [_box(group, names[group], lefts[group], bottom) for group in GROUPS]
    parts += [_arrow(lefts[source], lefts[target], bottom) for source, target in arrows]
    height = bottom + RAIL + 10
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}'"
            " font-family='Helvetica, Arial, sans-serif'>",
            f"<title>{escape(_sentence(names))}</title>",
            "<defs><marker id='head' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7'"
            " orient='auto'><path d='M0 0L8 4L0 8z' fill='#555'/></marker></defs>",
            f"<rect width='{WIDTH}' height='{height}' rx='8' fill='white'/>",
            *parts,
            "</svg>\n",
        ]
    )


def _in_order(specs: Sequence[dg.AssetSpec]) -> list[dg.AssetSpec]:
    """Return the assets so that each follows those that it reads."""
    alphabetical = sorted(specs, key=lambda spec: spec.key)
    inputs = {spec.key: sorted(dep.asset_key for dep in spec.deps) for spec in alphabetical}
    place = {key: number for number, key in enumerate(TopologicalSorter(inputs).static_order())}
    return sorted(specs, key=lambda spec: place[spec.key])


def _arrows(specs: Sequence[dg.AssetSpec], group_of: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return the pairs of groups of which the second reads the first."""
    pairs = {
        (group_of[dep.asset_key.path[-1]], group_of[spec.key.path[-1]])
        for spec in specs
        for dep in spec.deps
        if dep.asset_key.path[-1] in group_of
    }
    return {(source, target) for source, target in pairs if source != target}


def _box(group: str, assets: Sequence[str], left: int, bottom: int) -> str:
    color = ACCENT.get(group, BLUE)
    lines = "".join(
        f"<text x='{left + 9}' y='{TOP + HEADER + LINE * number + 14}' font-size='12.5' fill='#222'>{name}</text>"
        for number, name in enumerate(assets)
    )
    return (
        f"<rect x='{left}' y='{TOP}' width='{BOX_WIDTH}' height='{bottom - TOP}' rx='6' fill='#F7F9FB'"
        f" stroke='#CBD3DA'/>"
        f"<path d='M{left + 1} {TOP + 2}h{BOX_WIDTH - 2}' stroke='{color}' stroke-width='4'/>"
        f"<text x='{left + 9}' y='{TOP + 21}' font-size='14.5' font-weight='bold' fill='{color}'>{group}</text>"
        f"<text x='{left + 9}' y='{TOP + 37}' font-size='12' fill='#555'>{escape(GROUPS[group])}</text>"
        f"{lines}"
    )


def _arrow(source: int, target: int, bottom: int) -> str:
    """Return an arrow to the next box, or below the boxes to a later one."""
    style = "fill='none' stroke='#555' stroke-width='1.5' marker-end='url(#head)'"
    if target - source == BOX_WIDTH + GAP:
        return f"<path d='M{source + BOX_WIDTH} {TOP + 20}H{target - 1}' {style}/>"
    middle = BOX_WIDTH // 2
    return f"<path d='M{source + middle} {bottom}v{RAIL}H{target + middle}V{bottom + 1}' {style}/>"


def _sentence(names: Mapping[str, Sequence[str]]) -> str:
    groups = "; ".join(f"{group}: {', '.join(assets)}" for group, assets in names.items())
    return f"The assets by group, from raw files to a released model. {groups}"


def definitions() -> Any:
    """Return the definitions of the package, with every step."""
    from ft_pipeline.definitions import of_run
    from ft_pipeline.execution.graph import whole_graph

    return of_run(whole_graph())


if __name__ == "__main__":
    TARGET.write_text(draw(definitions().resolve_all_asset_specs()), encoding="utf-8")
    print(TARGET)
