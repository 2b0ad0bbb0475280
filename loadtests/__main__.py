from dub5.loadtests.command import main

raise SystemExit(main())
