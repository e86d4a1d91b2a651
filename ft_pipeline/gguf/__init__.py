"""GGUF files of a merged model: made, scored and exported, for llama.cpp and Ollama."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="gguf",
    about="The merged model as GGUF files for llama.cpp and Ollama, each scored before it is used.",
    docs="gguf.md",
    settings={
        "experiment": "ft_pipeline.gguf.settings:ExperimentKeys",
        "evaluation": "ft_pipeline.gguf.settings:EvaluationKeys",
    },
    steps={"gguf": "ft_pipeline.gguf.gguf", "gguf_scores": "ft_pipeline.gguf.gguf_scores"},
    feeds={"comparison": ["gguf_scores"], "judgements": ["gguf_scores"]},
    choices={
        "export": {"gguf": "ft_pipeline.gguf.command:export_gguf"},
        "served_file": {"llama.cpp": "ft_pipeline.gguf.scored_files:find_gguf"},
    },
    hooks={"compared": "ft_pipeline.gguf.gguf_scores:compared"},
)
