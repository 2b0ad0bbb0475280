"""Checks of [database] and [conversation]: where conversations are kept, and who may have one.

Each problem is one sentence, without the URL: it may hold a password.
"""

from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from dub5.service.config.secrets import PLACEHOLDER, ReadVariable, SecretReader
from dub5.service.config.settings import DatabaseSettings, JobsSettings, Secret, Settings
from dub5.service.store.url import DEFAULT_URL, url_problems

EPHEMERAL = "VERCEL"  # set where each instance has a disk of its own, which ends with it
EPHEMERAL_WHY = (
    f"is a file of SQLite, and {EPHEMERAL} is set: on Vercel each instance has its own disk, which is"
    " read-only or lost when the instance ends. Use PostgreSQL, in database.url_env."
)


def conversation_problems(settings: Settings) -> list[str]:
    """Return one sentence for each contradiction in these two tables."""
    database, conversation = settings.database, settings.conversation
    found = []
    if database.url is not None and database.url_env is not None:
        found.append("database: url and url_env are both set; keep one.")
    if database.url is not None:
        problems = database_url_problems(database.url)
        found += [f"database.url: {problem}" for problem in problems]
        if not problems and urlsplit(database.url).password is not None:
            found.append("database.url: must hold no password; name a variable in database.url_env.")
    if conversation is None:
        return found
    if settings.session is None and not settings.server.caller_keys_env:
        found.append(
            "conversation: belongs to a session or to a caller with a key, and there are neither;"
            " add a [session] table, or name variables in server.caller_keys_env."
        )
    if conversation.answer_tokens >= conversation.context_tokens:
        found.append("conversation.answer_tokens: leaves no room for a question in context_tokens.")
    return found


def conversation_warnings(settings: Settings) -> list[str]:
    """Return one sentence for each value that is valid but hardly intended."""
    if settings.conversation is not None:
        return []
    found = {"database": settings.database != DatabaseSettings(), "jobs": settings.jobs != JobsSettings()}
    return [f"{name}: has no effect, as there is no [conversation] table." for name in found if found[name]]


def database_url_problems(url: str) -> list[str]:
    """Return what is wrong with the URL of a database, without the URL."""
    if problems := url_problems(url):
        return problems
    parts = urlsplit(url)
    values = (parts.username, parts.password, parts.hostname, parts.path.strip("/"))
    if any(PLACEHOLDER.fullmatch(unquote(value)) for value in values if value):
        return ["holds what an example writes in place of a user, a password, a host or a name."]
    return []


def read_database_url(
    settings: Settings, keys: SecretReader, environ: Mapping[str, str], problems: list[str]
) -> Secret | None:
    """Return the URL of the database, if there are conversations; add a sentence for each problem."""
    database = settings.database
    if settings.conversation is None:
        return None
    if database.url_env is not None:
        where = f"database.url_env: what {database.url_env} holds"
        urls = keys.read("database.url_env", (database.url_env,))
        problems += [f"{where} {problem}" for url in urls for problem in database_url_problems(url)]
    elif database.url is not None:
        where, urls = "database.url:", (database.url,)  # `conversation_problems` looks at it
    else:
        where, urls = f"database: {DEFAULT_URL}, which is used without database.url,", (DEFAULT_URL,)
        problems += [f"{where} {problem}" for problem in database_url_problems(DEFAULT_URL)]
    if urls and environ.get(EPHEMERAL) and urls[0].startswith("sqlite"):
        problems.append(f"{where} {EPHEMERAL_WHY}")
    return Secret(urls[0]) if urls else None


def database_variables(settings: Settings, environ: Mapping[str, str]) -> list[ReadVariable]:
    """Return the variables that are read for the database."""
    if settings.conversation is None:
        return []
    url_env = settings.database.url_env
    found = [ReadVariable.of(EPHEMERAL, "where SQLite is refused", environ)]
    if url_env is not None:
        found.append(ReadVariable.of(url_env, "database.url_env", environ, may_be_a_file=True))
    return found
