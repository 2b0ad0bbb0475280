"""python -m dub5: the `dub5` command."""

import sys

from dub5.chaos.cli import main

sys.exit(main())
