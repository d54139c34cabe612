"""Run lorakit from a checkout: ``python main.py --task train``."""

if __name__ == "__main__":
    from lorakit.interrupts import leave_at_once

    leave_at_once()  # before anything else is imported
    from lorakit.__main__ import run

    raise SystemExit(run())
