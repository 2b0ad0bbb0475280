"""The settings loader: a TOML file, overlaid by the environment and by command-line options.

`load` returns frozen settings or raises `SettingsProblems`, which lists all problems, a sentence each.
A reload passes the settings of the `running` service: values bound at the start keep their old value.
Order: file -> old names (renamed.py) -> environment -> strict decode -> checks.py -> secrets.py.
No other module of the service reads the environment. `variables` lists what is read of it, without values.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from dub5.service.config.checks import contradictions, exposure_problems, redis_url_problems, warnings
from dub5.service.config.conversation_checks import database_variables, read_database_url
from dub5.service.config.decode_messages import field_path, table_label, validation_message
from dub5.service.config.notify_checks import notify_variables, read_notify, read_sentry
from dub5.service.config.options import RedisOptions
from dub5.service.config.personalities import read_personalities
from dub5.service.config.renamed import new_name, old_names, rename, renamed_variables
from dub5.service.config.secrets import ReadVariable, SecretReader, read_text
from dub5.service.config.session_secret import CHARS_MIN as SESSION_SECRET_CHARS_MIN
from dub5.service.config.session_secret import with_secret_warning
from dub5.service.config.settings import (
    AdminSettings,
    LoadedSettings,
    Secret,
    SessionSettings,
    Settings,
    SettingsProblems,
)
from dub5.service.config.shared_keys import with_shared_key_warnings

ENV_PREFIX = "DUB5__"  # DUB5__SERVER__PORT=9000 sets [server] port
FILE_VARIABLE = "DUB5_CONFIG"
PORT_VARIABLE = "PORT"  # where a platform that routes to us (Render, Heroku) expects us to listen
DEFAULT_FILE = Path("dub5.toml")
BOUND_AT_START = (  # of [server]
    *("host", "port", "wire", "proxy"),
    *("connections_per_origin_max", "connection_age_max_s"),
    *("allowed_hosts", "https", "trusted_proxies", "origins"),
)
TOKEN_CHARS_MIN = 16
PORT_MAX = 65_535


def load(
    path: Path | None,
    environ: Mapping[str, str] = os.environ,
    *,
    host: str | None = None,
    port: int | None = None,
    insecure: bool = False,
    behind_a_server: bool = False,
    running: Settings | None = None,
) -> LoadedSettings:
    """Read and check the settings: file, then environment, then `host` and `port`.

    `behind_a_server`: a server that is not ours binds the address, whatever `server.host` says.
    `running`: the settings of the service that reloads; None at the start.
    Raises SettingsProblems.
    """
    problems: list[str] = []
    is_reload = running is not None
    data = _file(path, is_reload, problems)
    if problems:
        raise SettingsProblems(problems)
    renamed = rename(data, problems)
    environ, renamed_in_environ = renamed_variables(environ, ENV_PREFIX, problems)
    renames = [*renamed, *renamed_in_environ]  # said with the problems too, which use the new names
    _apply_environment(data, environ, problems)
    if isinstance(server := data.setdefault("server", {}), dict):
        server |= {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = _read(Settings, data, "", problems)
    assert isinstance(settings, Settings), "read from a table"
    problems += contradictions(settings, _provider_names(data.get("provider")))
    personalities, unreadable = read_personalities(settings)
    problems += unreadable
    kept, needs_restart = _keep_bound(settings, running)
    if not insecure:
        problems += exposure_problems(settings, behind_a_server) or exposure_problems(kept, behind_a_server)
    keys = SecretReader(environ, is_reload, problems)
    loaded = LoadedSettings(
        kept,
        {p.name: _secrets(keys.read(f"provider {p.name!r}.key_env", p.key_env)) for p in kept.provider},
        _secrets(keys.read("server.caller_keys_env", kept.server.caller_keys_env)),
        (*renames, *needs_restart, *warnings(kept)),
        _redis_url(kept.cache.redis, keys, problems),
        _admin_token(kept.admin, keys, problems),
        personalities,
        _session_secrets(kept.session, keys, problems),
        read_database_url(kept, keys, environ, problems),
        read_notify(kept.notify, keys, problems),
        read_sentry(kept.sentry, keys, problems),
    )
    if problems:
        raise SettingsProblems([*problems, *renames])
    return with_shared_key_warnings(with_secret_warning(loaded))


def config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the settings file that the environment names, or the one of the current folder."""
    return Path(environ.get(FILE_VARIABLE) or DEFAULT_FILE)


