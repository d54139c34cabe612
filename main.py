"""Run lorakit from a checkout: ``python main.py --task train``."""

from lorakit.__main__ import run

if __name__ == "__main__":
    raise SystemExit(run())
