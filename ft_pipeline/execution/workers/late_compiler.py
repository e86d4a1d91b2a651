"""Let bitsandbytes be imported without PyTorch's compiler, which takes two seconds to load.

PEFT imports bitsandbytes in each worker, and bitsandbytes passes four of its functions to torch.compile at once. Hardly
any job calls one of them.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

LIBRARY = "bitsandbytes"


def compile_late() -> None:
    """Postpone what bitsandbytes compiles to its first call, if this process imports it from now on."""
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of bitsandbytes, whose loader replaces torch.compile meanwhile."""
        spec = PathFinder.find_spec(name, path, target) if name == LIBRARY else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_without_compiler(module: ModuleType) -> None:
            torch: Any = importlib.import_module("torch")
            at_once = torch.compile
            torch.compile = functools.partial(_late, at_once)
            try:
                execute(module)
            finally:
                torch.compile = at_once

        spec.loader.exec_module = execute_without_compiler  # type: ignore[method-assign]
        return spec


def _late(compiler: Callable[..., Any], function: Callable[..., Any] | None = None, **options: Any) -> Callable:
    """Return what torch.compile returns: the compiled function, or without one a decorator."""
    if function is None:
        return functools.partial(_late, compiler, **options)
    compiled = functools.cache(functools.partial(compiler, function, **options))

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return compiled()(*arguments, **named)

    return call
