"""The OpenAPI document: valid, as generated, complete, and true about what the service takes and answers."""

import json
import random
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from msgspec.structs import fields
from openapi_spec_validator import validate

from dub5.service.api.decks import DeckBody
from dub5.service.api.feedback import FeedbackBody, FeedbackMark
from dub5.service.cache.cache import Selection
from dub5.service.config.options import SanitizeOptions
from dub5.service.config.settings import DocumentSettings
from dub5.service.errors import every_error
from dub5.service.model import ChatBody, EmbedBody, Message
from dub5.simulators.script import Script, SimRequest
from dub5.simulators.virtual import AppResponse, run
from tests.experiments.openapi.document import document
from tests.experiments.openapi.operations import OPERATIONS, Operation
from tests.experiments.openapi.schemas import SCHEMAS
from tests.support.document_world import read_here
from tests.support.job_world import JobWorld, job_database
from tests.support.source import ROOT
from tests.support.world import ServiceWorld, completion, healthy, reply

DOCUMENT = document()
STRUCTS = {
    "ChatRequest": ChatBody,
    "EmbeddingsRequest": EmbedBody,
    "Message": Message,
    "Invalidation": Selection,
    "DeckRequest": DeckBody,
    "FeedbackRequest": FeedbackBody,
    "FeedbackMark": FeedbackMark,
}
# Raised before a path is known, or only inside a stream: no operation lists them.
UNLISTED = {"method_not_allowed", "request_head_too_large", "host_not_allowed", "https_required"} | {
    *("origin_not_allowed", "internal_error", "stream_cut", "stream_stalled"),
    *("upgrade_required", "too_many_turns"),  # of WebSockets, which OpenAPI does not describe
}


