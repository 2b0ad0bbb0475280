"""The OpenAPI document of the service: `python -m tests.experiments.openapi > service/web/openapi.json`."""
