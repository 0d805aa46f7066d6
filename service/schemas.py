"""What the OpenAPI document says about bodies. Written out, as this must not depend on a version of pydantic."""

from __future__ import annotations

from typing import Any

_MEANINGS = {
    400: "The request is malformed",
    401: "The bearer token is missing or wrong",
    403: "The Host is none of this service's, or a page of another site asks and there is no token",
    404: "There is no such model or camera",
    408: "The body came too slowly",
    413: "The body, a picture or the batch is too large",
    415: "This type of body is not understood",
    422: "A picture or a parameter cannot be used",
    503: "Busy, recovering, shutting down or past the deadline; Retry-After says when to try again",
}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **optional}, "required": list(required)}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def json_body(schema: dict[str, Any], description: str, **others: Any) -> dict[str, Any]:
    """An answer with a JSON body, or one of ``others``: schemas by media type."""
    content = {kind: {"schema": each} for kind, each in {"application/json": schema, **others}.items()}
    return {"description": description, "content": content}


STRING = {"type": "string"}
NUMBER = {"type": "number"}
INTEGER = {"type": "integer"}
BINARY = {"type": "string", "format": "binary"}
ERROR = _object({"error": STRING})

_LABELS = {"label": STRING, "score": NUMBER, "top": _array(_object({"label": STRING, "probability": NUMBER}))}
_ABOUT = {"model": STRING, "backend": STRING, "arithmetic": STRING, "request_id": STRING}
_TIMINGS = _object({"read": NUMBER, "queue": NUMBER, "infer": NUMBER, "total": NUMBER})

CLASSIFY_ANSWER = json_body(
    _object({**_ABOUT, **_LABELS, "timings_ms": _TIMINGS}, board=STRING, engine=STRING), "The labels"
)
_MODEL = _object(
    {
        **dict.fromkeys(("name", "network", "arithmetic"), STRING),
        "image_size": INTEGER,
        "labels": _array(STRING),
        "card": {"type": "object", "additionalProperties": STRING},
    }
)
MODELS_ANSWER = json_body(_object({"models": _array(_MODEL), "max_pixels": INTEGER}), "The models")
BATCH_ANSWER = json_body(
    _object(
        {
            **_ABOUT,
            "results": _array(
                {"oneOf": [_object({"file": STRING, **_LABELS}), _object({"file": STRING, "error": STRING})]}
            ),
            "timings_ms": _TIMINGS,
        },
        board=STRING,
        engine=STRING,
    ),
    "The labels or an error of each file, in order",
)

_CAMERA = {"source": STRING, "model": STRING, "state": STRING, "message": STRING}
CAMERA_ANSWER = json_body(
    _object({"configured": {"type": "boolean"}}, **_CAMERA, viewers=INTEGER, most_viewers=INTEGER), "The camera"
)
MJPEG_ANSWER = {"description": "JPEG files until either side ends it", "content": {"multipart/x-mixed-replace": {}}}

CLASSIFY_QUERY = [
    {
        "name": "top",
        "in": "query",
        "description": "How many labels.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5},
    },
    {
        "name": "model",
        "in": "query",
        "description": "A model's name; the first one served if left out.",
        "schema": STRING,
    },
]

_TENSOR = _object(
    {"name": STRING, "shape": _array({"type": "integer"}), "datatype": STRING},
    parameters={"type": "object"},
    data={"type": "array", "items": {}},
)
INFER_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": _object(
                {"inputs": _array(_TENSOR)},
                id=STRING,
                parameters={"type": "object"},
                outputs=_array(_object({"name": STRING}, parameters={"type": "object"})),
            )
        },
        "application/octet-stream": {"schema": BINARY},
    },
}
INDEX_BODY = {
    "required": False,
    "content": {"application/json": {"schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}},
}
INFER_ANSWER = json_body(
    _object({"model_name": STRING, "model_version": STRING, "outputs": _array(_TENSOR)}, id=STRING),
    "The outputs; with Inference-Header-Content-Length, JSON followed by binary tensors",
    **{"application/octet-stream": BINARY},
)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of an operation, for FastAPI's ``responses``."""
    return {status: json_body(ERROR, _MEANINGS[status]) for status in statuses}


def pictures_body(*, several: bool) -> dict[str, Any]:
    """A request body with one picture, or a form with several."""
    field = _array(BINARY) if several else BINARY
    content: dict[str, Any] = {"multipart/form-data": {"schema": _object({"file": field})}}
    for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream"):
        content[kind] = {"schema": BINARY}
    return {"required": True, "content": content}
