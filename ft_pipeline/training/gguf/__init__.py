"""GGUF files of a merged model: converted and quantized by llama.cpp."""
