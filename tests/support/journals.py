"""Synthetic journals for the pages that show journals: as long, as broken and as oddly named as a test
wants."""

from collections.abc import Sequence
from random import Random

from dub5.chaos.run.journal import AppliedFault, Journal, RequestResult, StatusSample
from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.scenario.model import Expect, Scenario, ScenarioFault, Topology, Workload
from dub5.chaos.scenario.workload import plan

PROVIDERS = {"one": "openai", "two": "mistral", "three": "anthropic"}


def scenario(
    seconds: float,
    faults: Sequence[ScenarioFault] = (),
    *,
    rate_per_s: float = 10.0,
    plateau_rate_per_s: float | None = 0.1,
    mix: dict[str, float] | None = None,
    source: str = "",
    confidence: str = "",
    providers: dict[str, str] | None = None,
) -> Scenario:
    load = Workload(seconds, rate_per_s, plateau_rate_per_s, mix=mix or {"chat": 1.0})
    topology = Topology(providers=providers or PROVIDERS)
    return Scenario(
        "made-up",
        "Title",
        "Why.",
        load,
        tuple(faults),
        Expect(),
        topology=topology,
        source=source,
        confidence=confidence,
    )


def fault(at_s: float, for_s: float, label: str, provider: str = "one") -> ScenarioFault:
    return ScenarioFault(at_s, for_s, provider, "status", {"status": 530}, label)


def result(
    at_s: float, provider: str = "one", outcome: ClientOutcome = ClientOutcome.COMPLETE, **more: object
) -> RequestResult:
    values: dict[str, object] = {
        "number": 0,
        "late_s": 0.0,
        "stream": True,
        "reason": "",
        "first_token_s": 0.2,
        "total_s": 0.5,
        "route": "chat",
    }
    return RequestResult(at_s=at_s, provider=provider, outcome=outcome, **{**values, **more})  # type: ignore[arg-type]


def journal(
    made_up: Scenario, *, bad_share: float = 0.0, models: int = 1, restless: bool = False, seed: int = 1
) -> Journal:
    """Return a journal. Providers without a fault answer; `restless` states change with every sample."""
    rng = Random(seed)
    load = made_up.workload
    made = Journal(made_up, "virtual", seed, "machine", "2026-01-01 00:00:00", seconds=load.seconds)
    names = list(made_up.providers)
    for ask in plan(made_up, seed):
        broken = {f.provider for f in made_up.faults if f.at_s <= ask.at_s < f.until_s}
        who = next((name for name in names if name not in broken), "")
        outcome = rng.choice(list(ClientOutcome)) if rng.random() < bad_share else ClientOutcome.COMPLETE
        wait_s = rng.lognormvariate(-2, 0.4)
        made.requests.append(
            result(ask.at_s, who, outcome, number=ask.number, first_token_s=wait_s, route=ask.route)
        )
    made.planned = len(made.requests)
    made.windows = [
        AppliedFault(f.provider, f.kind, f.label, "the simulators", False, f.at_s, f.until_s)
        for f in made_up.faults
    ]
    for from_s, until_s, rate_per_s in made_up.stretches:
        at_s = from_s
        while at_s < until_s:
            for name in names:
                broken_now = any(f.provider == name and f.at_s <= at_s < f.until_s for f in made_up.faults)
                for model in range(models):
                    state = "open" if broken_now else "closed"
                    if restless:
                        state = rng.choice(("closed", "open", "half_open", "isolated"))
                    made.samples.append(
                        StatusSample(at_s, name, "healthy", state, 0.0, f"{name}/model-{model}")
                    )
            at_s += 0.5 if rate_per_s == load.rate_per_s else 30.0
    return made
