"""The service as an ASGI application, for a server that is not ours: `uvicorn dub5.service.asgi:app`, Vercel.

    DUB5_CONFIG names the settings file (dub5.toml) --load--> Service --StandaloneApp--> app

That server binds the address, so the service is taken for reachable from outside: it needs caller keys.
Invalid settings end the process, with their sentences on stderr: a platform then keeps the old release.
`dub5 serve` does more: it bounds the heads of requests, drains at SIGTERM, reloads the settings at SIGHUP.
Both read them again when a file that holds a key changes.
"""

import asyncio
import sys
from collections.abc import Callable

from litestar.types import Receive, Scope, Send

from dub5.service import VERSION
from dub5.service.app import Service
from dub5.service.config.load import config_file, load
from dub5.service.config.session_secret import keep_session_secret
from dub5.service.config.settings import LoadedSettings, Settings, SettingsProblems
from dub5.service.online_check import targets
from dub5.service.reloader import Reloader
from dub5.service.telemetry.event_tables import Level
from dub5.service.telemetry.logs import EventLogger, LineWriter
from dub5.service.telemetry.process_watch import ProcessWatch


class StandaloneApp:
    """The application with its log. It starts with the server, or with the first request.

    Some platforms know no lifespan. Some stop the process between requests: each leaves a whole log.
    """

    def __init__(
        self, loaded: LoadedSettings, file: str, reload_settings: Callable[[Settings], LoadedSettings]
    ) -> None:
        self._loaded, self._file = loaded, file
        log = loaded.settings.log
        self._writer = LineWriter()
        self._logger = EventLogger(self._writer.write, Level[log.level.upper()], log.format)
        self._service = Service(loaded, log=self._logger.log, watch=ProcessWatch())
        self._started = False
        self._reloader = Reloader(self._service, reload_settings)
        self._file_watch: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the whole lifespan."""
        is_lifespan = scope["type"] == "lifespan"  # type: ignore[comparison-overlap]
        if not self._started:
            self._started = True
            self._log_start()
            self._file_watch = asyncio.create_task(self._reloader.run(), name="key files")
            if not is_lifespan:
                await self._service.start()
        try:
            await self._service.asgi(scope, receive, send)
        finally:
            if is_lifespan:
                if self._file_watch is not None:
                    self._file_watch.cancel()
                self._writer.close()
            else:
                self._writer.flush()

    def _log_start(self) -> None:
        token = "generated" if self._service.admin.own_token else "admin.token_env"
        self._logger.started(VERSION, self._file, "asgi", targets(self._loaded), token, self._loaded.warnings)


def build_app() -> StandaloneApp:
    """Return the application of the settings that DUB5_CONFIG names; raise SystemExit if they are invalid."""
    file = config_file()

    def load_settings(running: Settings | None = None) -> LoadedSettings:
        return keep_session_secret(load(file, behind_a_server=True, running=running))

    try:
        return StandaloneApp(load_settings(), str(file), load_settings)
    except SettingsProblems as error:
        print(error.report(), file=sys.stderr, flush=True)
        raise SystemExit(2) from None


app = build_app()
