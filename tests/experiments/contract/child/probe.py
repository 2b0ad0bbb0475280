"""Asks with one official package, inside that package's own environment, and tells what it did, one JSON line
a case.

stdin: {"package": "openai", "threads": 12, "cases": [{"name", "url", "call", "timeout_s", "params"}, ...],
        "patience_s": 25}

Sleeps between tries are noted and cut short; names that end in `.invalid` fail at once, with or without a
network.
"""

import concurrent.futures
import importlib
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

SLEEP_MAX_S = 0.01
TEXT_MAX = 4_000
HTTP_PACKAGES = ("httpx2", "httpx")

noted = threading.local()


def main() -> None:
    task = json.load(sys.stdin)
    patch_sleep()
    patch_names()
    # Loading the CAs takes 30 ms a client, and no case gets as far as a certificate.
    ssl.SSLContext.load_verify_locations = lambda *_, **__: None
    calls = importlib.import_module(f"{task['package']}_calls")
    for package in HTTP_PACKAGES:
        if package in sys.modules:
            count_sends(sys.modules[package])
    pool = concurrent.futures.ThreadPoolExecutor(task["threads"])
    running = {pool.submit(tried, calls.CALLS[case["call"]], case): case["name"] for case in task["cases"]}
    while running:
        done, _ = concurrent.futures.wait(running, task["patience_s"], concurrent.futures.FIRST_COMPLETED)
        for future in done:
            print(json.dumps(future.result()), flush=True)
            del running[future]
        if not done:
            break
    for name in running.values():
        print(json.dumps({"name": name, "attempts": 1, "waits": [], "busy_s": task["patience_s"]}))
    sys.stdout.flush()
    os._exit(0)  # a call that hangs would keep the process alive


def tried(
    call: Callable[[str, float, dict[str, Any]], dict[str, Any]], case: dict[str, Any]
) -> dict[str, Any]:
    """Make one call and return its result."""
    noted.attempts, noted.waits = 0, []
    try:
        seen = call(case["url"], case["timeout_s"], case["params"])
        seen["text"] = seen["text"][:TEXT_MAX]
    except Exception as error:  # noqa: BLE001  # what it raises is what we came to see
        seen = {"error": told(error)}
    tail_s = time.monotonic() - seen.pop("last_event_s", 0.0)
    return {"name": case["name"], "attempts": noted.attempts, "waits": noted.waits, "tail_s": tail_s, **seen}


def told(error: BaseException) -> dict[str, Any]:
    """Return an exception as data. `home` is the package that its class is from."""
    cause = error.__cause__
    return {
        "class": type(error).__name__,
        "home": type(error).__module__.partition(".")[0],
        "cause": type(cause).__name__ if cause else "",
        "cause_home": type(cause).__module__.partition(".")[0] if cause else "",
        "status": getattr(error, "status_code", None),
        "code": getattr(error, "code", None),
        "type": getattr(error, "type", None),
        "message": str(error)[:300],
    }


def patch_sleep() -> None:
    sleep = time.sleep

    def short(s: float) -> None:
        if hasattr(noted, "waits"):
            noted.waits.append(round(s, 3))
        sleep(min(s, SLEEP_MAX_S))

    time.sleep = short


def patch_names() -> None:
    resolve = socket.getaddrinfo

    def resolved(host: Any, *rest: Any, **more: Any) -> Any:
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *rest, **more)

    socket.getaddrinfo = resolved


def count_sends(http: Any) -> None:
    """Count what goes to the network, below the package and its retries."""
    send, send_async = http.HTTPTransport.handle_request, http.AsyncHTTPTransport.handle_async_request

    def counted(self: Any, request: Any) -> Any:
        noted.attempts += 1
        return send(self, request)

    async def counted_async(self: Any, request: Any) -> Any:
        noted.attempts += 1
        return await send_async(self, request)

    http.HTTPTransport.handle_request = counted
    http.AsyncHTTPTransport.handle_async_request = counted_async


if __name__ == "__main__":
    main()
