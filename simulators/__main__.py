from dub5.simulators.command import main

raise SystemExit(main())
