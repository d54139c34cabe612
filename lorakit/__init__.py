"""lorakit: LoRA fine-tuning that works today, on one laptop or one GPU.

Importing the package is light: torch and transformers load only when a task needs them.
"""

__version__ = "0.1.0"
