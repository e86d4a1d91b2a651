"""The source asks for nothing that unpickles or runs a model's own code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import ft_pipeline

ROOT = Path(ft_pipeline.__file__).parent
PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BETWEEN_OWN_PROCESSES = {"tables/reading/process_pool.py"}
"""Speaks over pipes with processes that it started itself; nothing of it touches a file."""
LOADERS = {"torch.load", "torch.save", "torch.jit.load", "numpy.load", "np.load", "pd.read_pickle", "yaml.unsafe_load"}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def complaints(path: Path) -> list[str]:
    """What a file imports or calls that could run code out of data."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [name for name in names if name.split(".")[0] in PICKLERS]
    for call in calls(tree):
        found += [ast.unparse(call.func)] if ast.unparse(call.func) in LOADERS else []
        found += [
            f"trust_remote_code={ast.unparse(keyword.value)}"
            for keyword in call.keywords
            if keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) != "False"
        ]
    return found


def test_no_module_unpickles_or_trusts_remote_code() -> None:
    found = {path.relative_to(ROOT).as_posix(): complaints(path) for path in ROOT.rglob("*.py")}
    assert len(found) > 100
    assert {name for name, each in found.items() if each} == BETWEEN_OWN_PROCESSES


def test_the_look_sees_what_it_looks_for(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import pickle\nimport torch\ntorch.load('a')\nf(trust_remote_code=x)\n", encoding="utf-8")
    assert complaints(path) == ["pickle", "torch.load", "trust_remote_code=x"]


def test_every_model_and_tokenizer_is_loaded_without_its_own_code() -> None:
    """All Auto classes are asked so; but for a GGUF file, which holds no code."""
    lacking, seen = [], 0
    for path in ROOT.rglob("*.py"):
        for call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(call.func)
            if name.startswith("Auto") and name.endswith("from_pretrained") and "(" not in name:
                seen += 1
                asked = {keyword.arg for keyword in call.keywords}
                lacking += [] if asked & {"trust_remote_code", "gguf_file"} else [f"{path.name}: {name}"]
    assert lacking == [] and seen >= 2