def variables(path: Path, environ: Mapping[str, str] = os.environ) -> list[ReadVariable]:
    """Return the variables that these settings read, as far as the file can be read. Raises nothing."""
    unsaid: list[str] = []
    data = _file(path, False, unsaid)
    rename(data, unsaid)
    _apply_environment(data, environ, unsaid)
    settings = _read(Settings, data, "", unsaid)
    own = [(FILE_VARIABLE, "names the settings file"), (PORT_VARIABLE, "server.port")]
    own += [
        (name, name.removeprefix(ENV_PREFIX).lower().replace("__", ".", 1))
        for name in sorted(environ)
        if name.startswith(ENV_PREFIX)
    ]
    return [*(ReadVariable.of(*each, environ) for each in own), *_secret_variables(settings, environ)]


def read_key(variable: str, where: str = "--key-env", environ: Mapping[str, str] = os.environ) -> Secret:
    """Return the key in a variable, or in the file that VARIABLE_FILE names. Raises SettingsProblems."""
    problems: list[str] = []
    keys = SecretReader(environ, False, problems).read(where, (variable,))
    if problems:
        raise SettingsProblems(problems)
    return Secret(keys[0])


def secret_files(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the files that hold keys and other secrets of these settings: those that VARIABLE_FILE names."""
    names = dict.fromkeys(variable.name for variable in _secret_variables(settings, environ))
    files = (environ.get(f"{name}_FILE", "").strip() for name in names)
    return [Path(file) for file in files if file]


def _secret_variables(settings: Settings, environ: Mapping[str, str]) -> list[ReadVariable]:
    named = [(name, f"provider {p.name!r}.key_env") for p in settings.provider for name in p.key_env]
    named += [(name, "server.caller_keys_env") for name in settings.server.caller_keys_env]
    if settings.session is not None:
        named += [(name, "session.secret_env") for name in settings.session.secret_env]
    single = (
        (settings.admin.token_env, "admin.token_env"),
        (settings.cache.redis.url_env, "cache.redis.url_env"),
    )
    named += [(name, where) for name, where in single if name is not None]
    found = [ReadVariable.of(name, where, environ, may_be_a_file=True) for name, where in named]
    return found + database_variables(settings, environ) + notify_variables(settings, environ)


def _keep_bound(settings: Settings, running: Settings | None) -> tuple[Settings, list[str]]:
    """Return settings that keep the values bound at the start, and a warning for each value that changed."""
    if running is None:
        return settings, []
    old = {name: getattr(running.server, name) for name in BOUND_AT_START}
    needs_restart = [name for name in BOUND_AT_START if getattr(settings.server, name) != old[name]]
    server = msgspec.structs.replace(settings.server, **old)
    restart_warnings = [f"server.{name}: needs a restart; the old value stays." for name in needs_restart]
    if settings.cache.redis != running.cache.redis:
        restart_warnings.append("cache.redis: needs a restart; the old values stay.")
    if settings.limits.shared != running.limits.shared:
        restart_warnings.append("limits.shared: needs a restart; the old value stays.")
    if settings.log != running.log:
        restart_warnings.append("log: needs a restart; the old values stay.")
    if settings.database != running.database:
        restart_warnings.append("database: needs a restart; the old values stay.")
    restart_warnings += [
        f"{table}: needs a restart; the old values stay."
        for table in ("notify", "sentry")
        if getattr(settings, table) != getattr(running, table)
    ]
    conversation = settings.conversation
    if (conversation is None) is not (running.conversation is None):
        what = "to begin" if running.conversation is None else "to end"
        restart_warnings.append(f"conversation: needs a restart {what}.")
        conversation = running.conversation
    cache = msgspec.structs.replace(settings.cache, redis=running.cache.redis)
    limits = msgspec.structs.replace(settings.limits, shared=running.limits.shared)
    kept = msgspec.structs.replace(
        settings,
        server=server,
        cache=cache,
        limits=limits,
        log=running.log,
        database=running.database,
        conversation=conversation,
        notify=running.notify,
        sentry=running.sentry,
    )
    return kept, restart_warnings


def _file(path: Path | None, is_reload: bool, problems: list[str]) -> dict[str, Any]:
    if path is None:
        problems.append("No settings file: name one with --config FILE.")
        return {}
    try:
        return tomllib.loads(read_text(path, is_reload))
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror}).")
    except UnicodeDecodeError:
        problems.append(f"{path}: is not UTF-8 text.")
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{path}: is not valid TOML: {error}.")
    return {}


def _apply_environment(data: dict[str, Any], environ: Mapping[str, str], problems: list[str]) -> None:
    if (port := environ.get(PORT_VARIABLE, "").strip()) and isinstance(
        server := data.setdefault("server", {}), dict
    ):
        if port.isascii() and port.isdecimal() and float(port) <= PORT_MAX:  # float: of any length
            server["port"] = int(port)
        else:
            problems.append(f"{PORT_VARIABLE}: must be a port from 0 to {PORT_MAX} (it is {port!r}).")
    for variable, value in environ.items():
        if variable.startswith(ENV_PREFIX) and "__" in (rest := variable[len(ENV_PREFIX) :].lower()):
            table, field = rest.split("__", 1)
            section = data.setdefault(table, {})
            if isinstance(section, dict):
                section[field] = _EnvText(value)


class _EnvText(str):
    """A value from the environment: text that is converted to the type of its field."""


def _read(kind: type[Struct], data: Any, where: str, problems: list[str]) -> Any:
    """Decode `data` as `kind`, or return None. Each problem adds a sentence to `problems`."""
    if not isinstance(data, dict):
        problems.append(f"{where or 'settings'}: must be a table.")
        return None
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for unknown in data.keys() - fields.keys():
        problems.append(_unknown_setting(where, unknown, list(fields)))
    values = {}
    for name, field in fields.items():
        here = f"{where}.{name}" if where else name
        value = _value(field.type, data[name], here, problems) if name in data else None
        if value is not None:  # a table or list has the parts that can be read
            values[name] = value
        elif field.required:
            if name not in data:
                problems.append(_missing_setting(here))
            values[name] = _stand_in(name, where)
    # An invalid value must not hide other problems. In the checks below an optional one has its default,
    # a required one its stand-in. These settings are never used, as there is a problem.
    return kind(**values)


def _stand_in(name: str, where: str) -> Any:
    """Return a value of a required setting that no check finds fault with."""
    own_label = where.split(" ", 1)[-1].strip("'\"")
    return {"name": own_label, "dialect": "openai", "base_url": "http://unreadable.invalid"}.get(name, ())


def _value(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    if isinstance(kind, UnionType):  # a table that may be absent
        kind = next((part for part in get_args(kind) if issubclass(part, Struct)), kind)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _read(kind, value, where, problems)
    inner = get_args(kind)[0] if get_origin(kind) is tuple else None
    if isinstance(inner, type) and issubclass(inner, Struct):
        if not isinstance(value, list) or not value:
            problems.append(f"{where}: write at least one [[{where}]] table.")
            return ()
        found = [_read(inner, one, table_label(where, i, one), problems) for i, one in enumerate(value)]
        return tuple(one for one in found if one is not None)
    if (parts := _by_parts(kind, value, where, problems)) is not None:
        return parts
    try:
        if isinstance(value, _EnvText):
            parts = (
                [p.strip() for p in value.split(",") if p.strip()]
                if get_origin(kind) is tuple
                else str(value)
            )
            return msgspec.convert(parts, kind, strict=False)
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problems.append(_problem(kind, value, where, error))
        return None


def _by_parts(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    """Decode a list or a table of values one by one, so that each bad one is told; None for other kinds."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    parts = get_args(kind)
    if get_origin(kind) is tuple and isinstance(value, list):
        found = [_value(parts[0], one, f"{where}[{i}]", problems) for i, one in enumerate(value)]
        return tuple(one for one in found if one is not None) if value else None
    if get_origin(kind) is not Mapping or not isinstance(value, dict):
        return None
    for name in value:
        try:
            msgspec.convert(name, parts[0])
        except msgspec.ValidationError as error:
            problems.append(_problem(parts[0], name, where, error))
    by_name = {name: _value(parts[1], one, f"{where}.{name}", problems) for name, one in value.items()}
    return {name: one for name, one in by_name.items() if one is not None}


def _problem(kind: Any, value: Any, where: str, error: msgspec.ValidationError) -> str:
    """Return the sentence about an invalid value. It shows nothing that may be a secret."""
    inside = field_path(error)
    where += inside if inside.startswith("[") or not inside else f".{inside}"
    if any(list_ in where for list_ in ("key_env", "keys_env", "secret_env")):  # a key here must not be shown
        return f"{where}: must be a list of names of environment variables, not the keys."
    if (
        where.endswith((".url_env", ".dsn_env", ".token_env", ".url")) or ".headers" in where
    ):  # nor a password
        return f"{where}: {validation_message(error)}."
    if get_origin(kind) is Literal:
        return f"{where}: must be one of {', '.join(get_args(kind))} (it is {value!r})."
    return f"{where}: {validation_message(error)} (it is {value!r})."


def _missing_setting(where: str) -> str:
    if where in ("provider", "route"):
        return f"No {where} is configured: add a [[{where}]] table."
    return f"{where}: is missing."


def _unknown_setting(where: str, name: str, known: list[str]) -> str:
    near = [new_name(word) for word in difflib.get_close_matches(name, known + old_names(known), n=1)]
    if "key" in name and "key_env" in known:
        near = ["key_env"]
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}."
    return f"{where + '.' if where else ''}{name}: there is no such setting; {hint}"


