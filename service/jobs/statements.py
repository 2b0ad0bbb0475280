"""All SQL of jobs. $1 is the owner and $2 the job, but where a worker looks at the jobs of all owners.

$3 is the lease: it is drawn anew for each claim, so a worker that has lost it changes nothing.

A job is due from `run_at` on. None is put off for longer than `AHEAD_MAX_S`: what is further ahead was
written before the clock was set back, and is due now.
"""

from dub5.service.store.base import Statement

AHEAD_MAX_S = 660  # the longest pause of a job, or a lease, and a minute in which two clocks may differ
COLUMNS = "id, owner, kind, subject, steps, made_at, state, done, tries, problem, ended_at"
_HELD = "owner = $1 AND id = $2 AND lease = $3"
_OPEN = "state IN ('ready', 'running')"  # of one job; not by `ended_at`, whose index finds all that are open
_TAKEN = "state = 'running', tries = tries + 1"


def _due(now: str) -> str:
    now = f"CAST({now} AS DOUBLE PRECISION)"
    return f"run_at NOT BETWEEN {now} + 0.001 AND {now} + {AHEAD_MAX_S}"


def _first(due: str) -> str:
    """Return the query of the first job of these kinds, $4, that is due now, $2: by the index of `run_at`."""
    when = due.format(now="CAST($2 AS DOUBLE PRECISION)", ahead=AHEAD_MAX_S)
    return (
        f"(SELECT id FROM job WHERE ended_at IS NULL AND {when}"
        " AND ',' || CAST($4 AS TEXT) || ',' LIKE '%,' || kind || ',%'"
        " ORDER BY run_at LIMIT 1 FOR UPDATE SKIP LOCKED)"
    )


CREATE = Statement(
    "job_create",
    "INSERT INTO job (owner, id, kind, subject, steps, state, done, tries, run_at, made_at)"
    " VALUES ($1, $2, $3, $4, $5, 'ready', 0, 0, $6, $6) ON CONFLICT DO NOTHING",
)
READ = Statement("job_read", f"SELECT {COLUMNS} FROM job WHERE owner = $1 AND id = $2")
STOP = Statement(
    "job_stop",
    "UPDATE job SET state = 'failed', problem = $3, ended_at = $4, lease = NULL"
    f" WHERE owner = $1 AND id = $2 AND {_OPEN} RETURNING {COLUMNS}",
)
DELETE = Statement("job_delete", "DELETE FROM job WHERE owner = $1 AND subject = $2")

# Of all owners. Never sent again: a second claim would take a second job. $4: the kinds, with commas between.
CLAIM = Statement(
    "job_claim",
    f"UPDATE job SET {_TAKEN}, lease = $1, run_at = $3"
    f" WHERE id = COALESCE({_first('run_at <= {now}')}, {_first('run_at > {now} + {ahead}')})"
    f" RETURNING {COLUMNS}",
)
UNCLAIM = Statement(  # whose answer nobody has heard: no step was begun
    "job_unclaim",
    "UPDATE job SET state = 'ready', lease = NULL, run_at = $2, tries = tries - 1"
    " WHERE lease = $1 AND run_at = $3 AND ended_at IS NULL",
)
DELETE_OLD = Statement(
    "job_delete_old",
    "DELETE FROM job WHERE id IN (SELECT id FROM job WHERE made_at < $1 ORDER BY made_at LIMIT $2)"
    " RETURNING id",
)

CLAIM_ONE = Statement(  # $4: now, $5: the end of the lease
    "job_claim_one",
    f"UPDATE job SET {_TAKEN}, lease = $3, run_at = $5"
    f" WHERE owner = $1 AND id = $2 AND {_OPEN} AND {_due('$4')} RETURNING {COLUMNS}",
)
RENEW = Statement("job_renew", f"UPDATE job SET run_at = $4 WHERE {_HELD} RETURNING id")
# The step $4 is kept. Sent again, it finds its own work, and says so.
ADVANCE = Statement(
    "job_advance",
    "UPDATE job SET done = CAST($4 AS BIGINT) + 1, tries = 1, run_at = $6,"
    " state = CASE WHEN CAST($4 AS BIGINT) + 1 >= steps THEN 'done' ELSE 'running' END,"
    " ended_at = CASE WHEN CAST($4 AS BIGINT) + 1 >= steps THEN CAST($5 AS DOUBLE PRECISION) END"
    f" WHERE {_HELD} AND state <> 'failed' AND done IN (CAST($4 AS BIGINT), CAST($4 AS BIGINT) + 1)"
    f" RETURNING {COLUMNS}",
)
FAIL = Statement(
    "job_fail",
    "UPDATE job SET state = 'failed', problem = $4, ended_at = CAST($5 AS DOUBLE PRECISION)"
    f" WHERE {_HELD} AND (ended_at IS NULL OR ended_at = CAST($5 AS DOUBLE PRECISION)) RETURNING {COLUMNS}",
)
RELEASE = Statement(  # to be taken again from $4 on
    "job_release",
    "UPDATE job SET state = 'ready', lease = NULL, run_at = $4, tries = $5"
    f" WHERE {_HELD} AND {_OPEN} RETURNING {COLUMNS}",
)
