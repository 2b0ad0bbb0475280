"""Writes docs/operate/environment.md and .env.example from the settings.

python -m tests.experiments.environment [example]
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from dub5.service.config.load import ENV_PREFIX
from dub5.service.config.settings import Settings

# The names that the examples of the documentation use; a settings file may give others.
KEYS = {
    "OPENAI_API_KEY": "a provider's key, named in `provider.key_env`",
    "MISTRAL_API_KEY": "a provider's key",
    "ANTHROPIC_API_KEY": "a provider's key",
    "OPENROUTER_API_KEY": "a provider's key",
    "DUB5_CALLER_KEY": "a caller's key, named in `server.caller_keys_env`",
    "DUB5_ADMIN_TOKEN": "the token of the admin API, named in `admin.token_env`",
    "DUB5_REDIS_URL": "address of a Redis with its password, named in `cache.redis.url_env`",
    "DUB5_DATABASE_URL": "URL of the database with its password, named in `database.url_env`",
    "DUB5_HOOK_URL": "address of a hook that is told of incidents, named in `notify.url_env`",
    "DUB5_HOOK_SECRET": "the secret that signs its messages, named in `notify.secret_env`",
    "SENTRY_DSN": "the DSN of a Sentry project, named in `sentry.dsn_env`",
}
PAGE = """\
# Environment

Every environment variable that the service reads. This page is generated from the settings:
`nox -s docs -- --write`. What each setting means is in [settings](../use/settings.md).

`dub5 check --env --config dub5.toml` lists what your settings read and whether each is set, never a value.
No `.env` file is read: give [`.env.example`](../../.env.example), filled in, to Docker by `--env-file
.env`, or to a shell by `set -a; . ./.env; set +a`.

## Start

| variable | meaning |
|---|---|
| `DUB5_CONFIG` | The settings file. Default: `dub5.toml` in the current folder. `--config` lies over it. |
| `PORT` | The port that Render and Heroku choose. Order: `--port`, `DUB5__SERVER__PORT`, `PORT`, the file. |

## Keys

Settings name the variables that hold keys, so the names are yours; these are those of the examples. A key
may be in a file instead: `OPENAI_API_KEY_FILE` names it, and `OPENAI_API_KEY` is then not set. Only a key
in a file can be changed while the service runs. What templates hold in place of a key (`your_key_here`,
`changeme`, `sk-...`, `<key>`, `xxx`) is refused.

| variable | meaning |
|---|---|
{keys}

## Settings

`DUB5__TABLE__NAME` lies over `name` of `[table]` in the file. Lists are separated by commas. What is not
here is set in the file alone: providers, routes, and tables within tables. Where the default is empty,
there is none.

| variable | kind | default |
|---|---|---|
{settings}
"""
EXAMPLE = """\
# Environment of the service. Copy it to .env, fill in what your settings name, and never commit .env.
# Generated from the settings by `nox -s docs -- --write`; docs/operate/environment.md explains it.

# Keys: the names are those in your settings file.
{keys}

# Start.
#DUB5_CONFIG=dub5.toml
#PORT=8080

# Settings, with their defaults: each lies over the same name in the file.
{settings}
"""


class SettingVariable(NamedTuple):
    """A variable that sets one setting: its kind in words, and its default as it would be written."""

    name: str
    kind: str
    default: str


def setting_variables() -> Iterator[SettingVariable]:
    """Yield the variable of each setting that one can set."""
    for table in msgspec.structs.fields(Settings):
        if not (isinstance(table.type, type) and issubclass(table.type, msgspec.Struct)):
            continue
        for field in msgspec.structs.fields(table.type):
            if (kind := _kind(field.type)) is not None:
                default = "" if field.default in (None, ()) else str(field.default)
                name = f"{ENV_PREFIX}{table.name}__{field.name}".upper()
                yield SettingVariable(name, kind, default.lower() if kind == "true or false" else default)


def _kind(of: Any) -> str | None:
    """Return a kind of value in words; None for what no variable can set."""
    if get_origin(of) is Annotated:
        return _kind(get_args(of)[0])
    if get_origin(of) is Literal:
        return f"one of {', '.join(get_args(of))}"
    if get_origin(of) is tuple:
        return "list"
    if get_origin(of) is Mapping or (isinstance(of, type) and issubclass(of, msgspec.Struct)):
        return None
    if inner := [one for one in get_args(of) if one is not type(None)]:
        return _kind(inner[0])
    return {bool: "true or false", int: "whole number", float: "number", str: "text"}[of]


def page() -> str:
    """Return docs/operate/environment.md."""
    return PAGE.format(
        keys="\n".join(
            f"| `{name}` | {meaning[0].upper()}{meaning[1:]}. |" for name, meaning in KEYS.items()
        ),
        settings="\n".join(f"| `{v.name}` | {v.kind} | {v.default} |" for v in setting_variables()),
    )


def example() -> str:
    """Return .env.example."""
    return EXAMPLE.format(
        keys="\n".join(f"{name}=" for name in KEYS),
        settings="\n".join(f"#{v.name}={v.default}" for v in setting_variables()),
    )


if __name__ == "__main__":
    sys.stdout.write(example() if sys.argv[1:] == ["example"] else page())
