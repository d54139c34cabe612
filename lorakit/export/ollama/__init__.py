"""A Modelfile: the chat template as ollama wants it."""
