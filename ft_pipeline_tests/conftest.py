"""Fixtures that several stages share."""

import atexit
import gc
import importlib.util
import io
import os
import shutil
import signal
import socketserver
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ft_pipeline.execution.workers.late_compiler import compile_late
from ft_pipeline_tests.examples import load_profile

gc.disable()  # until all is imported (pytest_collection_finish): each collection would visit all modules

if TYPE_CHECKING:
    from ft_pipeline_tests.gguf_files import Converted

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test connects to the Hugging Face Hub
os.environ.pop("FT_PROJECT", None)  # `make` names this repository, in which no test works
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job that a shell started in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("FT_KEYS", "FT_LEASE_DIR"):
    # No test writes keys to the home of the user. Tests that run in parallel do not wait for each other's device.
    os.environ[name] = tempfile.mkdtemp(prefix="ft-tests-")
    atexit.register(shutil.rmtree, os.environ[name], ignore_errors=True)


class _DefinitionsOfThisRepository(MetaPathFinder):
    """Load the graph for the project of this repository, whichever test needs the graph first.

    A process loads the graph once, for the project that it finds. Without this, that would be the project of any test.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the spec of `ft_pipeline.definitions`, with a loader that also loads the graph."""
        if name != "ft_pipeline.definitions":
            return None
        sys.meta_path.remove(self)
        import dagster as dg

        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_load(module: ModuleType) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("FT_PROJECT", str(Path(__file__).parent.parent))
                patch.delenv("DAGSTER_HOME", raising=False)
                execute(module)
                loaded = module.defs()
            module.defs = dg.definitions(lambda: loaded)  # each test that asks for the graph would build it again

        spec.loader.exec_module = execute_and_load  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _DefinitionsOfThisRepository())
compile_late()  # as in workers


def _late_grammars(name: str) -> ModuleType:
    """A module that jsonschema imports, loaded at its first call: it compiles 38 grammars, for four seconds.

    Each is compiled when a text is parsed with it.
    """

    @cache
    def loaded() -> ModuleType:
        import lark

        class LateGrammar:
            def __init__(self, *arguments: Any, **named: Any) -> None:
                self.compiled = cache(lambda: compiler(*arguments, **named))

            def parse(self, *arguments: Any, **named: Any) -> Any:
                return self.compiled().parse(*arguments, **named)

        del sys.modules[name]
        compiler, lark.Lark = lark.Lark, LateGrammar  # type: ignore[misc, assignment]
        try:
            return importlib.import_module(name)
        finally:
            lark.Lark = compiler  # type: ignore[misc]

    late = ModuleType(name)
    late.is_valid_syntax = lambda term, text: loaded().is_valid_syntax(term, text)  # type: ignore[attr-defined]
    return late


if importlib.util.find_spec("rfc3987_syntax") is not None:
    sys.modules["rfc3987_syntax"] = _late_grammars("rfc3987_syntax")


def _leave_it_to_the_system(descriptor: int) -> None:
    """Instead of os.fsync: no test cuts the power, and each artifact waited for the disk. Workers still do."""
    os.fstat(descriptor)  # a file that is closed is still an error


