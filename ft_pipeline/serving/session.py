"""`ft serve`, from the options to the end: the front server, the engines and the log."""

import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.models.serving_engines import HOST, Engine
from ft_pipeline.project import Project
from ft_pipeline.release.export.served_folder import require_servable
from ft_pipeline.release.intact import require_intact
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline.serving.champion_service import ChampionService
from ft_pipeline.serving.engine_pool import EnginePool
from ft_pipeline.serving.engine_start import EngineStart, served_gguf
from ft_pipeline.serving.front import Front, front_server
from ft_pipeline.serving.metrics import ServingMetrics
from ft_pipeline.serving.traffic_log import TrafficLog
from ft_pipeline.store.artifacts import ArtifactStore


@dataclass(frozen=True)
class ServingOptions:
    """How a model is served."""

    name: str
    port: int
    engine: Engine
    quantization: str | None = None
    log: Path | None = None
    swaps: bool = True
    allowed_hosts: Collection[str] = ()


def serve_model(
    project: Project, options: ServingOptions, say: Callable[[str], None], on_ready: Callable[[], None]
) -> None:
    """Serve the model until an exception interrupts this, and end everything that was started.

    say: prints a line. on_ready: called once the model answers. Raises EngineFailed if the engine ends, and UserError
    for a model or an option that cannot be used.
    """
    store = ArtifactStore(project.store)
    model = find_model(store, options.name)
    require_servable(model)
    require_intact(store, model)
    if options.engine.name == "llama.cpp":
        served_gguf(store, model, options.quantization)  # refused before a port is opened
    log = None
    if options.log is not None:
        log = TrafficLog(options.log, project.settings.name, project.root / "data" / "raw")
    pool = EnginePool()
    metrics = ServingMetrics(pool)
    with (
        tempfile.TemporaryDirectory(prefix="ft-serve-") as folder,
        front_server(Front(pool, metrics, log, options.allowed_hosts), HOST, options.port),
    ):
        by = "" if model.kind == "classifier" else f" with {options.engine.name}"
        say(f"Loading {options.name} ({model.row}){by} …")
        starter = EngineStart(store, options.engine, options.quantization, Path(folder))

        def ready() -> None:
            if log is not None:
                say(log.description)
            say(
                f"Serving {options.name} at http://{HOST}:{options.port}/v1 (model: {options.name}). Press Ctrl-C to "
                "stop it."
            )
            on_ready()

        ChampionService(starter, pool, metrics, say, options.swaps).run(model, ready)
