"""Safetensors and tokenizers as GGUF files, which llama.cpp reads."""
