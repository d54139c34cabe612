"""Fine-tuning: from a configuration to an adapter with its records, curve and comparison."""

from __future__ import annotations

from lorakit.config import Config

__all__ = ["run"]


def run(config: Config) -> int:
    """Train an adapter; see `lorakit.train.training`."""
    from lorakit.train.training import train

    return train(config)
