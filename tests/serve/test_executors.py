"""The conformance suite: what every executor must do, seen through a client."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from inferd_client import Client, Internal, InvalidArgument, NotFound

from inferd.errors import DeviceUnavailable, ModelLoadError
from tests.doubles import expected
from tests.running import Daemon, double, running


@pytest.fixture(scope="module", params=["inline", "process"])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    names = [
        "Double",
        "Nonce",
        "Hash",
        "Picky",
        "InPlace",
        "InPlacePrepared",
        "Short",
        "Unsendable",
        "Words",
        "mlp",
        "Two",
        "Example",
        "Leaky",
    ]
    folder = tmp_path_factory.mktemp("daemon")
    with running(folder, *[double(name) for name in names], executor=request.param) as daemon:
        yield daemon
        daemon.until(lambda: not daemon.engine.sessions)
        assert daemon.ask(lambda: daemon.engine.slab.used_bytes) == 0


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.url) as client:
        yield client


def test_a_tensor_goes_there_and_back(client: Client) -> None:
    """One item without a batch dimension comes back as one item."""
    answer = client.infer("double", {"x": np.arange(5, dtype=np.float32)})
    assert answer["y"].tolist() == [0, 2, 4, 6, 8]
    assert answer["rows"].tolist() == [1]


def test_rows_go_there_and_back(client: Client) -> None:
    """A request of n rows comes back with n rows, split from whatever batch it was in."""
    x = np.random.default_rng(0).random((7, 5), dtype=np.float32)
    answer = client.infer_batch("double", {"x": x})
    assert np.array_equal(answer["y"], x * 2)


def test_the_unix_socket_serves_the_same(daemon: Daemon) -> None:
    """TCP and the Unix socket carry the same bytes."""
    with Client(daemon.unix_url) as client:
        assert client.infer("double", {"x": np.ones(2, np.float32)})["y"].tolist() == [2, 2]


def test_values_go_there_and_back(client: Client) -> None:
    """Text goes through preprocess, forward and postprocess, and values come back."""
    assert client.infer("words", {"text": "one two three"}) == {"count": 3, "even": False}


def test_values_go_in_rows(client: Client) -> None:
    """A request of n texts comes back with lists of n values."""
    assert client.infer_batch("words", {"text": ["one", "one two"]}) == {"count": [1, 2], "even": [False, True]}


def test_a_module_factory_is_served_as_it_is(client: Client) -> None:
    """A plain nn.Module gets its one tensor as it is, and a tensor it returns is called output."""
    from tests.doubles import mlp

    x = np.random.default_rng(1).random(8, dtype=np.float32)
    import torch

    want = mlp()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(client.infer("mlp", {"x": x})["output"], want, rtol=1e-5)


def test_a_module_gets_several_tensors_by_name(client: Client) -> None:
    """Two inputs reach forward(a, b) whatever their order in the request."""
    answer = client.infer("two", {"b": np.full(3, 2, np.float32), "a": np.full(3, 1, np.float32)})
    assert answer["output"].tolist() == [3, 3, 3]


def test_a_signature_is_learned_from_an_example(client: Client) -> None:
    """What a model does not declare but shows by an example is announced, and checked at the door."""
    [model] = [model for model in client.models() if model["name"] == "example"]
    assert model["inputs"] == [["x", "FP32", [4]], ["label", "ANY", []]]
    assert ["sum", "FP32", []] in model["outputs"]
    with pytest.raises(InvalidArgument, match="'x'"):
        client.infer("example", {"x": np.zeros(5, np.float32), "label": "a"})


def test_mixed_shapes_in_flight_at_once_keep_their_answers(daemon: Daemon) -> None:
    """Different shapes, dtypes and models at once: every answer is its own."""
    import hashlib

    wrong: list[object] = []
    rng = np.random.default_rng(2)
    shapes = [(3,), (16,), (4, 4), (0,), (2, 3, 5), (1000,), (40_000,)]
    dtypes = [np.float32, np.int64, np.uint8, np.float16]

    def caller(seed: int) -> None:
        own = np.random.default_rng(seed)
        with Client(daemon.url) as client:
            for number in range(25):
                x = own.integers(0, 100, shapes[own.integers(len(shapes))]).astype(dtypes[own.integers(len(dtypes))])
                digest = client.infer("hash", {"x": x})["digest"].tobytes()
                if digest != hashlib.blake2b(x.tobytes(), digest_size=8).digest():
                    wrong.append((seed, number, x.shape, x.dtype))
                nonce, size = f"{seed}-{number}", int(own.integers(0, 200_000))
                answer = client.infer("nonce", {"nonce": nonce, "size": size})
                if answer["nonce"] != nonce or not np.array_equal(answer["data"], expected(nonce, size).numpy()):
                    wrong.append((seed, number, size))

    threads = [threading.Thread(target=caller, args=(int(rng.integers(1 << 30)),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_only_the_guilty_request_of_a_batch_fails(daemon: Daemon) -> None:
    """A batch that raises is halved until the guilty requests are alone; the others get their answers."""
    from concurrent.futures import ThreadPoolExecutor

    def ask(number: float) -> float | str:
        try:
            return float(client.infer("picky", {"x": np.array([number], np.float32)})["y"][0])
        except Internal as error:
            assert error.reason == "MODEL_FAILED"
            assert "secret" not in str(error)
            return "failed"

    numbers = [float(n) for n in range(40)]
    numbers[7] = numbers[8] = numbers[31] = -1.0
    with Client(daemon.url) as client, ThreadPoolExecutor(40) as threads:
        answers = list(threads.map(ask, numbers))
    assert answers == ["failed" if n < 0 else n + 1 for n in numbers]


def test_a_model_that_writes_into_its_inputs_gives_right_answers(client: Client) -> None:
    """In-place work is noticed, and its batches are copied from then on."""
    for _ in range(3):
        assert client.infer("inplace", {"x": np.zeros(1, np.float32)})["y"].tolist() == [1]
    with pytest.raises(Internal):
        client.infer("inplace", {"x": np.full(1, -5, np.float32)})
    assert client.infer("inplace", {"x": np.zeros(1, np.float32)})["y"].tolist() == [1]


def test_a_preprocess_that_writes_into_its_inputs_never_answers_wrong(daemon: Daemon) -> None:
    """A batch whose inputs were changed is not tried again with what is left of them: an error, never a wrong sum."""
    from concurrent.futures import ThreadPoolExecutor

    def ask(number: float) -> float | None:
        try:
            return float(client.infer("inplaceprepared", {"x": np.full(16, number, np.float32)})["y"][0])
        except Internal:
            return None

    numbers = [float(n) for n in range(12)]
    numbers[4] = -9.0
    with Client(daemon.url) as client, ThreadPoolExecutor(12) as threads:
        for _ in range(3):
            answers = list(threads.map(ask, numbers))
            assert all(answer in (None, n + 1) for n, answer in zip(numbers, answers, strict=True)), answers
    assert [answer is None for answer in answers] == [n < 0 for n in numbers]


def test_outputs_are_checked_for_length(client: Client) -> None:
    """A model that loses rows gets nobody else's answer sent to anybody."""
    with pytest.raises(Internal) as caught:
        client.infer_batch("short", {"x": np.zeros((3, 1), np.float32)})
    assert caught.value.reason == "OUTPUT_INVALID"


