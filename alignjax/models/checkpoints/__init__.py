"""Open-weight formats: safetensors in and out, GGUF in, both read slice by slice."""
