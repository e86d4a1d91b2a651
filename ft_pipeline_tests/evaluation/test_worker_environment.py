"""A metric of the project runs in a real worker: it sees no secret, while the worker has the key that it needs."""

import json
import os
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.rivals import score
from ft_pipeline.execution.build import variables_of_job
from ft_pipeline.execution.workers.launchers import LocalLauncher
from ft_pipeline.execution.workers.supervisor import WorkerJob, run_worker
from ft_pipeline.execution.workers.worker import _require_leased_gpu
from ft_pipeline.execution.workers.worker_variables import allowed_variables, secrets_of_job
from ft_pipeline.job import Job
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.distillation.fault_server import MODEL, FaultServer, serving
from ft_pipeline_tests.evaluation.conftest import JobMaker

KEY = "sk-a-secret-that-no-metric-may-see"
SECRETS = {
    "CONTENDER_KEY": KEY,
    "AWS_SECRET_ACCESS_KEY": "aws",
    "FT_WEBHOOK_URL": "https://hooks.example/T0/B0",
    "FT_POSTGRES_URL": "postgresql://ft:password@127.0.0.1/ft",
    "FT_SIGNING_KEY": "/etc/ft_signing_key.pem",
    "FT_SOURCE_TOKEN": "source",
    "HF_TOKEN": "hub",
    "SLURM_JWT": "cluster",
    "VLLM_API_KEY": "engine",
    "OF_THE_SERVICE": "internal",
}
SPY = "import json, os\ndef look(answer):\n    open(%r, 'w').write(json.dumps(dict(os.environ)))\n    return 1.0\n"


OPERATOR = {"FT_WORKER_ENV": "CONTENDER_KEY, OF_THE_*"}


@pytest.mark.parametrize(("named", "expected"), [({}, set()), (OPERATOR, {"CONTENDER_KEY", "OF_THE_SERVICE"})])
def test_no_secret_is_allowed_that_nobody_names(
    monkeypatch: pytest.MonkeyPatch, named: dict[str, str], expected: set[str]
) -> None:
    monkeypatch.delenv("FT_WORKER_ENV", raising=False)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    assert allowed_variables(SECRETS).keys() == expected
    assert allowed_variables(SECRETS, ("CONTENDER_KEY",)).keys() == {"CONTENDER_KEY", *expected}


HANDLING = {"endpoint": {"api_key_env": "CONTENDER_KEY"}}
VARIABLES = variables_of_job(Spec("contender_scores", handling=HANDLING))


def asked_of(server: FaultServer, make_job: JobMaker, seen: Path) -> Job:
    """A job that asks the server, with a metric that writes its environment to `seen`."""
    metric = {"function": "spy.look", "lower_is_better": False, "source": SPY % str(seen), "distribution": None}
    contender = {"name": "today", "model": MODEL, "endpoint": {"url": server.url}}
    return make_job("contender_scores", contender=contender, custom_metrics={"spy": metric})


@pytest.mark.parametrize("named", ({}, OPERATOR))
def test_a_custom_metric_sees_no_secret_of_its_worker(
    make_job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, str]
) -> None:
    """In this process, with the environment of a worker."""
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    with serving(key=KEY) as server:
        asked = asked_of(server, make_job, tmp_path / "seen.json")
        allowed = allowed_variables({**os.environ, **SECRETS, **named}, VARIABLES)
        with mock.patch.dict(os.environ, allowed, clear=True):
            score.run(replace(asked, handling=HANDLING, secrets=secrets_of_job(VARIABLES)))
        assert server.paid == 4, "the job had the key"
    seen = json.loads((tmp_path / "seen.json").read_text(encoding="utf-8"))
    assert SECRETS.keys() & seen.keys() == ({"CONTENDER_KEY", "OF_THE_SERVICE"} if named else set())


@pytest.mark.long
@pytest.mark.parametrize("named", ({}, OPERATOR))
def test_a_custom_metric_sees_no_secret(
    make_job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, str]
) -> None:
    for name, value in (SECRETS | named | {"HF_HUB_OFFLINE": "1", "LC_TIME": "C"}).items():
        monkeypatch.setenv(name, value)
    seen = tmp_path / "seen.json"
    with serving(key=KEY) as server:
        asked = asked_of(server, make_job, seen)
        job = WorkerJob(
            asked.kind,
            asked.kind,
            asked.config,
            asked.inputs,
            tmp_path,
            asked.out,
            asked.work,
            handling=HANDLING,
            variables=VARIABLES,
        )
        run_worker(None, job, LocalLauncher())
        assert server.paid == 4, "the worker had the key"
    environment = json.loads(seen.read_text(encoding="utf-8"))
    expected = {"CONTENDER_KEY", "OF_THE_SERVICE"} if named else set()
    assert expected == SECRETS.keys() & environment.keys()
    assert {"PATH", "HOME", "HF_HUB_OFFLINE", "LC_TIME", "OMP_NUM_THREADS"} <= environment.keys()
    assert KEY not in (tmp_path / "job.json").read_text(encoding="utf-8")


def test_a_leased_gpu_that_pytorch_cannot_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    with pytest.raises(UserError, match=r"PyTorch cannot use it: it finds no CUDA device\. Install the driver"):
        _require_leased_gpu("cuda:0")
    _require_leased_gpu("cpu")


@pytest.mark.long
def test_a_gpu_that_pytorch_cannot_use_is_an_error(make_job: JobMaker, tmp_path: Path) -> None:
    """The driver shows a GPU, which was leased, but PyTorch was built without CUDA or does not fit the driver."""
    asked = make_job("prompt_baseline", prompting={"variants": {}})
    job = WorkerJob(
        asked.kind, asked.kind, asked.config, asked.inputs, tmp_path, asked.out, asked.work, device="cuda:0"
    )
    message = (
        r"^This step has a GPU, but PyTorch cannot use it: .+\. Install the driver and a PyTorch that fit together"
    )
    with pytest.raises(UserError, match=message):
        run_worker(None, job, LocalLauncher())
