import socket

import pytest

from dub5.loadtests.stages import parse, scrape, stages


def text(requests: int, provider_s: float, database_s: float, count: int) -> str:
    """Return metrics as the service shows them, of two targets."""
    series = "gen_ai_client_operation_time_to_first_chunk_seconds"
    lines = [f'gateway_requests_total{{route="chat",outcome="complete"}} {requests}']
    lines += [f"# TYPE {series} histogram"]
    for target in ("one", "two"):
        labels = f'gen_ai_provider_name="{target}"'
        lines += [f'{series}_bucket{{{labels},le="{le}"}} {below}' for le, below in ((0.1, 0), (0.5, count))]
        lines += [f"{series}_count{{{labels}}} {count}", f"{series}_sum{{{labels}}} {provider_s}"]
    lines += ["# TYPE gateway_store_duration_seconds histogram"]
    lines += [f'gateway_store_duration_seconds_bucket{{le="0.001"}} {count}']
    lines += [f"gateway_store_duration_seconds_count {count}"]
    lines += [f"gateway_store_duration_seconds_sum {database_s}"]
    return "\n".join(lines) + "\n"


def test_the_slowest_stage() -> None:
    """Stages are those of the run alone, over all targets; the one that costs a request most comes first."""
    before, after = parse(text(10, 100.0, 0.0, 10)), parse(text(30, 104.0, 0.1, 20))
    first, second = stages(before, after)
    assert (first.name, first.count, first.p95_ms, first.request_ms) == (
        "provider, to its first token",
        20,
        500.0,
        pytest.approx(400.0),
    )
    assert (second.name, second.count, second.p95_ms) == ("database, a statement", 10, 1.0)
    assert second.request_ms == pytest.approx(5.0)


@pytest.mark.real_sockets
async def test_no_metrics() -> None:
    """A service that shows no metrics has no stages, and the run goes on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert stages({}, await scrape(f"http://127.0.0.1:{port}")) == []
