"""Builds one artifact in a separate process, for the tests to kill: `python -m … STORE KIND CONFIG_JSON [LAUNCHER]`."""

import json
import signal
import sys
from pathlib import Path

from ft_pipeline.clusters.launchers import SlurmLauncher
from ft_pipeline.execution.build import build_artifact
from ft_pipeline.execution.workers import fork_server
from ft_pipeline.execution.workers.launchers import LocalLauncher
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec

ENTRY = "ft_pipeline_tests.execution.fake_worker"
LAUNCHERS = {
    "local": LocalLauncher(ENTRY),
    "forked": LocalLauncher(ENTRY, forks=True),
    "slurm": SlurmLauncher(entry=ENTRY),
}

if __name__ == "__main__":
    fork_server.IMPORTED = ()  # the jobs need no library
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell that started the tests may ignore it
    built = build_artifact(
        None,
        ArtifactStore(Path(sys.argv[1])),
        Spec(sys.argv[2], config=json.loads(sys.argv[3])),
        device=True,
        launcher=LAUNCHERS[sys.argv[4] if sys.argv[4:] else "local"],
    )
    print(json.dumps({"reused": built.reused, "path": str(built.artifact.path)}))
