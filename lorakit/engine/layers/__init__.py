"""How a model of transformers comes to compute with the operations."""
