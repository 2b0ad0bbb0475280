"""Checks of [notify] and [sentry]: where an operator is told of incidents.

Each problem is one sentence, without the address or the secret.
"""

import base64
import binascii
import importlib.util
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from dub5.service.config.secrets import ReadVariable, SecretReader
from dub5.service.config.settings import NotifyHook, NotifySettings, Secret, SentrySettings, Settings

BASE64_PREFIX = "whsec_"  # of a secret that is base64, as Standard Webhooks writes it
SECRET_BYTES_MIN = 24
SECRET_CHARS_MIN = 32


def notify_problems(settings: Settings) -> list[str]:
    """Return one sentence for each contradiction in these two tables."""
    notify, sentry, found = settings.notify, settings.sentry, []
    if notify is not None and notify.url_env is None:
        found.append("notify.url_env: is missing; name the variable that holds the address of your hook.")
    if notify is not None and not notify.secret_env:
        found.append(
            "notify.secret_env: is missing; name a variable that holds a secret, which signs each message:"
            " make one with `openssl rand -hex 32`."
        )
    if sentry is not None and sentry.dsn_env is None:
        found.append("sentry.dsn_env: is missing; name the variable that holds the DSN of your project.")
    if sentry is not None and importlib.util.find_spec("sentry_sdk") is None:
        found.append("sentry: the package sentry-sdk is missing; install dub5[sentry].")
    return found


def read_notify(notify: NotifySettings | None, keys: SecretReader, problems: list[str]) -> NotifyHook | None:
    """Return the hook with its secrets, if there is one; add a sentence for each problem."""
    if notify is None or notify.url_env is None:
        return None
    urls = keys.read("notify.url_env", (notify.url_env,))
    for url in urls:
        problems += [f"notify.url_env: what {notify.url_env} holds {each}" for each in hook_url_problems(url)]
    secrets = keys.read("notify.secret_env", notify.secret_env)
    if not all(map(_is_secret, secrets)):
        problems.append(
            f"notify.secret_env: what each of these variables holds must have {SECRET_CHARS_MIN} characters"
            f" or more, or be {BASE64_PREFIX} and the base64 of {SECRET_BYTES_MIN} bytes or more;"
            " make one with `openssl rand -hex 32`."
        )
    return NotifyHook(Secret(urls[0]), tuple(map(Secret, secrets)), notify.events) if urls else None


def read_sentry(sentry: SentrySettings | None, keys: SecretReader, problems: list[str]) -> Secret | None:
    """Return the DSN, if there is one; add a sentence for each problem."""
    if sentry is None or sentry.dsn_env is None:
        return None
    found = keys.read("sentry.dsn_env", (sentry.dsn_env,))
    for dsn in found:
        if not _is_dsn(dsn):
            problems.append(
                f"sentry.dsn_env: what {sentry.dsn_env} holds must be a DSN: https://KEY@HOST/PROJECT,"
                " as Sentry shows it under Client Keys."
            )
    return Secret(found[0]) if found else None


def notify_variables(settings: Settings, environ: Mapping[str, str]) -> list[ReadVariable]:
    """Return the variables that these two tables read."""
    notify, sentry = settings.notify, settings.sentry
    named = []
    if notify is not None and notify.url_env is not None:
        named.append((notify.url_env, "notify.url_env"))
    if notify is not None:
        named += [(name, "notify.secret_env") for name in notify.secret_env]
    if sentry is not None and sentry.dsn_env is not None:
        named.append((sentry.dsn_env, "sentry.dsn_env"))
    return [ReadVariable.of(name, where, environ, may_be_a_file=True) for name, where in named]


def hook_url_problems(url: str) -> list[str]:
    """Return what is wrong with the address of a hook, without the address: it may hold a secret."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return ["is not an address."]
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ["must begin with https:// and name a host."]
    if parts.username is not None or parts.password is not None or parts.fragment:
        return ["must hold no user, password or fragment; each message is signed."]
    if parts.scheme == "http" and not _is_near(parts.hostname):
        return ["must begin with https://; http:// is for hosts of a private network."]
    return []


def _is_near(host: str) -> bool:
    """Return whether a host is of this machine or of a private network, as far as its name shows it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".internal", ".local", ".localhost", ".test"))
    return address.is_loopback or address.is_private


def _is_secret(secret: str) -> bool:
    if not secret.startswith(BASE64_PREFIX):
        return len(secret) >= SECRET_CHARS_MIN
    try:
        return len(base64.b64decode(secret.removeprefix(BASE64_PREFIX), validate=True)) >= SECRET_BYTES_MIN
    except binascii.Error:
        return False


def _is_dsn(dsn: str) -> bool:
    try:
        parts = urlsplit(dsn)
        _ = parts.port
    except ValueError:
        return False
    project = parts.path.rsplit("/", 1)[-1]
    named = parts.scheme in ("http", "https") and parts.hostname and parts.username
    return bool(named and project.isdecimal() and project.isascii() and not parts.query)
