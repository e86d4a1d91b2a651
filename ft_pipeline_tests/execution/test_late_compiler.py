"""A worker that imports bitsandbytes does not load PyTorch's compiler with it."""

import subprocess
import sys

from ft_pipeline.execution.workers.late_compiler import _late

IMPORT = """
import sys
from ft_pipeline.execution.workers.late_compiler import compile_late
compile_late()
import torch
at_once = torch.compile
import bitsandbytes
from bitsandbytes.backends.default.ops import _optimizer_update_32bit
assert torch.compile is at_once
assert _optimizer_update_32bit.__name__ == "_optimizer_update_32bit"
print(*sorted({"torch._inductor.compile_fx", "torch._dynamo.convert_frame"} & set(sys.modules)))
"""


def test_bitsandbytes_is_imported_without_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_function_is_compiled_once_and_when_it_is_called() -> None:
    compiled = []

    def compiler(function, **options):
        compiled.append(options)
        return lambda value: ("compiled", function(value))

    @_late(compiler, dynamic=False)
    def double(value: int) -> int:
        return 2 * value

    assert compiled == [] and double.__name__ == "double"
    assert [double(2), double(3)] == [("compiled", 4), ("compiled", 6)]
    assert compiled == [{"dynamic": False}]
