from dub5.chaos.cli import main

raise SystemExit(main())
