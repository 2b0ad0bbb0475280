"""python -m chaos: the `dub5` command."""

import sys

from chaos.cli import main

if __name__ == "__main__":
    sys.exit(main())
