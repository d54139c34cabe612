"""Run lorakit from a checkout: ``python main.py --task train``."""


def run() -> int:
    """Run the task that the command line names; an interrupt ends it quietly at any moment, that of importing too."""
    try:
        from lorakit.cli import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(run())
