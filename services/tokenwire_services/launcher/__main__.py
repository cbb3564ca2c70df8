"""`python -m tokenwire_services.launcher` is the `tokenwire` command."""

import sys

from tokenwire_services.launcher.main import main

if __name__ == "__main__":
    sys.exit(main())
