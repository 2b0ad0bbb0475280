"""Entry of `python -m dub5.loadtests`."""

from dub5.loadtests.command import main

raise SystemExit(main())
