"""Messages of the Open Inference Protocol over gRPC and of gRPC's health checks, made when they are first needed.

No code is generated: that would be for one release of protobuf, and a board's image has another. The tables below are
in the words of the public ``.proto`` files: KServe's ``open_inference_grpc.proto``, Triton's ``grpc_service.proto`` and
``model_config.proto`` for what it adds, gRPC's ``health.proto``. An enumeration is an int32 here, which is the same on
the wire.
"""

from __future__ import annotations

import re
from functools import cache
from types import SimpleNamespace
from typing import Any

_PARAMETERS = "map<string, InferParameter> parameters = 4"
_ABOUT = ("string name = 1", "string version = 2")
_DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")

INFERENCE: dict[str, tuple[str, ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("bool live = 1",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("bool ready = 1",),
    "ModelReadyRequest": _ABOUT,
    "ModelReadyResponse": ("bool ready = 1",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": (*_ABOUT, "repeated string extensions = 3"),
    "ModelMetadataRequest": _ABOUT,
    "TensorMetadata": ("string name = 1", "string datatype = 2", "repeated int64 shape = 3"),
    "ModelMetadataResponse": (
        "string name = 1",
        "repeated string versions = 2",
        "string platform = 3",
        "repeated TensorMetadata inputs = 4",
        "repeated TensorMetadata outputs = 5",
    ),
    "InferParameter": (
        "oneof parameter_choice bool bool_param = 1",
        "oneof parameter_choice int64 int64_param = 2",
        "oneof parameter_choice string string_param = 3",
        "oneof parameter_choice double double_param = 4",
        "oneof parameter_choice uint64 uint64_param = 5",
    ),
    "InferTensorContents": (
        "repeated bool bool_contents = 1",
        "repeated int32 int_contents = 2",
        "repeated int64 int64_contents = 3",
        "repeated uint32 uint_contents = 4",
        "repeated uint64 uint64_contents = 5",
        "repeated float fp32_contents = 6",
        "repeated double fp64_contents = 7",
        "repeated bytes bytes_contents = 8",
    ),
    "InferTensor": (
        "string name = 1",
        "string datatype = 2",
        "repeated int64 shape = 3",
        _PARAMETERS,
        "InferTensorContents contents = 5",
    ),
    "InferRequestedOutputTensor": ("string name = 1", "map<string, InferParameter> parameters = 2"),
    "ModelInferRequest": (
        "string model_name = 1",
        "string model_version = 2",
        "string id = 3",
        _PARAMETERS,
        "repeated InferTensor inputs = 5",
        "repeated InferRequestedOutputTensor outputs = 6",
        "repeated bytes raw_input_contents = 7",
    ),
    "ModelInferResponse": (
        "string model_name = 1",
        "string model_version = 2",
        "string id = 3",
        _PARAMETERS,
        "repeated InferTensor outputs = 5",
        "repeated bytes raw_output_contents = 6",
    ),
    "ModelStreamInferResponse": ("string error_message = 1", "ModelInferResponse infer_response = 2"),
    "ModelConfigRequest": _ABOUT,
    "ModelInput": ("string name = 1", "int32 data_type = 2", "repeated int64 dims = 4", "bool optional = 8"),
    "ModelOutput": ("string name = 1", "int32 data_type = 2", "repeated int64 dims = 3"),
    "ModelConfig": (
        "string name = 1",
        "string platform = 2",
        "int32 max_batch_size = 4",
        "repeated ModelInput input = 5",
        "repeated ModelOutput output = 6",
        "string backend = 17",
    ),
    "ModelConfigResponse": ("ModelConfig config = 1",),
    "ModelStatisticsRequest": _ABOUT,
    "StatisticDuration": ("uint64 count = 1", "uint64 ns = 2"),
    "InferStatistics": tuple(f"StatisticDuration {name} = {n}" for n, name in enumerate(_DURATIONS, start=1)),
    "ModelStatistics": (
        *_ABOUT,
        "uint64 last_inference = 3",
        "uint64 inference_count = 4",
        "uint64 execution_count = 5",
        "InferStatistics inference_stats = 6",
    ),
    "ModelStatisticsResponse": ("repeated ModelStatistics model_stats = 1",),
    "RepositoryIndexRequest": ("string repository_name = 1", "bool ready = 2"),
    "ModelIndex": (*_ABOUT, "string state = 3", "string reason = 4"),
    "RepositoryIndexResponse": ("repeated ModelIndex models = 1",),
}
HEALTH: dict[str, tuple[str, ...]] = {
    "HealthCheckRequest": ("string service = 1",),
    "HealthCheckResponse": ("int32 status = 1",),
}
DATA_TYPES = {"TYPE_UINT8": 2, "TYPE_FP32": 11, "TYPE_STRING": 13}
"""Numbers of the enumeration ``DataType``, for ``data_type``."""
UNKNOWN_STATUS, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)
"""Numbers of the enumeration ``ServingStatus``, for ``status``."""

_FIELD = re.compile(
    r"(?:oneof (?P<oneof>\w+) )?(?P<repeated>repeated )?(?:map<string, (?P<map>\w+)>|(?P<type>\w+)) (?P<name>\w+) = "
    r"(?P<number>\d+)"
)


@cache
def messages() -> SimpleNamespace:
    """The messages' classes by their names. Needs the package ``protobuf``."""
    from google.protobuf import descriptor_pool, message_factory  # noqa: PLC0415 - of the extra grpc

    made = SimpleNamespace()
    # A pool of its own: in the common one others may have put messages of the same names.
    pool = descriptor_pool.DescriptorPool()
    for package, tables in (("inference", INFERENCE), ("grpc.health.v1", HEALTH)):
        pool.Add(_file(package, tables))
        for name in tables:
            kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
            setattr(made, name, kind)
    return made


def _file(package: str, tables: dict[str, tuple[str, ...]]) -> Any:
    from google.protobuf import descriptor_pb2  # noqa: PLC0415

    described = descriptor_pb2.FileDescriptorProto(name=f"fracbnn/{package}.proto", package=package, syntax="proto3")
    for name, fields in tables.items():
        message = described.message_type.add(name=name)
        for text in fields:
            _add_field(message, f".{package}", text)
    return described


def _add_field(message: Any, package: str, text: str) -> None:
    found = _FIELD.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a field, found {text!r}")
    field = message.field.add(name=found["name"], number=int(found["number"]), label=1)
    if found["repeated"] or found["map"]:
        field.label = 3
    if found["oneof"]:
        if not message.oneof_decl:
            message.oneof_decl.add(name=found["oneof"])
        field.oneof_index = 0
    kind = found["type"]
    if found["map"]:
        kind = f"{found['name'].title()}Entry"
        entry = message.nested_type.add(name=kind)
        entry.options.map_entry = True
        _add_field(entry, package, "string key = 1")
        _add_field(entry, package, f"{found['map']} value = 2")
        field.type_name = f"{package}.{message.name}.{kind}"
    elif kind[0].isupper():
        field.type_name = f"{package}.{kind}"
    else:
        field.type = getattr(type(field), f"TYPE_{kind.upper()}")
    if field.type_name:
        field.type = type(field).TYPE_MESSAGE
