from dub5.cli import main

raise SystemExit(main())
