"""The row of the process and its machine: is the service slow because of itself, and what will run out?"""

from dashboards.panels import Panel, PanelRow, Query, quantile, rate, series
from dub5.service.telemetry import names

SYSTEM = PanelRow(
    "System",
    (
        Panel(
            "Event loop lag",
            "How late a timer of the event loop comes: every request of the process waits for as long. Above "
            "50 ms at p99, something blocks the loop, or the process lacks processor time.",
            "s",
            (
                Query(quantile(0.5, names.LOOP_LAG, by="instance"), "p50 {{instance}}"),
                Query(quantile(0.99, names.LOOP_LAG, by="instance"), "p99 {{instance}}"),
            ),
        ),
        Panel(
            "Garbage collections",
            "Share of the time in which garbage collections stop the process, by generation.",
            "percentunit",
            (
                Query(
                    rate(names.GC_PAUSE, by="instance, generation", suffix="_sum"),
                    "{{instance}} {{generation}}",
                ),
            ),
        ),
        Panel(
            "Garbage collections: longest pause",
            "The longest garbage collection by generation, to the bucket above it: every request of the "
            "process waits for as long. That of generation 2 grows with what the process holds.",
            "s",
            (
                Query(  # a generation that had no collection has no number: it is left out
                    f"{quantile(1, names.GC_PAUSE, by='instance, generation')} >= 0",
                    "{{instance}} {{generation}}",
                ),
            ),
        ),
        Panel(
            "CPU",
            "CPU seconds per second; one process cannot use more than about one. And the processors that its "
            "cgroup or its host has.",
            "short",
            (
                Query(f"rate({series(names.CPU)}[$__rate_interval])", "{{instance}}"),
                Query(series(names.CPU_LIMIT), "{{instance}} limit ({{source}})"),
            ),
        ),
        Panel(
            "CPU: held back",
            "Seconds per second in which the kernel held the processes of the cgroup back, because their "
            "quota was used up. Each shows as event loop lag: give it more, or start fewer processes.",
            "s",
            (Query(f"rate({series(names.CPU_THROTTLED)}[$__rate_interval])", "{{instance}}"),),
            host_dependent=True,
        ),
        Panel(
            "Load",
            "Tasks of the host that want to run, averaged over a minute. Much more than it has processors: "
            "the neighbours take them.",
            "short",
            (Query(series(names.HOST_LOAD), "{{instance}}"),),
        ),
        Panel(
            "Memory",
            "Resident memory of each process.",
            "bytes",
            (Query(series(names.MEMORY), "{{instance}}"),),
        ),
        Panel(
            "Memory of the machine",
            "Memory in use, of what the cgroup may have, or the host has. At all of it the kernel kills the "
            "process.",
            "percentunit",
            (
                Query(
                    f"{series(names.MEMORY_USED)} / {series(names.MEMORY_LIMIT)}", "{{instance}} ({{source}})"
                ),
            ),
            max_value=1,
            host_dependent=True,
        ),
        Panel(
            "File descriptors",
            "Open file descriptors: two for each stream in flight. And how many there may be.",
            "short",
            (
                Query(series(names.DESCRIPTORS), "{{instance}}"),
                Query(series(names.DESCRIPTORS_MAX), "{{instance}} limit"),
            ),
        ),
        Panel(
            "Connections",
            "Open connections of clients, idle ones too. Empty under a server that is not ours.",
            "short",
            (Query(f"sum by (instance) ({series(names.CONNECTIONS)})", "{{instance}}"),),
            often_empty=True,
        ),
        Panel(
            "Shutdowns and reloads",
            "Instances that drain; and reloads of the settings, by result. Refused: the old settings stay.",
            "short",
            (
                Query(f"sum by (instance) ({series(names.DRAINING)})", "{{instance}} drains"),
                Query(
                    f"sum by (result) (increase({series(names.RELOADS)}[$__rate_interval]))",
                    "reload {{result}}",
                ),
            ),
        ),
        Panel(
            "Room on the disk of SQLite",
            "Free room of the disk that the database is on. On a full disk nothing is kept. Empty with "
            "PostgreSQL, which knows its own disk.",
            "bytes",
            (Query(series(names.STORE_ROOM), "{{instance}}"),),
            often_empty=True,
            host_dependent=True,
        ),
    ),
)
