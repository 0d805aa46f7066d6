"""The clients people use, unmodified."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from fracbnn_pynq.service.settings import Settings
from service_support import random_images, running

from fracbnn_pynq.pictures import load


@pytest.fixture(scope="module")
def server(classifier):
    with running({"cifar10": classifier}, Settings(token="a-long-token")) as server:
        yield server


def headers():
    """A dictionary of one's own each time, as tritonclient writes into it."""
    return {"Authorization": "Bearer a-long-token"}


@pytest.fixture
def triton(server):
    module = pytest.importorskip("tritonclient.http")
    with module.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield module, client


@pytest.mark.parametrize("binary", [False, True])
def test_tritonclient_gets_the_classifiers_logits(triton, classifier, binary):
    module, client = triton
    images = random_images(9)
    tensor = module.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    outputs = [module.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "probabilities", "labels")]
    result = client.infer("cifar10", [tensor], outputs=outputs, request_id="seven", headers=headers())
    logits = classifier.logits(images)
    assert result.get_response()["id"] == "seven"
    assert np.array_equal(result.as_numpy("logits"), logits)
    labels = [x.decode() if isinstance(x, bytes) else x for x in result.as_numpy("labels")]
    assert labels == [ranked[0][0] for ranked in classifier.rank(logits)]
    everything = client.infer("cifar10", [tensor], headers=headers())
    assert np.array_equal(everything.as_numpy("logits"), logits)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_tritonclient_compresses(triton, classifier, coding):
    module, client = triton
    images = random_images(4)
    tensor = module.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    result = client.infer("cifar10", [tensor], headers=headers(), request_compression_algorithm=coding)
    assert np.array_equal(result.as_numpy("logits"), classifier.logits(images))


def test_tritonclient_is_refused_shared_memory(triton):
    module, client = triton
    tensor = module.InferInput("images", [1, 32, 32, 3], "UINT8")
    tensor.set_data_from_numpy(random_images(1))
    output = module.InferRequestedOutput("logits")
    output.set_shared_memory("region", 40)
    with pytest.raises(module.InferenceServerException, match="shared memory"):
        client.infer("cifar10", [tensor], outputs=[output], headers=headers())
    tensor.set_shared_memory("region", 3072)
    with pytest.raises(module.InferenceServerException, match="shared memory"):
        client.infer("cifar10", [tensor], headers=headers())


def test_tritonclient_asks_for_statistics_and_the_index(triton):
    module, client = triton
    (stats,) = client.get_inference_statistics("cifar10", headers=headers())["model_stats"]
    assert stats["inference_stats"]["success"]["count"] >= 0
    assert client.get_inference_statistics(headers=headers())["model_stats"][0]["name"] == "cifar10"
    (entry,) = client.get_model_repository_index(headers=headers())
    assert (entry["name"], entry["state"]) == ("cifar10", "READY")
    assert client.get_model_config("cifar10", headers=headers())["max_batch_size"] == 256
    with pytest.raises(module.InferenceServerException):
        client.load_model("cifar10", headers=headers())


def test_tritonclient_sends_encoded_pictures(triton, classifier, cat):
    module, client = triton
    tensor = module.InferInput("pictures", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([cat.read_bytes()], dtype=object))
    output = module.InferRequestedOutput("probabilities", class_count=3)
    result = client.infer("cifar10", [tensor], outputs=[output], headers=headers())
    ranked = classifier.classify(cat, top=3).top
    texts = [text.decode() for text in result.as_numpy("probabilities")[0]]
    assert [text.split(":")[2] for text in texts] == [label for label, _ in ranked]


def test_tritonclient_asks_about_the_server(triton):
    module, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("cifar10", headers=headers())
    assert client.is_model_ready("cifar10", "1", headers=headers())
    assert not client.is_model_ready("other", headers=headers())
    assert client.get_server_metadata(headers=headers())["name"] == "fracbnn"
    assert client.get_model_metadata("cifar10", headers=headers())["versions"] == ["1"]
    with pytest.raises(module.InferenceServerException, match="expected one of cifar10"):
        client.get_model_metadata("other", headers=headers())


def test_tritonclient_gets_the_logits_of_all_golden_pictures(triton, classifier, shared):
    module, client = triton
    with np.load(shared / "golden" / "cifar10_csim_64.npz") as golden:
        images = golden["images"]
    logits = classifier.logits(images)
    for batch in (1, 64):
        for binary in (False, True):
            for first in range(0, len(images), batch):
                part = np.ascontiguousarray(images[first : first + batch])
                tensor = module.InferInput("images", list(part.shape), "UINT8")
                tensor.set_data_from_numpy(part, binary_data=binary)
                result = client.infer("cifar10", [tensor], headers=headers())
                assert np.array_equal(result.as_numpy("logits"), logits[first : first + batch])


@pytest.mark.parametrize("binary", [False, True])
def test_kserve_gets_the_classifiers_logits(server, classifier, binary, cat):
    kserve = pytest.importorskip("kserve")
    images = np.concatenate([random_images(4), load(cat, classifier.network)[None]])

    async def ask():
        config = kserve.RESTConfig(protocol="v2")
        async with kserve.InferenceRESTClient(config) as client:
            assert await client.is_server_live(server.url)
            assert await client.is_server_ready(server.url)
            assert await client.is_model_ready(server.url, "cifar10", headers=headers())
            tensor = kserve.InferInput("images", list(images.shape), "UINT8")
            tensor.set_data_from_numpy(images, binary_data=binary)
            request = kserve.InferRequest("cifar10", [tensor], request_id="nine")
            return await client.infer(server.url, request, model_name="cifar10", headers=headers())

    answer = asyncio.run(ask())
    assert answer.id == "nine"
    outputs = {output.name: output.as_numpy() for output in answer.outputs}
    assert np.array_equal(outputs["logits"], classifier.logits(images))
