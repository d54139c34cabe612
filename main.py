"""Run lorakit from a checkout: ``python main.py --task train``."""

from lorakit.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
