"""Builds one artifact in a separate process, for the tests to kill: `python -m … STORE KIND CONFIG_JSON [slurm]`."""

import json
import signal
import sys
from pathlib import Path

from ft_pipeline.execution.build import build_artifact
from ft_pipeline.execution.workers.launchers import LocalLauncher, SlurmLauncher
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec

ENTRY = "ft_pipeline_tests.execution.fake_worker"

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell that started the tests may ignore it
    built = build_artifact(
        None,
        ArtifactStore(Path(sys.argv[1])),
        Spec(sys.argv[2], config=json.loads(sys.argv[3])),
        device=True,
        launcher=SlurmLauncher(entry=ENTRY) if sys.argv[4:] else LocalLauncher(ENTRY),
    )
    print(json.dumps({"reused": built.reused, "path": str(built.artifact.path)}))
