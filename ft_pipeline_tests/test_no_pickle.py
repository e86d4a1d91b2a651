"""The package neither unpickles data nor runs code of a model repository."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import ft_pipeline

ROOT = Path(ft_pipeline.__file__).parent
PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BETWEEN_OWN_PROCESSES = {"tables/reading/process_pool.py"}
"""Uses pipes to processes that it started itself, and pickles nothing to a file."""
NAMES_ONE = re.compile(
    r"pickle|dill|joblib|shelve|marshal|(torch|jit|numpy|np)\.load|torch\.save|unsafe_load|trust_remote_code"
)
"""What the source of an unsafe use contains. Other files are not parsed."""
LOADERS = {"torch.load", "torch.save", "torch.jit.load", "numpy.load", "np.load", "pd.read_pickle", "yaml.unsafe_load"}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def unsafe_uses(path: Path) -> list[str]:
    """Return the imports and calls of a file that could run code from data."""
    source = path.read_text(encoding="utf-8")
    tree, uses = ast.parse(source if NAMES_ONE.search(source) else ""), []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        uses += [name for name in names if name.split(".")[0] in PICKLERS]
    for call in calls(tree):
        uses += [ast.unparse(call.func)] if ast.unparse(call.func) in LOADERS else []
        uses += [
            f"trust_remote_code={ast.unparse(keyword.value)}"
            for keyword in call.keywords
            if keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) != "False"
        ]
    return uses


def test_no_module_unpickles_or_trusts_remote_code() -> None:
    uses_by_file = {path.relative_to(ROOT).as_posix(): unsafe_uses(path) for path in ROOT.rglob("*.py")}
    assert len(uses_by_file) > 100
    assert {name for name, uses in uses_by_file.items() if uses} == BETWEEN_OWN_PROCESSES


def test_unsafe_uses_are_detected(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import pickle\nimport torch\ntorch.load('a')\nf(trust_remote_code=x)\n", encoding="utf-8")
    assert unsafe_uses(path) == ["pickle", "torch.load", "trust_remote_code=x"]


def test_models_and_tokenizers_are_loaded_without_remote_code() -> None:
    """Each call of an Auto class sets `trust_remote_code`, except for a GGUF file, which contains no code."""
    missing, call_count = [], 0
    for path in ROOT.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        for call in calls(ast.parse(source if "from_pretrained" in source else "")):
            name = ast.unparse(call.func)
            if name.startswith("Auto") and name.endswith("from_pretrained") and "(" not in name:
                call_count += 1
                keywords = {keyword.arg for keyword in call.keywords}
                missing += [] if keywords & {"trust_remote_code", "gguf_file"} else [f"{path.name}: {name}"]
    assert missing == [] and call_count >= 2
