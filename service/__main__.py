from dub5.service.command import main

raise SystemExit(main())