os.fsync = _leave_it_to_the_system  # type: ignore[assignment]
load_profile()
socketserver.BaseServer.serve_forever.__defaults__ = (0.02,)
"""Seconds after which a server sees that it is to end. With 0.5, each test of a server would wait for it."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of few tests, among which are the dearest, so that no process is left with one of them."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: tests[item.path])


def pytest_collection_finish() -> None:
    """Load the graph if a test module imports what reads it. Tests of pure functions do not wait for Dagster."""
    if "ft_pipeline.step" in sys.modules:
        importlib.import_module("ft_pipeline.definitions")
        _never_wait_for_the_disk()
        _keep_what_each_event_would_make_again()
        _mirror_no_output()
        _draw_without_pixels()
    if "ft_pipeline.store.bounded_duckdb" in sys.modules:
        _share_a_database()
    gc.collect()
    gc.enable()
    gc.freeze()  # each collection would otherwise visit all modules, for 0.3 s; each training asks for some
    # With Python's own thresholds, a law of many small objects spends half of its time on collections.
    gc.set_threshold(10_000, 20, 50)


def _never_wait_for_the_disk() -> None:
    """Let SQLite, in which Dagster keeps its instances, leave it to the system when a commit reaches the disk."""
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "connect")
    def hurry(connection: Any, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")


ENGINES: dict[tuple[int, str], Any] = {}
"""(process, URL) → the engine of a database of Dagster."""


def close_databases_of_dagster() -> None:
    """Close the connections that are kept. Call it before files of an instance are replaced by others: SQLite would
    remove the write-ahead logs of the new ones."""
    for key in [made for made in ENGINES if made[0] == os.getpid()]:
        ENGINES.pop(key).pool.dispose()


def _keep_what_each_event_would_make_again() -> None:
    """Make an engine and a connection once for each database of Dagster, and read Dagster's migrations once.

    Its event log makes both for each event: it compiles its statements anew, and SQLite reads the schema. And each
    of the databases of an instance and of a run reads 70 files of migrations when it is created.
    """
    from alembic.script import ScriptDirectory
    from dagster._core.storage.event_log.sqlite import sqlite_event_log
    from dagster._core.storage.runs.sqlite import sqlite_run_storage
    from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
    from sqlalchemy import QueuePool, create_engine

    read, migrations = ScriptDirectory.from_config, {}

    def read_once(config: Any) -> ScriptDirectory:
        location = config.get_main_option("script_location")
        return migrations.get(location) or migrations.setdefault(location, read(config))

    def make_once(url: str, **options: Any) -> Any:
        key = (os.getpid(), url)  # no process uses or closes a connection of the one that it was forked from
        if key not in ENGINES:
            own = [made for made in ENGINES if made[0] == key[0]]
            if len(own) >= 20:  # each run has a database
                ENGINES.pop(own[0]).pool.dispose()
            options |= {"poolclass": QueuePool, "connect_args": {"timeout": 60, "check_same_thread": False}}
            ENGINES[key] = create_engine(url, **options)
            ENGINES[key].dispose = lambda **_: None  # after each event
        return ENGINES[key]

    ScriptDirectory.from_config = read_once  # type: ignore[method-assign, assignment]
    for storage in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        storage.create_engine = make_once  # type: ignore[attr-defined]


def _share_a_database() -> None:
    """Ask one DuckDB in memory for all that tables and models ask: to open one takes 40 ms, most questions take 2."""
    import duckdb

    from ft_pipeline.store import bounded_duckdb

    @cache
    def database(process: int) -> duckdb.DuckDBPyConnection:
        return duckdb.connect(":memory:")

    shared = SimpleNamespace(connect=lambda _: database(os.getpid()).cursor())
    bounded_duckdb.duckdb = shared  # type: ignore[assignment]


_RENDERS: list[Callable[[Any], bytes]] = []
"""What draws the pixels of a figure, once nothing else does."""


def _draw_without_pixels() -> None:
    """Let pictures be drawn up to their figure, and be a dot: the text of each takes half a second to lay out.

    Tests of what a picture looks like ask for the fixture `rendered`.
    """
    from PIL import Image

    from ft_pipeline import plotting

    dot = io.BytesIO()
    Image.new("P", (1, 1)).save(dot, format="png")
    _RENDERS.append(plotting._to_png)
    plotting._to_png = lambda figure: dot.getvalue()


def _mirror_no_output() -> None:
    """Leave what a run prints in its log. Dagster would start four processes in each run, to show it here, too."""
    from dagster._core.execution import compute_logs

    compute_logs.tail_to_stream = lambda path, stream: nullcontext((None, None))  # type: ignore[assignment]


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures have all their pixels."""
    from ft_pipeline import plotting

    monkeypatch.setattr(plotting, "_to_png", [*_RENDERS, plotting._to_png][0])


@pytest.fixture
def usual_recursion_limit() -> Iterator[None]:
    """Python's limit, as in `ft`. Where a library has raised it, the time of nested YAML grows with its square."""
    raised = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(raised)


KINDS = ("long", "browser", "slow")
_BEGAN = pytest.StashKey[float]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Note the CPU time before the fixtures of a test."""
    item.stash[_BEGAN] = _cpu_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Write the CPU time and the kind of a test into the report of `--junitxml` (benchmarks/suite.py reads them)."""
    result = yield
    kind = next((name for name in KINDS if item.get_closest_marker(name)), "usual")
    item.user_properties += [("cpu_seconds", round(_cpu_seconds() - item.stash[_BEGAN], 3)), ("kind", kind)]
    return result


def _cpu_seconds() -> float:
    """CPU seconds of this process and of the finished processes that it started. Other work does not change them.

    Workers that this process had forked (fork_server.py) are counted when their server ends, for no test.
    """
    return sum(os.times()[:4])


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> "Converted":
    """A tiny model and its GGUF file in 32 bit, made once for all processes of the tests."""
    pytest.importorskip("llama_cpp_py_sync")
    from ft_pipeline_tests.gguf_files import convert_tiny

    if "PYTEST_XDIST_WORKER" not in os.environ:
        return convert_tiny(tmp_path_factory.mktemp("converted"))
    return convert_tiny(tmp_path_factory.getbasetemp().parent / "converted")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with tokenizer and chat template, as a `base_model` artifact's folder."""
    from ft_pipeline_tests.tiny import tiny_model

    return tiny_model(tmp_path_factory.mktemp("tiny") / "base", initializer_range=0.2)
