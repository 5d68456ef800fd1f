"""The schema and the endpoint agree: what the schema promises is what is answered, whatever is asked."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from .endpoint import Service, service

schemathesis = pytest.importorskip("schemathesis")

NAMING = ("/v1/recommendations", "/v1/events", "/v1/feedback", "/v1/items")
"""Where a body that fits the schema may name what does not exist, or a time too far ahead of the clock here."""

# Schemathesis draws with Python's own random numbers here and there, which Hypothesis seeds, and does not like.
IGNORING = pytest.mark.filterwarnings("ignore:Do not use the `random` module")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    from what_next.serving.http.callers import digest_of

    with service(tmp_path_factory.mktemp("schema"), fill=False, keys="yes", rate=0) as started:
        started.store.add_key("fuzz", "admin", digest_of("wn_fuzz"))
        started.app.parts.keys.refresh()
        started.key = "wn_fuzz"
        yield started


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_operation_has_a_name_a_text_an_example_and_its_errors(one: Service) -> None:
    schema = one.get("/openapi.json")
    names = []
    for method, path, operation in operations(schema):
        names.append(operation["operationId"])
        assert operation["summary"], path
        assert {"400", "403", "431", "500", "503"} <= set(operation["responses"]), path
        assert ({"401", "429"} <= set(operation["responses"])) == (path not in ("/health", "/ready")), path
        if method == "POST":
            content = operation["requestBody"]["content"]
            assert list(content) == ["application/json"]
            assert content["application/json"]["examples"]
            assert {"400", "413", "415", "422"} <= set(operation["responses"]), path
        for parameter in operation.get("parameters", []):
            assert parameter.get("examples") or parameter["schema"].get("examples"), (path, parameter["name"])
    assert len(set(names)) == len(names)
    assert schema["security"] == [{"bearer": []}, {"header": []}]


def test_every_example_of_a_body_is_taken(one: Service) -> None:
    from what_next.serving.http.routes import OPERATIONS

    for post in OPERATIONS:
        if post.body is None:
            continue
        assert post.body.examples
        for name, body in post.body.examples.items():
            post.body.model_validate_json(json.dumps(body))
            if "ranges" not in body and post.path not in ("/v1/feedback", "/v1/items", "/v1/items/batch"):
                assert one.ask("POST", post.path, body).status_code == post.status, (post.path, name)


def fuzz(one: Service, examples: int) -> None:
    """Every operation with data that fits and data that does not; all checks of schemathesis."""
    import hypothesis
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_asgi("/openapi.json", one.app)
    statuses: dict[int, int] = {}

    def ask(case: Any) -> None:
        response = case.call(headers={"Authorization": "Bearer wn_fuzz"})
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        excluded = [positive_data_acceptance] if case.path.startswith(NAMING) and case.method == "POST" else []
        case.validate_response(response, excluded_checks=excluded, headers={"Authorization": "Bearer wn_fuzz"})

    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            strategy = operation.as_strategy(generation_mode=mode)
            settings = hypothesis.settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            nothing_to_spoil = contextlib.suppress(hypothesis.errors.Unsatisfiable)
            with nothing_to_spoil if mode.is_negative else contextlib.nullcontext():
                settings(hypothesis.given(strategy)(ask))()
    assert not [status for status in statuses if status >= 500]
    assert {200, 201, 404, 422} <= set(statuses)


@pytest.mark.medium
@IGNORING
def test_whatever_is_asked_is_answered_as_the_schema_says(one: Service) -> None:
    fuzz(one, examples=5)


@pytest.mark.slow
@IGNORING
def test_whatever_is_asked_at_length_is_answered_as_the_schema_says(one: Service) -> None:
    fuzz(one, examples=100)
