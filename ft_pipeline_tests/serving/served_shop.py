"""Two trained models with GGUF files, released as champions one after the other, and what a running server says."""

import http.client
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
from prometheus_client.parser import text_string_to_metric_families

from ft_pipeline.decide.released import Candidate, Promotion
from ft_pipeline.release.champion import promote
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.release.trained import Trained
from ft_pipeline_tests.tiny_gguf import write_gguf

PATIENCE = 60.0
QUESTION: Any = [{"role": "user", "content": "Where is my parcel?"}]


class ServedShop:
    """A copy of the trained project, whose champion moves."""

    def __init__(self, trained: Trained, root: Path) -> None:
        shutil.copytree(trained.root, root, symlinks=True)
        self.root = root
        self.store = ArtifactStore(root / "data" / "store")
        self._trained = trained

    def add_gguf(self, name: str, type_name: str = "f32") -> None:
        """Commit the GGUF file of an experiment's merged model."""
        merged = self.store.require(*self._trained.inputs[name]["merged_model"].reference)
        config = {"name": name, "types": [type_name]}
        draft = self.store.begin(Spec("gguf", {"merged_model": merged.reference}, config))
        file = write_gguf(merged.path, draft.out / f"{name}-{type_name}.gguf")
        index = {"name": name, "files": {type_name: {"file": file.name}}}
        (draft.out / "gguf.json").write_text(json.dumps(index), encoding="utf-8")
        self.store.commit(draft, {})

    def release(self, name: str, kind: Any = "merged") -> int:
        """Release an experiment's model; returns the number of the record."""
        parts = {role: artifact.fingerprint for role, artifact in self._trained.inputs[name].items()}
        role = "merged_model" if kind == "merged" else "adapter"
        candidate = Candidate(
            name=f"{name}/{kind}", kind=kind, experiment=name, fingerprint=parts[role], fingerprints=parts
        )
        comparison = self.store.all("comparison")[-1]
        evidence = {"served": self._trained.served[name], "comparison": comparison.fingerprint}
        record = promote(
            self.store.root, lambda _: Promotion(candidate=candidate, reason="it leads", evidence=evidence, forced=True)
        )
        assert record is not None
        return record.sequence


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    """Return the status and the body of GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def health(port: int) -> dict[str, Any]:
    """Return what /health says, with its HTTP status as `code`."""
    status, body = get(port, "/health")
    document = json.loads(body)
    assert isinstance(document, dict)
    return {"code": status, **document}


def samples(port: int) -> dict[tuple[str, ...], float]:
    """Return the metrics: the value by name and label values, in the order of the names of labels."""
    status, body = get(port, "/metrics")
    assert status == 200
    return {
        (sample.name.removeprefix("ft_serve_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def wait_for(condition: Any) -> None:
    """Return once the condition is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@dataclass
class Clients:
    """Programs that ask all the time, every second one for a stream."""

    port: int
    tokens: int = 200
    answers: list[tuple[float, float, str]] = field(default_factory=list)
    """When each request began and ended, and the text."""
    failures: list[Exception] = field(default_factory=list)

    def ask(self, client: openai.OpenAI, *, stream: bool) -> str:
        """Return the text of an answer that has ended."""
        options: Any = {"model": "champion", "messages": QUESTION, "max_tokens": self.tokens}
        if not stream:
            return client.chat.completions.create(**options).choices[0].message.content or ""
        chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**options, stream=True) if chunk.choices]
        assert chunks[-1].finish_reason in ("stop", "length")
        return "".join(chunk.delta.content or "" for chunk in chunks).strip()

    @contextmanager
    def running(self, count: int) -> Iterator[None]:
        """Ask until the block ends."""
        ended = threading.Event()
        threads = [threading.Thread(target=self._work, args=(ended, number)) for number in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def _work(self, ended: threading.Event, number: int) -> None:
        url = f"http://127.0.0.1:{self.port}/v1"
        with openai.OpenAI(base_url=url, api_key="none", timeout=PATIENCE, max_retries=0) as client:
            while not ended.is_set():
                began = time.monotonic()
                try:
                    text = self.ask(client, stream=number % 2 == 0)
                except Exception as error:
                    self.failures.append(error)
                    return
                self.answers.append((began, time.monotonic(), text))
