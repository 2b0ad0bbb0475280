"""Entry of `python -m dub5.simulators`."""

from dub5.simulators.command import main

raise SystemExit(main())
