"""Training runs: they learn, stop, go on exactly where they were, and end with a model that says how it was made."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from training_support import COLOURS, dataset  # noqa: E402
from traps import Malicious  # noqa: E402

from fracbnn_pynq import Classifier, native  # noqa: E402
from fracbnn_pynq.backends.reference import ReferenceBackend  # noqa: E402
from fracbnn_pynq.datasets import Dataset, split  # noqa: E402
from fracbnn_pynq.errors import ModelError, SourceError  # noqa: E402
from fracbnn_pynq.importers.parameters import named_parameters  # noqa: E402
from fracbnn_pynq.model import random_model  # noqa: E402
from fracbnn_pynq.modelfile import load_model, save_model  # noqa: E402
from fracbnn_pynq.networks import CIFAR10, IMAGENET, Network  # noqa: E402
from fracbnn_pynq.training import evaluate  # noqa: E402
from fracbnn_pynq.training import run as run_module  # noqa: E402
from fracbnn_pynq.training.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from fracbnn_pynq.training.evaluate import Comparison  # noqa: E402
from fracbnn_pynq.training.export import Exported, describe, export  # noqa: E402
from fracbnn_pynq.training.layers import BinaryConv2d  # noqa: E402
from fracbnn_pynq.training.network import build_network, gated_layers, load_parameters  # noqa: E402
from fracbnn_pynq.training.quantisers import WEIGHT_CLIP  # noqa: E402
from fracbnn_pynq.training.recipe import Recipe  # noqa: E402
from fracbnn_pynq.training.run import Budget, Report, TrainingRun  # noqa: E402
from fracbnn_pynq.training.start import read_start, start_with  # noqa: E402
from fracbnn_pynq.training.teacher import distillation, model_teacher  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
needs_kernels = pytest.mark.skipif(not native.available(), reason="native kernels were not built")

TINY = Recipe(batch=4, float_until=0.5, sizes=((0.0, 0.25), (0.5, 0.5)))
LEARNING = Recipe(batch=16, peak_rate=1e-2, sizes=((0.0, 0.25), (0.25, 0.5)))
FULL_CHECKPOINT = {"settings", "state_dict", "optimiser", "state"}


def tiny(folder: Path, **changes: Any) -> TrainingRun:
    """A run of 8 steps, 2 epochs, on small pictures; it takes a second."""
    folder.mkdir(exist_ok=True)
    given_options = {"recipe": TINY, "budget": Budget(epochs=2), "compiled": False, "seed": 5, **changes}
    train, test = given_options.pop("train", dataset(18)), given_options.pop("test", dataset(6, seed=1))
    return TrainingRun(CIFAR10, train, test, folder, **given_options)


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal, number by number; the time they took aside."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one if key != "seconds")
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def state(folder: Path) -> dict[str, Any]:
    found = load_checkpoint(folder / "checkpoint.pt")
    assert found.keys() == FULL_CHECKPOINT
    return found


def stop_after(run: TrainingRun, steps: int) -> None:
    """Make ``run`` stop when it has done so many steps."""
    step = run._step

    def counted() -> None:
        step()
        if run._state.step == steps:
            run.stop()

    run._step = counted  # type: ignore[method-assign]


# Budgets


@given(st.floats(0.1, 1000), st.floats(0, 2000))
def test_budgets(limit: float, spent: float):
    share = min(spent / limit, 1)
    assert Budget(epochs=limit).progress(spent, 1e9) == share
    assert Budget(hours=limit).progress(1e9, spent * 3600) == pytest.approx(share)
    assert Budget(epochs=limit).progress(limit, 0) == Budget(hours=limit).progress(0, limit * 3600) == 1


def test_a_run_in_hours(tmp_path: Path):
    run = tiny(tmp_path, budget=Budget(hours=0.2 / 3600))
    assert run.run()
    assert run.seconds >= 0.2
    assert run.epochs == run._state.step / 4 > 0


# Learning


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    train, test = split(dataset(96), 1 / 3, 0)
    run = TrainingRun(
        CIFAR10,
        train,
        test,
        tmp_path_factory.mktemp("trained"),
        recipe=LEARNING,
        budget=Budget(epochs=9),
        compiled=False,
    )
    losses = []
    step = run._step

    def recorded() -> None:
        step()
        losses.append(run._state.loss)

    run._step = recorded  # type: ignore[method-assign]
    assert run.run()
    assert len(losses) == 36
    assert losses[0] > 1
    assert losses[-1] < 0.85 * losses[0]  # an average over a hundred steps
    assert max(np.diff(losses[5:])) < 0.01
    return run


def test_a_run_learns(trained: TrainingRun):
    assert (trained.progress, trained.epochs) == (1, 9)
    report = trained.reports[-1]
    assert report.accuracy > 0.7
    assert 0 < report.gates_open < 1
    assert (report.progress, report.epochs, report.seconds) == (1, 9, trained.seconds)


def test_the_exported_model_is_what_was_trained(trained: TrainingRun, tmp_path: Path):
    exported = export(trained, tmp_path / "colours.safetensors")
    model = load_model(tmp_path / "colours.safetensors")
    assert (model.classes, model.network) == (COLOURS, CIFAR10.with_classes(3))
    for name, tensor in exported.model.tensors().items():
        assert np.array_equal(tensor, model.tensors()[name]), name
    pictures, labels = trained.test.take(np.arange(len(trained.test)))
    images = np.ascontiguousarray(pictures.transpose(0, 2, 3, 1))
    with Classifier.load(tmp_path / "colours.safetensors") as classifier:
        right = [p.label == COLOURS[label] for p, label in zip(classifier.classify_many(images), labels, strict=True)]
    found = exported.comparison
    assert found.integer_accuracy == sum(right) / 32 > 0.7
    assert found.agreement > 0.7
    in_float = ReferenceBackend(model, "float").logits(images).argmax(axis=1)
    assert abs(found.float_accuracy - (in_float == labels).mean()) <= 1 / 32  # float64 against float32


def test_the_model_says_how_it_was_made(trained: TrainingRun, tmp_path: Path):
    found = export(trained, tmp_path / "colours.safetensors", initial=Path("here/start.npz"), teacher="big.safetensors")
    comparison = found.comparison
    facts = load_model(tmp_path / "colours.safetensors").provenance
    assert facts["name"] == "colours"
    assert facts["trained_on"] == "colours, 64 pictures"
    assert facts["accuracy"] == {
        "colours, 32 pictures, faithful": round(comparison.integer_accuracy, 4),
        "colours, 32 pictures, float": round(comparison.float_accuracy, 4),
    }
    assert facts["gates_open"] == round(comparison.gates_open, 4)
    for part in (
        "9.0 epochs in 0.0",
        "batch 16, one cosine cycle from 0.01",
        "started from start.npz",
        "50% of the loss from the teacher big, temperature 3",
        "real weights for 25% of the run, then binary",
        "picture edge 8 from 0%, 16 from 25%",
        "shifted by up to 12.5%",
        "seed 0",
        f"PyTorch {torch.__version__}",
    ):
        assert part in facts["recipe"], part
    card = (tmp_path / "colours.md").read_text()
    assert card.startswith("# Model card: `colours`\n")
    for row in (
        "| Input | 32x32 RGB |",
        "| Classes | red, green, blue |",
        f"| Recipe | {facts['recipe']} |",
        f"| Accuracy in the `faithful` arithmetic | {comparison.integer_accuracy:.2%} of 32 pictures |",
        f"| Accuracy in float | {comparison.float_accuracy:.2%} of the same |",
        f"| Same answer in both | {comparison.agreement:.2%} |",
        f"| Gates open | {comparison.gates_open:.0%} of the outputs |",
    ):
        assert row in card.splitlines(), row
    drawn = find_spec("matplotlib") is not None
    assert ("](colours.png)" in card) == drawn
    files = ["colours.md", *(["colours.png"] if drawn else []), "colours.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files


@pytest.mark.parametrize(
    ("recipe", "part"),
    [
        (Recipe(float_until=0), "; binary weights;"),
        (Recipe(zoom=0.75), "; crops of at least 75% of the edge;"),
        (Recipe(flip=False), "; not mirrored;"),
        (Recipe(smoothing=0.1), "; label smoothing 0.1;"),
        (Recipe(gate_target=2, gate_pull=0.5), "; thresholds pulled to 2 with 0.5;"),
        (Recipe(), "; from scratch;"),
    ],
)
def test_descriptions_of_recipes(recipe: Recipe, part: str, tmp_path: Path):
    run = tiny(tmp_path, recipe=replace(recipe, batch=4))
    assert part in run_description(run)


def run_description(run: TrainingRun) -> str:
    from fracbnn_pynq.training.export import describe

    return describe(run, None, None)


def test_a_card_stays_a_table_whatever_the_names_are(trained: TrainingRun, tmp_path: Path):
    old = trained.train
    odd = Dataset(old.pictures, old.labels, ("a|b", "c", "d"), "x|y", old.which)
    run = tiny(tmp_path / "r", train=odd, test=odd, recipe=replace(TINY, batch=4))
    export(run, tmp_path / "a|b.safetensors")
    rows = [line for line in (tmp_path / "a|b.md").read_text().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}
    assert r"| Classes | a\|b, c, d |" in rows


@pytest.mark.parametrize(
    ("integer", "in_float", "warned"),
    [(0.90, 0.90, False), (0.89, 0.90, False), (0.91, 0.90, False), (0.88, 0.90, True), (0.95, 0.90, True)],
)
def test_a_difference_between_integers_and_float_is_told(integer: float, in_float: float, warned: bool):
    lines = Exported(random_model(CIFAR10), Comparison(1000, in_float, integer, 0.97, 0.4), 1000).lines()
    assert f"{integer:.2%} as exported (faithful arithmetic), {in_float:.2%} in float" in lines[0]
    assert "on 1000 pictures" in lines[0]
    assert lines[1] == "gates open: 40.0%"
    assert len(lines) == 2 + warned
    if warned:
        assert lines[2].startswith("warning: expected accuracies within 1% of each other, found ")
        assert f"found {abs(integer - in_float):.2%} between them" in lines[2]


def test_the_course_of_a_run_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(run_module, "REPORT_S", 0)
    run = tiny(tmp_path / "r", budget=Budget(epochs=1))
    assert run.run()
    assert [report.progress for report in run.reports] == [0.25, 0.5, 0.75, 1]
    assert all(0 <= report.accuracy <= 1 for report in run.reports)
    assert capsys.readouterr() == ("", "")  # only a command prints
    export(run, tmp_path / "m.safetensors")
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    assert "](m.png)" in (tmp_path / "m.md").read_text()


def test_without_matplotlib_there_is_a_reason_for_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = tiny(tmp_path / "r", budget=Budget(epochs=1))
    assert run.run()
    lines = export(run, tmp_path / "m.safetensors").lines()
    assert "no picture of the run: Matplotlib is not installed (pip install matplotlib)" in lines
    assert any(line.startswith("warning: expected at least 200 steps, found a budget of 4") for line in lines)
    assert not (tmp_path / "m.png").exists()
    assert "![" not in (tmp_path / "m.md").read_text()


def test_reports_are_printed_where_progress_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tiny(tmp_path, budget=Budget(epochs=1), progress=True)
    run.run()
    out, err = capsys.readouterr()
    assert re.search(r"^100%    1\.00 epochs +0\.\d min  loss \d\.\d+  accuracy \d+\.\d+%  gates open \d+%$", out, re.M)
    assert not err  # the bar itself is for terminals


def test_gates_are_pulled_to_the_target(tmp_path: Path):
    means = []
    for index, target in enumerate((-20.0, 20.0)):
        run = tiny(tmp_path / str(index), recipe=replace(TINY, gate_target=target, gate_pull=10), budget=Budget(1))
        run.run()
        thresholds = torch.cat([layer.threshold.detach().flatten() for layer in gated_layers(run.module)])
        means.append(float(thresholds.mean()))
    assert means[0] < -0.001
    assert means[1] > 0.001


# Stopping and going on


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    assert tiny(folder).run()
    return state(folder)


def test_a_run_stops_and_goes_on_exactly(uninterrupted: dict[str, Any], tmp_path: Path):
    for steps in (1, 4, 7):
        run = tiny(tmp_path)
        assert run.resumed == (steps > 1)
        stop_after(run, steps)
        assert not run.run()
        assert state(tmp_path)["state"]["step"] == steps
    run = tiny(tmp_path)
    assert run.progress == 7 / 8
    assert run.run()
    assert same(state(tmp_path), uninterrupted)
    assert not same(state(tmp_path)["state_dict"], tiny(tmp_path / "untrained").module.state_dict())


def test_a_run_that_is_killed_goes_on_exactly(
    uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """What is in memory is lost; what counts is the last checkpoint."""
    monkeypatch.setattr(run_module, "CHECKPOINT_S", 0)
    run = tiny(tmp_path)
    step = run._step

    def dying() -> None:
        if run._state.step == 5:
            raise KeyboardInterrupt
        step()

    run._step = dying  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert state(tmp_path)["state"]["step"] == 5
    assert tiny(tmp_path).run()
    assert same(state(tmp_path), uninterrupted)


@pytest.mark.parametrize(("before", "after"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_run_goes_on_on_a_machine_of_another_precision(before: str, after: str, tmp_path: Path):
    run = tiny(tmp_path, precision=before)
    stop_after(run, 3)
    assert not run.run()
    other = tiny(tmp_path, precision=after)
    assert (other.resumed, other.precision) == (True, after)
    assert same(other.module.state_dict(), run.module.state_dict())
    assert other.run()
    assert f"in {after}" in describe(other, None, None)


def test_a_finished_run_stays_as_it_is(uninterrupted: dict[str, Any], tmp_path: Path):
    save_checkpoint(tmp_path / "checkpoint.pt", uninterrupted)
    run = tiny(tmp_path)
    assert (run.progress, len(run.reports)) == (1, 1)
    assert run.run()
    assert same(state(tmp_path), uninterrupted)


def test_other_seeds_are_other_runs(uninterrupted: dict[str, Any], tmp_path: Path):
    tiny(tmp_path, seed=6).run()
    assert not same(state(tmp_path)["state_dict"], uninterrupted["state_dict"])


def test_every_epoch_takes_every_picture_once_in_an_order_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    taken: list[list[int]] = []
    take = Dataset.take

    def recorded(self: Dataset, indices: np.ndarray) -> Any:
        if self.name == "train":
            taken.append(indices.tolist())
        return take(self, indices)

    monkeypatch.setattr(Dataset, "take", recorded)
    tiny(tmp_path, train=dataset(16, name="train")).run()
    assert [len(batch) for batch in taken] == [4] * 8
    epochs = [sum(taken[:4], []), sum(taken[4:], [])]  # noqa: RUF017 - short
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(16))
    assert epochs[0] != epochs[1]


def test_a_run_that_is_stopped_before_it_starts(tmp_path: Path):
    run = tiny(tmp_path)
    run.stop()
    assert not run.run()
    assert not tiny(tmp_path).resumed


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("seed", {"seed": 6}),
        ("budget", {"budget": Budget(epochs=3)}),
        ("recipe", {"recipe": replace(TINY, peak_rate=1e-3)}),
        ("recipe", {"recipe": replace(TINY, sizes=((0.0, 1.0),))}),
        ("pictures", {"train": dataset(17)}),
        ("classes", {"train": dataset(18, classes=2)}),
    ],
)
def test_other_settings_than_the_checkpoints(
    name: str, changes: dict[str, Any], uninterrupted: dict[str, Any], tmp_path: Path
):
    save_checkpoint(tmp_path / "checkpoint.pt", uninterrupted)
    with pytest.raises(SourceError, match=rf"checkpoint\.pt: this run was started with {name} .*, not .*--restart"):
        tiny(tmp_path, **changes)


def test_another_network_than_the_checkpoints(uninterrupted: dict[str, Any], tmp_path: Path):
    save_checkpoint(tmp_path / "checkpoint.pt", uninterrupted)
    with pytest.raises(SourceError, match="was started with network cifar10, not imagenet"):
        TrainingRun(IMAGENET, dataset(18), dataset(6), tmp_path, recipe=TINY, budget=Budget(2), seed=5, compiled=False)


@pytest.mark.parametrize(("train", "test"), [(3, 6), (0, 6), (18, 0)])
def test_too_few_pictures(train: int, test: int, tmp_path: Path):
    message = rf"expected at least 4 pictures \(a batch\) to train on .* found {train} and {test}: .*smaller --batch"
    with pytest.raises(SourceError, match=message):
        tiny(tmp_path, train=dataset(train), test=dataset(test))


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path):
    run = tiny(tmp_path)
    stop_after(run, 1)
    run.run()
    run = tiny(tmp_path)
    with torch.no_grad():
        run.module.linear.bias.fill_(torch.inf)
    with pytest.raises(SourceError, match=r"the loss became (nan|inf) at step 1: try a lower --rate"):
        run.run()
    assert state(tmp_path)["state"]["step"] == 1


# Checkpoints


def test_checkpoints_are_not_executed(tmp_path: Path):
    trap, path = tmp_path / "executed", tmp_path / "checkpoint.pt"
    torch.save({"state": Malicious(trap)}, path)
    torch_file = path.read_bytes()
    for content in (torch_file, pickle.dumps(Malicious(trap), protocol=2)):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"checkpoint\.pt: expected a checkpoint of a training run, found some"):
            load_checkpoint(path)
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"])
def test_files_that_are_no_checkpoint(content: bytes, tmp_path: Path):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(SourceError, match="expected a checkpoint of a training run, found something else"):
        tiny(tmp_path)


@pytest.mark.parametrize("other", [[1, 2], {}, {"conv1.weight": 1}, {"settings": {}}])
def test_other_files_of_pytorch(other: Any, tmp_path: Path):
    torch.save(other, tmp_path / "checkpoint.pt")
    with pytest.raises(SourceError, match=r"expected a checkpoint of a training run, found (list|another file)"):
        tiny(tmp_path)


def test_a_truncated_checkpoint(uninterrupted: dict[str, Any], tmp_path: Path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, uninterrupted)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(SourceError, match="expected a checkpoint of a training run, found something else"):
        tiny(tmp_path)


# Teachers and first parameters


def parameters(folder: Path, teacher: Callable[[Any], Any] | None, labels: int = 0, share: float = 0.5) -> Any:
    """What two steps make of the network, with all labels moved by ``labels``."""
    old = dataset(18)
    moved = Dataset(old.pictures, (old.labels + labels) % 3, old.classes, old.name)
    run = tiny(folder, train=moved, teacher=teacher, recipe=replace(TINY, teacher_share=share))
    stop_after(run, 2)
    run.run()
    return run.module.state_dict()


def colour_teacher(pictures: Any) -> Any:
    assert pictures.dtype == torch.uint8
    assert pictures.shape[1:] == (3, 32, 32)  # whole, however small the network's own are at the time
    return pictures.float().mean(dim=(2, 3))


def test_the_teachers_share(tmp_path: Path):
    untaught = parameters(tmp_path / "0", None)
    assert same(parameters(tmp_path / "1", colour_teacher, share=0), untaught)
    taught = parameters(tmp_path / "2", colour_teacher, share=1)
    assert same(parameters(tmp_path / "3", colour_teacher, labels=1, share=1), taught)  # labels do not count
    assert not same(taught, untaught)
    assert not same(parameters(tmp_path / "4", colour_teacher, labels=1), parameters(tmp_path / "5", colour_teacher))


def test_distillation_is_the_divergence_of_softened_answers():
    rng = np.random.default_rng(0)
    logits, taught = rng.normal(0, 3, (2, 5, 4))

    def softened(values: np.ndarray) -> np.ndarray:
        shares = np.exp(values / 3)
        return shares / shares.sum(axis=1, keepdims=True)

    p, q = softened(taught), softened(logits)
    expected = 9 * (p * np.log(p / q)).sum(axis=1).mean()
    assert float(distillation(torch.tensor(logits), torch.tensor(taught), 3)) == pytest.approx(expected)
    assert float(distillation(torch.tensor(taught), torch.tensor(taught) + 7, 3)) == pytest.approx(0, abs=1e-12)


@needs_kernels
def test_a_model_as_teacher():
    model = random_model(CIFAR10.with_classes(3), 2)
    pictures = dataset(5).pictures
    found = model_teacher(model, CIFAR10, model.classes)(torch.from_numpy(pictures))
    expected = ReferenceBackend(model).logits(np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)))
    assert np.array_equal(found.numpy(), expected)


def test_teachers_for_something_else():
    model = random_model(CIFAR10.with_classes(3))
    with pytest.raises(
        ModelError, match=r"expected a teacher for 32-pixel pictures of red, green, blue, found .*class 0"
    ):
        model_teacher(model, CIFAR10, COLOURS)
    with pytest.raises(ModelError, match="expected a teacher for 224-pixel pictures"):
        model_teacher(model, IMAGENET, model.classes)


def test_a_run_starts_from_given_parameters(tmp_path: Path):
    first = tiny(tmp_path / "first")
    np.savez(tmp_path / "start.npz", **{name: array.numpy() for name, array in first.module.state_dict().items()})
    torch.save(first.module.state_dict(), tmp_path / "start.pt")
    save_checkpoint(tmp_path / "checkpoint.pt", {"state_dict": first.module.state_dict(), "state": {}})
    for name in ("start.npz", "start.pt", "checkpoint.pt"):
        run = tiny(tmp_path / "second", seed=9)
        assert not same(run.module.state_dict(), first.module.state_dict())
        assert run.start_from(str(tmp_path / name))
        assert same(run.module.state_dict(), first.module.state_dict())
    with pytest.raises(SourceError, match=r"cannot read .*gone\.npz"):
        run.start_from(str(tmp_path / "gone.npz"))


def test_other_classes_get_a_last_layer_of_their_own(tmp_path: Path):
    first = tiny(tmp_path / "first")
    np.savez(tmp_path / "start.npz", **{name: array.numpy() for name, array in first.module.state_dict().items()})
    run = TrainingRun(
        CIFAR10, replace(dataset(18), classes=tuple("abcdefghij")), dataset(3), tmp_path / "ten", recipe=TINY,
        budget=Budget(1), compiled=False,
    )  # fmt: skip
    before = {name: value.clone() for name, value in run.module.state_dict().items()}
    assert not run.start_from(str(tmp_path / "start.npz"))
    for name, value in run.module.state_dict().items():
        source = before if name.startswith("linear.") else first.module.state_dict()
        assert torch.equal(value, source[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("network", [CIFAR10, IMAGENET], ids=lambda network: network.name)
def test_a_model_to_start_with_computes_the_same_and_can_learn(network: Network, tmp_path: Path):
    model = random_model(network, 3)
    save_model(model, tmp_path / "m.safetensors")
    module = build_network(network).double()
    edge = network.image_size
    sample = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, edge, edge), dtype=np.uint8))
    load_parameters(module, named_parameters(model))
    with torch.no_grad():
        before = module.eval()(sample)
    assert start_with(module, read_start(str(tmp_path / "m.safetensors"), network), network.classes, sample)
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(sample), before, rtol=1e-6, atol=1e-6)
        # And with the statistics of the batch itself, as in training, which here are those it was given.
        torch.testing.assert_close(module.train()(sample), before, rtol=1e-6, atol=1e-6)
    weights = [part.weight for part in module.modules() if isinstance(part, BinaryConv2d)]
    assert all(0 < float(weight.detach().abs().max()) < WEIGHT_CLIP for weight in weights)


def test_models_of_another_network_are_no_start(tmp_path: Path):
    save_model(random_model(IMAGENET), tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match=r"expected a model of CIFAR-10 .*, found one of ImageNet"):
        read_start(str(tmp_path / "m.safetensors"), CIFAR10)


# Measuring


def test_accuracy_while_weights_are_real_is_that_of_the_float_network(tmp_path: Path):
    run = tiny(tmp_path)
    assert evaluate.quick_accuracy(run.module, run.model(), run.test, binary=False) in {i / 6 for i in range(7)}
    assert not gated_layers(run.module)[0].binary


def test_without_native_kernels_the_reference_measures(monkeypatch: pytest.MonkeyPatch):
    model = random_model(CIFAR10.with_classes(3), 2)
    found = evaluate.answers(evaluate.integer_logits(model), dataset(4))
    monkeypatch.setattr(native, "extension", None)
    again = evaluate.answers(evaluate.integer_logits(model), dataset(4))
    assert np.array_equal(found, again)


def test_reports_survive_a_restart(uninterrupted: dict[str, Any], tmp_path: Path):
    save_checkpoint(tmp_path / "checkpoint.pt", uninterrupted)
    (report,) = tiny(tmp_path).reports
    assert isinstance(report, Report)
    assert (report.progress, report.epochs) == (1, 2)


# Other data under the same counts


def with_one_pixel(data: Dataset) -> Dataset:
    pictures = data.pictures.copy()
    pictures[-1, 2, 31, 31] ^= 1
    return replace(data, pictures=pictures)


def with_one_label(data: Dataset) -> Dataset:
    labels = data.labels.copy()
    labels[-1] = (labels[-1] + 1) % 3
    return replace(data, labels=labels)


@pytest.mark.parametrize("change", [with_one_pixel, with_one_label])
@pytest.mark.parametrize("which", ["train", "test"])
def test_other_pictures_or_labels_than_the_checkpoints(
    change: Any, which: str, uninterrupted: dict[str, Any], tmp_path: Path
):
    save_checkpoint(tmp_path / "checkpoint.pt", uninterrupted)
    sets = {"train": dataset(18), "test": dataset(6, seed=1)}
    run = tiny(tmp_path / "other", **sets)
    own = run._settings()["pictures"]
    assert own != tiny(tmp_path / "other", **{**sets, which: change(sets[which])})._settings()["pictures"]
    with pytest.raises(SourceError, match=r"was started with pictures 18 \(.*\), 6 \(.*\), not .*; start it with"):
        tiny(tmp_path, **{**sets, which: change(sets[which])})


def test_the_same_pictures_from_elsewhere_are_the_same(tmp_path: Path):
    whole = dataset(24)
    parts = split(whole, 0.25, 0)
    assert parts[0].fingerprint() == split(replace(whole, name="moved"), 0.25, 0)[0].fingerprint()
    assert parts[0].fingerprint() != split(whole, 0.25, 1)[0].fingerprint()
    np.save(tmp_path / "x.npy", whole.pictures)
    assert replace(whole, pictures=np.load(tmp_path / "x.npy", mmap_mode="r")).fingerprint() == whole.fingerprint()


def test_another_teacher_than_the_checkpoints(tmp_path: Path):
    classes = ("red", "green", "blue")
    one, other = (
        model_teacher(replace(random_model(CIFAR10.with_classes(3), seed), classes=classes), CIFAR10, classes)
        for seed in (0, 1)
    )
    run = tiny(tmp_path, teacher=one)
    stop_after(run, 1)
    run.run()
    assert tiny(tmp_path, teacher=one).resumed
    for teacher in (other, None):
        with pytest.raises(SourceError, match=r"was started with teacher [0-9a-f]{16}, not .*; start it with the same"):
            tiny(tmp_path, teacher=teacher)


@pytest.mark.parametrize("key", ["settings", "state_dict", "optimiser", "state"])
@pytest.mark.parametrize("value", [None, 3, [], {}, {"step": "x"}, {"step": 1}])
def test_foreign_checkpoints_are_one_line(key: str, value: Any, uninterrupted: dict[str, Any], tmp_path: Path):
    save_checkpoint(tmp_path / "checkpoint.pt", {**uninterrupted, key: value})
    with pytest.raises(SourceError) as caught:
        tiny(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'checkpoint.pt'}: ")
    assert "--restart" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
