"""The Locust file, with open arrivals: one dispatcher sends each request on schedule, whatever is still open.

    locust -f loadtests/locustfile.py --headless -u 1 --host http://127.0.0.1:8080 --rate 20 --seconds 30

`dub5 load` starts providers and service, and runs this file. Only Locust may import it: Locust
patches the standard library's sockets and threads with gevent's.
"""

# Types are checked with and without Locust, whose own types are incomplete.
# mypy: disable-error-code="import-untyped,import-not-found,misc,untyped-decorator,no-untyped-call"

import os
import time
from pathlib import Path
from random import Random
from typing import Any

import gevent
import gevent.pool
import msgspec
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser

from dub5.loadtests import calibrate
from dub5.loadtests.arrivals import poisson
from dub5.loadtests.carriers import CARRIERS, LOST, Credentials, Refused
from dub5.loadtests.client import HONEST, LoadClient
from dub5.loadtests.mix import PersonKind, RequestKind, load
from dub5.loadtests.sample import Sample, SampleOutcome
from dub5.loadtests.stack import MODELS
from dub5.loadtests.talk import PersonTalk, no_session
from dub5.simulators.answers import judge

LAST_ANSWERS_S = 60.0
OPEN_MAX = 2000
DIRECT_MODEL = MODELS["openai"]
WRONG_TIMES = 3  # exit code


@events.init_command_line_parser.add_listener
def arguments(parser: LocustArgumentParser) -> None:
    """Add our options to Locust's."""
    parser.add_argument("--rate", type=float, default=20.0, help="mean number of requests per second")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of the schedule in seconds")
    parser.add_argument("--seed", default="0", help="seed of arrival times and questions")
    parser.add_argument("--mix", default="chat", help="mix of requests, a name in mixes.toml")
    parser.add_argument("--model", default="chat", help="model name of the requests")
    parser.add_argument("--key-env", default="", help="environment variable with the API key")
    parser.add_argument("--direct", help="URL of the provider for direct requests")
    parser.add_argument("--samples", type=Path, help="file for the samples, one line of JSON per request")


class Dispatcher(User):
    """A single Locust user that sends the requests of all users."""

    fixed_count = 1

    @task
    def send(self) -> None:
        """Make the whole run, unless the calibration fails."""
        if problem := calibrate.check():
            print(f"Calibration failed, the load generator measures wrong times: {problem}", flush=True)
            self.environment.process_exit_code = WRONG_TIMES
        else:
            run = LoadRun(self.environment)
            run.dispatch()
            run.write()
        gevent.spawn(stop, self.environment)
        raise StopUser


def stop(environment: Environment) -> None:
    """End Locust."""
    assert environment.runner is not None, "a runner exists while a test runs"
    environment.runner.quit()


class LoadRun:
    """One load run: sends requests by schedule and collects the samples."""

    def __init__(self, environment: Environment) -> None:
        options = environment.parsed_options
        assert options is not None and environment.host, "Locust was started by its command line, with --host"
        self.options: Any = options
        self.fire = environment.events.request.fire
        self.rng = Random(f"load:{self.options.seed}")
        self.mix = load(self.options.mix)
        self.client = LoadClient(environment.host, judge, key=os.environ.get(self.options.key_env))
        self.judge, self.host, self.key = judge, environment.host, os.environ.get(self.options.key_env)
        self.direct = LoadClient(self.options.direct or "", judge, began_s=self.client.began_s)
        self.samples: list[Sample] = []
        self.unsent = 0
        self.planned = 0

    def dispatch(self) -> None:
        """Send each request at its time, then wait for the last answers."""
        open_now = gevent.pool.Pool(OPEN_MAX)
        arrivals = Random(f"arrivals:{self.options.seed}")
        for at_s in poisson(self.options.rate, self.options.seconds, arrivals):
            gevent.sleep(max(0.0, at_s - self.client.now_s()))
            if open_now.full():
                self.planned += 1
                self.unsent += 1  # the run is invalid; queueing here would hide that
            else:
                open_now.spawn(self.begin, self.mix.draw(self.rng), at_s)
        open_now.join(timeout=LAST_ANSWERS_S)
        open_now.kill()

    def begin(self, kind: RequestKind | PersonKind, at_s: float) -> None:
        """Send a request, or hold a conversation."""
        if isinstance(kind, PersonKind):
            self.talk(kind, at_s)
            return
        self.planned += 1
        client, model = (self.direct, DIRECT_MODEL) if kind.direct else (self.client, self.options.model)
        self.report(client.ask(kind, kind.body(model, self.rng), at_s))

    def talk(self, kind: PersonKind, at_s: float) -> None:
        """Hold a conversation: the first question at its time, each further one some time after an answer."""
        rng = Random(self.rng.getrandbits(64))
        self.planned += 1
        try:
            credentials = Credentials.begin(self.host, self.key)
        except (Refused, *LOST) as error:
            self.report(no_session(kind, at_s, self.client.now_s(), error))
            return
        carrier = CARRIERS[kind.carrier](self.host, credentials)
        talk = PersonTalk(kind, carrier, self.judge, rng, self.options.model, self.client.began_s)
        for number in range(talk.turns):
            if number:
                at_s = self.client.now_s() + talk.think_s()
                if at_s > self.options.seconds:
                    break
                gevent.sleep(max(0.0, at_s - self.client.now_s()))
                self.planned += 1
            sample = talk.ask(number, at_s, talk.plan())
            self.report(sample)
            if sample.outcome not in HONEST:
                break
        talk.close()

    def report(self, sample: Sample) -> None:
        """Keep a sample, and report it to Locust's statistics."""
        self.samples.append(sample)
        failed = sample.outcome not in (SampleOutcome.COMPLETE, SampleOutcome.CANCELLED)
        self.fire(
            request_type=sample.carrier or "chat",
            name=sample.kind,
            response_length=0,
            exception=RuntimeError(f"{sample.outcome}: {sample.why}") if failed else None,
            context={},
            start_time=time.time(),
            response_time=(sample.ended_s - sample.intended_s) * 1000,
        )

    def write(self) -> None:
        """Write the samples after a first line about the run."""
        path = self.options.samples
        if path is None:
            return
        head = {"planned": self.planned, "unsent": self.unsent, "ended_s": self.client.now_s()}
        lines = [msgspec.json.encode(line) for line in (head, *self.samples)]
        path.write_bytes(b"\n".join(lines) + b"\n")
