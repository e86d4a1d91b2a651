"""The picture of the graph in the docs shows the assets that exist."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from ft_pipeline import scaffold

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "docs" / "images" / "graph.svg"


@pytest.fixture(scope="module")
def graph() -> ModuleType:
    """docs/pictures/graph.py."""
    spec = importlib.util.spec_from_file_location("graph", ROOT / "docs" / "pictures" / "graph.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(graph: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = scaffold.create(tmp_path_factory.mktemp("picture") / "shop", example=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FT_PROJECT", str(root))
        return graph.draw(graph.definitions().resolve_all_asset_specs())


def test_the_picture_of_the_graph_is_up_to_date(drawn: str) -> None:
    assert COMMITTED.read_text(encoding="utf-8") == drawn, "run `make docs`"


def test_the_picture_names_every_asset_once(graph: ModuleType, drawn: str) -> None:
    specs = graph.definitions().resolve_all_asset_specs()
    shown = re.findall(r"<text [^>]*>([^<]+)</text>", drawn)
    assert sorted(shown) == sorted([*(spec.key.path[-1] for spec in specs), *graph.GROUPS, *graph.GROUPS.values()])


def test_the_picture_fits_a_page_of_800_pixels(drawn: str) -> None:
    assert " width='800' " in drawn
    rights = [int(left) + int(width) for left, width in re.findall(r"<rect x='(\d+)' y='\d+' width='(\d+)'", drawn)]
    assert len(rights) == 6 and max(rights) <= 800