def _provider_names(tables: object) -> list[str]:
    rows = tables if isinstance(tables, list) else []
    return [str(row["name"]) for row in rows if isinstance(row, dict) and "name" in row]


def _redis_url(redis: RedisOptions, keys: SecretReader, problems: list[str]) -> Secret | None:
    if redis.url_env is None:
        return None if redis.url is None else Secret(redis.url)
    where = "cache.redis.url_env"
    urls = keys.read(where, (redis.url_env,))
    for url in urls:
        problems += [f"{where}: what {redis.url_env} holds {problem}" for problem in redis_url_problems(url)]
    return Secret(urls[0]) if urls else None


def _admin_token(admin: AdminSettings, keys: SecretReader, problems: list[str]) -> Secret | None:
    if admin.token_env is None:
        return None
    tokens = keys.read("admin.token_env", (admin.token_env,))
    if tokens and len(tokens[0]) < TOKEN_CHARS_MIN:
        problems.append(
            f"admin.token_env: what {admin.token_env} holds must have {TOKEN_CHARS_MIN} characters or more."
        )
    return Secret(tokens[0]) if tokens else None


def _session_secrets(
    session: SessionSettings | None, keys: SecretReader, problems: list[str]
) -> tuple[Secret, ...]:
    if session is None:
        return ()
    secrets = keys.read("session.secret_env", session.secret_env)
    if any(len(secret) < SESSION_SECRET_CHARS_MIN for secret in secrets):
        problems.append(
            "session.secret_env: what each of these variables holds must have"
            f" {SESSION_SECRET_CHARS_MIN} characters or more; make one with `openssl rand -hex 32`."
        )
    return _secrets(secrets)


def _secrets(keys: tuple[str, ...]) -> tuple[Secret, ...]:
    return tuple(map(Secret, keys))
