"""The service does what its OpenAPI document says, for requests that are made from that document."""

from __future__ import annotations

import warnings

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
pytest.importorskip("hypothesis")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its own dependencies are warned of
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis import checks as named
    from schemathesis.generation import GenerationMode

from fracbnn_pynq.service.settings import Settings
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from service_support import running

from fracbnn_pynq import Classifier

OPERATIONS = [
    "POST /v1/classify",
    "POST /v1/classify/batch",
    "POST /v1/trace",
    "POST /v1/trace/layer",
    "GET /v1/models",
    "GET /v1/camera",
    "GET /v1/stream.mjpg",
    "GET /v2",
    "GET /v2/health/live",
    "GET /v2/health/ready",
    "GET /v2/models",
    "GET /v2/models/{name}",
    "GET /v2/models/{name}/versions/{version}",
    "GET /v2/models/{name}/ready",
    "GET /v2/models/{name}/versions/{version}/ready",
    "GET /v2/models/stats",
    "GET /v2/models/{name}/stats",
    "GET /v2/models/{name}/versions/{version}/stats",
    "GET /v2/models/{name}/config",
    "GET /v2/models/{name}/versions/{version}/config",
    "POST /v2/repository/index",
    "POST /v2/models/{name}/infer",
    "POST /v2/models/{name}/versions/{version}/infer",
    "GET /health/live",
    "GET /health/ready",
    "GET /metrics",
]
EXAMPLES = {"GET": 10, "POST": 50}
THIS_MODEL = {"name": "cifar10", "version": "1"}
NOT_FOR_A_METHOD = 405


@pytest.fixture(scope="module")
def server():
    with (
        Classifier.load("cifar10", backend="cpu", threads=1) as classifier,
        running({"cifar10": classifier}, Settings(deadline=20)) as service,
    ):
        yield service


@pytest.fixture(scope="module")
def schema(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def follow_the_document(response, case):
    """Documented status, media type and body; every refusal in the one shape; 503 is the only failure."""
    status = response.status_code
    assert status < 500 or status == 503, response.text
    if status >= 400:
        assert response.headers["content-type"] == ["application/json"]
        refusal = response.json()
        assert isinstance(refusal["error"], str)
        assert refusal["error"]
        assert response.headers["x-request-id"]
    if status == 503:
        assert response.headers["retry-after"]
    if status != NOT_FOR_A_METHOD:
        checks = ["status_code_conformance", "content_type_conformance", "response_schema_conformance"]
        case.validate_response(response, checks=[getattr(named, name) for name in checks])


def test_every_operation_is_tried(schema):
    assert {result.ok().label for result in schema.get_all_operations()} == set(OPERATIONS)


@pytest.mark.parametrize("label", OPERATIONS)
def test_requests_that_follow_the_document(schema, label):
    send_requests(schema, label, GenerationMode.POSITIVE)


@pytest.mark.parametrize("label", [label for label in OPERATIONS if label.startswith("POST")])
def test_requests_that_do_not_follow_the_document(schema, label):
    send_requests(schema, label, GenerationMode.NEGATIVE)


def send_requests(schema, label, mode):
    method, path = label.split(" ")
    operation = schema[path][method]

    @settings(
        max_examples=EXAMPLES[method],
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), known=st.integers(0, 3))
    def requests(case, known):
        if known:  # names made up by chance would never be those of a model
            case.path_parameters.update((key, THIS_MODEL[key]) for key in case.path_parameters)
        follow_the_document(case.call(), case)

    requests()
