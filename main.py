"""Run lorakit from a checkout: ``python main.py --task train``."""

import os
import signal

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # Ctrl-C from the first line on
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    from lorakit.__main__ import run

    raise SystemExit(run())