def test_what_cannot_be_sent_is_an_error_of_that_request(client: Client) -> None:
    """An output the wire has no word for is OUTPUT_INVALID, and the connection stays."""
    with pytest.raises(Internal) as caught:
        client.infer("unsendable", {"x": np.zeros(1, np.float32)})
    assert caught.value.reason == "OUTPUT_INVALID"
    assert client.infer("double", {"x": np.ones(1, np.float32)})["y"].tolist() == [2]


def test_what_preprocess_rejects_is_the_callers_error(client: Client) -> None:
    """An exception of preprocess is INVALID_ARGUMENT, and says nothing of the model's inside."""
    with pytest.raises(InvalidArgument) as caught:
        client.infer("words", {"text": "a\0b"})
    assert caught.value.reason == "INPUT_REJECTED" and "NUL" not in str(caught.value)


@pytest.mark.parametrize("stage", ["preprocess", "forward", "postprocess"])
def test_what_a_model_says_in_its_exceptions_stays_in_the_log(client: Client, stage: str) -> None:
    """Even when it raises inferd's own errors: the caller reads the catalogue's sentence, and nothing else."""
    with pytest.raises((Internal, InvalidArgument)) as caught:
        client.infer("leaky", {"stage": stage})
    assert "secret" not in str(caught.value) and ".py" not in str(caught.value)
    assert client.infer("leaky", {"stage": "fine"}) == {"stage": "fine"}


@pytest.mark.parametrize(
    ("model", "inputs", "error", "names"),
    [
        ("nobody", {"x": np.zeros(1, np.float32)}, NotFound, "nobody"),
        ("double", {"y": np.zeros(1, np.float32)}, InvalidArgument, "'y'"),
        ("double", {}, InvalidArgument, "'x'"),
        ("double", {"x": np.zeros(1, np.float64)}, InvalidArgument, "FP64"),
        ("double", {"x": np.zeros((1, 1), np.float32)}, InvalidArgument, "[1, 1]"),
        ("picky", {"x": np.zeros(2, np.float32)}, InvalidArgument, "[2]"),
        ("words", {"text": 3}, InvalidArgument, "'text'"),
        ("words", {"text": "a", "more": 1}, InvalidArgument, "'more'"),
        ("words", {}, InvalidArgument, "'text'"),
    ],
)
def test_wrong_inputs_are_named(
    client: Client, model: str, inputs: dict[str, object], error: type[Exception], names: str
) -> None:
    """What does not fit a model's signature is a typed error that names it; the connection stays."""
    with pytest.raises(error) as caught:
        client.infer(model, inputs)
    assert names in str(caught.value)
    assert client.infer("double", {"x": np.ones(1, np.float32)})["y"].tolist() == [2]


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_a_device_that_is_not_there_is_said(tmp_path: object, executor: str) -> None:
    """A GPU that was asked for is never replaced by the CPU."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with (
        pytest.raises(DeviceUnavailable, match="cuda"),
        running(
            tmp_path,
            double("Double"),
            executor=executor,
            devices=("cuda",),  # type: ignore[arg-type]
        ),
    ):
        pass


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_a_model_that_does_not_import_is_said_with_its_line(tmp_path: object, executor: str) -> None:
    """The error names the file and the line of the user's mistake."""
    from pathlib import Path

    from inferd.config import ModelConfig

    path = Path(str(tmp_path)) / "broken.py"
    path.write_text("import torch\n\nvalue = undefined_name\n")
    with (
        pytest.raises(ModelLoadError, match=r"broken\.py:3: NameError"),
        running(Path(str(tmp_path)), ModelConfig("broken", f"{path}:Broken"), executor=executor),
    ):
        pass
