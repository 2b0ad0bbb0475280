"""The page under test: simulated providers behind it, settings over them, and what a visitor does on it."""

import json
from dataclasses import dataclass

import aiohttp

from tests.support.browser import BrowserTab

PERSONAS = {"one": "openai", "two": "mistral", "three": "anthropic"}
TARGETS = ["one/gpt-sim", "two/mistral-sim", "three/claude-sim"]
LAST = "[...document.querySelectorAll('.turn')].at(-1)"
STATE = f"{LAST}?.querySelector('.answer').dataset.state"


@dataclass(frozen=True)
class SimulatedProviders:
    """The providers, and the door to their faults."""

    urls: dict[str, str]
    admin: str
    token: str

    async def fault(self, provider: str, **fault: object) -> None:
        """From now on; without any, the provider is well again."""
        url, headers = f"{self.admin}/faults/{provider}", {"authorization": f"Bearer {self.token}"}
        verb = "PUT" if fault else "DELETE"
        async with (
            aiohttp.ClientSession(headers=headers) as client,
            client.request(verb, url, json=fault or None) as response,
        ):
            assert response.status < 300, await response.text()


def settings(urls: dict[str, str]) -> str:
    parts = ["[[route]]", 'name = "chat"', f"targets = {json.dumps(TARGETS)}"]
    for name, dialect in PERSONAS.items():
        url = urls[name] + ("" if dialect == "anthropic" else "/v1")
        parts += ["[[provider]]", f'name = "{name}"', f'dialect = "{dialect}"', f'base_url = "{url}"']
        parts += ['key_env = ["DUB5_TEST_KEY"]']
    parts += ["[provider.prices]", '"claude-sim" = {prompt = 3.0, completion = 15.0}']
    return "\n".join(parts)


async def ask(page: BrowserTab, question: str) -> str:
    """Types a question, waits for the end of its answer; the answer's state."""
    await page.until("!document.querySelector('#model').disabled")
    await page.evaluate("document.querySelector('#question').focus()")
    await page.type(question)
    await page.until(f"{LAST}?.querySelector('.question').textContent.endsWith({json.dumps(question)})")
    return await ended(page)


async def ended(page: BrowserTab) -> str:
    await page.until(f"!['waiting', 'streaming', undefined].includes({STATE})")
    return str(await page.evaluate(STATE))


async def text(page: BrowserTab, selector: str) -> str:
    return str(await page.evaluate(f"{LAST}.querySelector('{selector}').textContent"))
