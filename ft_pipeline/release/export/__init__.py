"""Export a model or adapter folder that answers as it was scored.

`huggingface` is here. Every other format of `ft export --format` is a choice of a feature in the table `export`
(features.py), as that of `gguf/`.
"""
