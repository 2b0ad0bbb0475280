"""`python -m dub5`: the same as the `dub5` command."""

from dub5.cli import main

raise SystemExit(main())