def problems(name: str, value: Any) -> list[str]:
    """Return what the schema of this name says against a value."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return [
        f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(value)
    ]


def title(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def test_valid() -> None:
    """The document is OpenAPI 3.1, and the served file is the one that the generator makes."""
    validate(DOCUMENT)
    served = json.loads((ROOT / "service" / "web" / "openapi.json").read_text(encoding="utf-8"))
    assert served == DOCUMENT, "nox -s docs -- --write makes it anew"


def test_every_route() -> None:
    """The document has each method of each path that the service has, and no others."""
    app = ServiceWorld(one=healthy()).service._build_app()._app
    routes = {
        (method, re.sub(r"{(\w+):\w+}", r"{\1}", route.path))
        for route in app.routes
        for method in route.methods
    }
    known = {(one.method, one.path) for one in OPERATIONS}
    assert known == {(method, path) for method, path in routes if method not in ("HEAD", "OPTIONS")}


def test_every_error() -> None:
    """Each error that a client may meet is listed where it may be met, with an example."""
    listed = {kind.code for operation in OPERATIONS for kind in operation.errors}
    assert listed == {kind.code for kind in every_error()} - UNLISTED - {"unavailable", "internal_error"} | {
        "unavailable"
    }
    for example in DOCUMENT["components"]["examples"].values():
        assert problems("Error", example["value"]) == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=title)
def test_examples(operation: Operation) -> None:
    """Each example is what its own schema describes."""
    if operation.takes is not None and operation.takes[0] in SCHEMAS:
        assert problems(*operation.takes) == []
    for name, example in operation.answers.values():
        if name in SCHEMAS:
            assert problems(name, example) == []


@pytest.mark.parametrize("name", STRUCTS)
def test_fields(name: str) -> None:
    """The schema of a request lists what the service reads of it."""
    assert set(SCHEMAS[name]["properties"]) == {field.encode_name for field in fields(STRUCTS[name])}


def test_the_schemas_can_fail() -> None:
    """An answer without a required field, or with one of another type, is found."""
    ((_, example),) = [o.answers[200] for o in OPERATIONS if title(o) == "GET /v1/models"]
    assert problems("Models", {**example, "data": [{"id": 1}]})
    assert problems("Error", {"error": {"message": "alone"}})


def answer(request: SimRequest) -> Script:
    """Answer chats and embeddings."""
    if request.path.endswith("/embeddings"):
        vectors = {"object": "list", "model": "m", "data": [{"index": 0, "embedding": [0.5]}], "usage": {}}
        return reply(200, json.dumps(vectors).encode())
    whole = json.loads(completion("Hello"))
    return reply(200, json.dumps(whole | {"object": "chat.completion"}).encode())


class DocumentedWorld(JobWorld):
    """A service that has all that the document describes."""

    def __init__(self) -> None:
        super().__init__(
            one=answer,
            route={"sanitize": SanitizeOptions(enabled=True)},
            options={"documents": DocumentSettings()},
            service_options={"read_file": read_here},
            database=job_database(random.Random(1)),
        )
        self.conversation = self.turn = self.job = self.feedback = self.deck = self.document = ""

    async def make_job(self) -> None:
        """Make a job of the owner of the conversation, whose one step ends at once."""
        ((owner,),) = self.database.storage.rows("SELECT owner FROM conversation")
        job = await self.make(1, owner)
        self.job = job.id

    async def make_document(self) -> str:
        """Upload a document of the owner of the conversation. Return its id."""
        headers = self.signed("me", {"content-type": "application/octet-stream"})
        made = await self.client.request("POST", "/v1/documents", headers=headers, body=b"Water is wet.")
        return str(made.json()["id"])

    async def follow(self, operation: Operation) -> AppResponse:
        """Send the example of an operation."""
        ids = {"feedback": self.feedback, "decks": self.deck, "documents": self.document}
        room = operation.path.partition("/{id}")[0].rpartition("/")[2]
        values = {
            "id": ids.get(room, self.conversation),
            "turn": self.turn,
            "job": self.job,
            "name": "index.html" if "web" in operation.path else "chat",
        }
        path = re.sub(r"{(\w+)}", lambda found: values[found[1]], operation.path)
        if "conversation" in operation.query:
            path += f"?conversation={self.conversation}"
        headers = self.signed("me")
        if operation.path.startswith("/admin"):
            headers = {"authorization": f"Bearer {self.service.admin.token.reveal()}", "host": "127.0.0.1"}
        body: dict[str, Any] = {}
        if operation.takes is not None:
            name, example = operation.takes
            body = {"json": example} if name in SCHEMAS else {"body": example.encode()}
            headers |= {} if name in SCHEMAS else {"content-type": name}
        if title(operation) == "POST /v1/decks":
            body["json"] = {**body["json"], "document": await self.make_document()}
        return await self.client.request(operation.method, path, headers=headers, **body)


def test_answers() -> None:
    """Each example request is answered with a documented status and what the schema of that says."""
    wrong = []

    async def main() -> None:
        async with DocumentedWorld() as world:
            for operation in sorted(OPERATIONS, key=lambda one: one.method == "DELETE"):
                found = await world.follow(operation)
                if found.status not in operation.answers:
                    wrong.append(f"{title(operation)}: {found.status} {found.body[:300]!r}")
                    continue
                name, _ = operation.answers[found.status]
                if name in SCHEMAS:
                    wrong.extend(f"{title(operation)}: {one}" for one in problems(name, found.json()))
                if title(operation) == "POST /v1/conversations":
                    world.conversation = found.json()["id"]
                    await world.make_job()
                if title(operation) == "POST /v1/conversations/{id}/turns":
                    world.turn = found.json()["id"]
                if title(operation) == "POST /v1/documents":
                    world.document = found.json()["id"]
                if title(operation) == "POST /v1/decks":
                    world.deck = found.json()["id"]
                if title(operation) == "POST /v1/feedback":
                    world.feedback = found.json()["id"]

    run(main(), seed=1)
    assert not wrong, "\n".join(wrong)
