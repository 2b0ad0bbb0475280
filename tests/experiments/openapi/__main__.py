"""Prints the OpenAPI document."""

import json

from tests.experiments.openapi.document import document

print(json.dumps(document(), indent=1, ensure_ascii=False))
