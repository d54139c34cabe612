"""From an adapter to files for others: merged models, GGUF, adapters in other shapes, each with its proof."""
