"""Every setting: declared once, read from YAML and flags, validated whole."""

from lorakit.config.loading import as_yaml, load_config, make_config
from lorakit.config.settings import Config

__all__ = ["Config", "as_yaml", "load_config", "make_config"]
