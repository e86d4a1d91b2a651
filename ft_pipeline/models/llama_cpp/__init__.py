"""llama.cpp: quantize GGUF files and evaluate them, through its C API."""
