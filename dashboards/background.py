"""The rows of documents and jobs: what people upload, and the work that takes longer than a request."""

from dashboards.panels import Panel, PanelRow, Query, quantile, rate, series
from dub5.service.telemetry import names

DOCUMENTS = PanelRow(
    "Documents",
    (
        Panel(
            "Files read",
            "Uploaded files per second by what came of reading them, and p95 of the time that reading took, "
            "with the wait for a reader. timed_out, out_of_memory, unsafe, crashed: made to do harm, or "
            "damaged; the process that reads is ended, and nothing else. missing_package: install "
            "dub5[documents]. Empty without documents.",
            "short",
            (
                Query(rate(names.DOCUMENT_READ, suffix="_count", by="result, kind"), "{{result}} {{kind}}"),
                Query(quantile(0.95, names.DOCUMENT_READ, by="kind"), "p95 s {{kind}}"),
            ),
            often_empty=True,
        ),
    ),
)
JOBS = PanelRow(
    "Jobs",
    (
        Panel(
            "Jobs at work, and over",
            "Background work: jobs at work now, jobs per hour that are over, by kind and state, and "
            "steps per hour that were not kept. Retry: providers are down, or a defect. Empty without jobs.",
            "short",
            (
                Query(f"sum ({series(names.JOBS_RUNNING)})", "running"),
                Query(f"3600 * {rate(names.JOBS_ENDED, by='kind, state')}", "{{kind}} {{state}} per hour"),
                Query(
                    "3600 * "
                    + rate(
                        names.JOB_STEP_DURATION, suffix="_count", by="kind, result", match='result!="kept"'
                    ),
                    "{{kind}} step {{result}} per hour",
                ),
            ),
            often_empty=True,
        ),
        Panel(
            "Steps of jobs",
            "Time that nine of ten steps of jobs took at most, by kind. Empty without jobs.",
            "s",
            (Query(quantile(0.9, names.JOB_STEP_DURATION, by="kind"), "{{kind}} p90"),),
            often_empty=True,
        ),
    ),
)
