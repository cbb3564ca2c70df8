"""The `tokenwire` command, which is also `python -m tokenwire_services.launcher`.

An installation without extras has the client only: its command says what to install.
"""

import sys


def main() -> int:
    """Run the command; the exit code."""
    try:
        from tokenwire_services.launcher.main import main as run
    except ModuleNotFoundError as error:
        advice = "pip install 'tokenwire[services]', or 'tokenwire[engine]' for an engine"
        print(f"tokenwire: the command needs the Python package {error.name}; {advice}", file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
