"""A verb of `dub5` whose jobs have a short lease: `-m tests.support.short_lease LEASE_S serve --config FILE`.

So a test needs not wait for 30 s until another process may go on with the jobs of one that was killed.
"""

import sys

from dub5.cli import main
from dub5.service.jobs import job_run, worker

if __name__ == "__main__":
    lease_s = float(sys.argv.pop(1))
    job_run.LEASE_S = worker.LEASE_S = lease_s
    job_run.RENEW_S = lease_s / 3
    raise SystemExit(main())
