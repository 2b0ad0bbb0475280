"""The writer of a ledger line: follows one request at a provider to its end."""

from collections.abc import Callable, Mapping

from dub5.simulators.answers import prompt_tag
from dub5.simulators.ledger import Ended, Ledger, LedgerLine
from dub5.simulators.personas.base import ParsedRequest
from dub5.simulators.script import Close, Data, Dropped, End, Head, Reset, Script, SimRequest

ENDS: Mapping[type, Ended] = {End: Ended.END, Close: Ended.CUT, Reset: Ended.RESET}


class LedgerLineWriter:
    """A counter of what a script sends; it adds the line to the ledger when the script is over."""

    def __init__(
        self,
        provider: str,
        request: SimRequest,
        parsed: ParsedRequest,
        at_s: float,
        faults: tuple[str, ...],
        number: int,
    ) -> None:
        self._provider = provider
        self._request = request
        self._parsed = parsed
        self._at_s = at_s
        self._faults = faults
        self._number = number
        self._status = self._bytes = self._tokens = 0

    def record(self, script: Script, ledger: Ledger, now: Callable[[], float]) -> Script:
        """Yield the script; add its line to the ledger at its end."""
        ended = Ended.CLIENT_LEFT
        ledger.opened(self._provider)
        try:
            for action in script:
                if isinstance(action, Data):
                    self._bytes += len(action.data)
                    self._tokens += action.tokens
                elif isinstance(action, Head):
                    self._status = action.status
                ended = ENDS.get(type(action), Ended.CLIENT_LEFT)  # if nothing comes after this action
                yield action
            if ended is Ended.CLIENT_LEFT:
                ended = Ended.CUT  # a script that runs out without an End leaves its client without one
        except Dropped:
            ended = Ended.CUT
        finally:
            ledger.add(self._line(ledger.last + 1, ended, now()))

    def _line(self, n: int, ended: Ended, now_s: float) -> LedgerLine:
        request = self._request
        retry = request.headers.get("x-stainless-retry-count", "")
        return LedgerLine(
            n=n,
            provider=self._provider,
            request=self._number,
            at_s=round(self._at_s, 6),
            duration_s=round(now_s - self._at_s, 6),
            method=request.method,
            path=request.path,
            model=self._parsed.model,
            prompt=prompt_tag(self._parsed.prompt) if self._parsed.prompt else "",
            stream=self._parsed.stream,
            retry=int(retry[:6]) if retry.isdecimal() else 0,
            faults=self._faults,
            status=self._status,
            bytes_sent=self._bytes,
            tokens_sent=self._tokens,
            ended=ended,
            left_at_s=round(now_s, 6) if ended is Ended.CLIENT_LEFT else None,
        )
