"""Personalities: system prompts to choose from, in text files. Some are shipped, others the operator's own.

A route with `personalities = ["tutor"]` also answers under the model name `<route>:tutor`. Call
`read_personalities(settings)`.
"""

import difflib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from dub5.service.config.settings import Personality, PersonalitySettings, RouteSettings, Settings
from dub5.service.optional_parts import load_part

SHIPPED = {  # names and titles; the text is service/personalities/<name>.md
    "assistant": "Assistant",
    "tutor": "Tutor",
    "short": "Short answers",
    "resume": "Questions about a resume",
}
FOLDER = Path(str(files("dub5.service") / "personalities"))
BYTES_MAX = 32 * 1024  # it is sent, and paid for, with each request
DOCUMENT_TEXT_BYTES_MAX = 1024 * 1024
PLAIN_SUFFIXES = (".txt", ".md")
SEPARATOR = ":"


def model_name(route: str, personality: str) -> str:
    """Return the model name under which a route answers with this personality."""
    return f"{route}{SEPARATOR}{personality}"


def read_personalities(settings: Settings) -> tuple[Mapping[str, Personality], list[str]]:
    """Read the text of each personality. Return them by name, and one sentence for each problem."""
    tables = {table.name: table for table in settings.personality}
    listed = {name for route in settings.route for name in route.personalities}
    for name in SHIPPED:
        if name in listed:
            tables.setdefault(name, PersonalitySettings(name))
    found: dict[str, Personality] = {}
    problems = _name_problems(settings, list(dict.fromkeys((*tables, *SHIPPED))))
    for name, table in tables.items():
        if table.file is None and name not in SHIPPED:
            continue
        text, problem = read_text(_file_of(table))
        if problem:
            problems.append(f"personality {name!r}{'.file' if table.file is not None else ''}: {problem}")
        else:
            document = None
            if table.document is not None:
                document, problem = read_document_file(Path(table.document))
                problems += [f"personality {name!r}.document: {problem}"] if problem else []
            found[name] = Personality(name, table.title or SHIPPED.get(name, name), text, document)
    return found, problems


def unused_personalities(settings: Settings) -> list[str]:
    """Return the names of the personalities in the file that no route lists."""
    listed = {name for route in settings.route for name in route.personalities}
    return [table.name for table in settings.personality if table.name not in listed]


def read_shipped(name: str) -> Personality:
    """Return a shipped personality."""
    return Personality(name, SHIPPED[name], (FOLDER / f"{name}.md").read_text(encoding="utf-8").strip())


def read_text(path: Path, bytes_max: int = BYTES_MAX) -> tuple[str, str]:
    """Return the text of a file, and what is wrong with it: one of the two is empty."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            return "", f"{str(path)!r} is not a file."
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
        text = data.decode("utf-8-sig").strip()
    except OSError as error:
        return "", f"{str(path)!r} cannot be read ({error.strerror})."
    except UnicodeDecodeError:
        return "", f"{str(path)!r} is not UTF-8 text."
    if len(data) > bytes_max:
        return "", f"{str(path)!r} is larger than {bytes_max:,} bytes."
    return (text, "") if text else ("", f"{str(path)!r} is empty.")


def read_document_file(path: Path) -> tuple[str, str]:
    """Return the text of a document, and what is wrong with its file: one of the two is empty.

    PDF and Word files are read in a process of their own, which is waited for.
    """
    if path.suffix.lower() in PLAIN_SUFFIXES:
        return read_text(path, DOCUMENT_TEXT_BYTES_MAX)
    read: tuple[str, str] = load_part("personality document").read(path)
    return read


def _file_of(table: PersonalitySettings) -> Path:
    return FOLDER / f"{table.name}.md" if table.file is None else Path(table.file)


def _name_problems(settings: Settings, known: list[str]) -> list[str]:
    names = [table.name for table in settings.personality]
    found = [f"personality {name!r}: the name is used twice." for name in sorted(set(_repeated(names)))]
    found += [
        f"personality {table.name!r}: no such personality is shipped; name its text in file, or use one of"
        f" {', '.join(SHIPPED)}."
        for table in settings.personality
        if table.file is None and table.name not in SHIPPED
    ]
    routes = {route.name for route in settings.route}
    for route in settings.route:
        found += _route_problems(route, known, routes)
    return found


def _route_problems(route: RouteSettings, known: list[str], routes: set[str]) -> list[str]:
    where = f"route {route.name!r}: personality"
    found = [
        f"{where} {name!r} is listed twice." for name in sorted(set(_repeated(list(route.personalities))))
    ]
    for name in dict.fromkeys(route.personalities):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."
            found.append(f"{where} {name!r} does not exist; {hint}")
        elif (model := model_name(route.name, name)) in routes:
            found.append(f"{where} {name!r} makes the model name {model!r}, which is a route already.")
    return found


def _repeated(names: list[str]) -> list[str]:
    return [name for name in names if names.count(name) > 1]
