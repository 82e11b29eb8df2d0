"""From a checkpoint to a model that a bare MLflow serves; and models that are refused."""

import contextlib
import io
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from helpers.configurations import TINY
from pydantic import TypeAdapter

from flows import recipes
from lstm_models.cells import CELLS
from lstm_models.checkpoint import load_network
from lstm_models.config import NUMBER, AnyModel, TutorialData, one_line, parse_config
from lstm_models.data.examples import Batch
from lstm_models.export import Exportable
from lstm_models.network import Network, build_network, restored
from lstm_models.replicas import Replicas
from tasks import champions, registry, runs, tracking
from tasks.data import load_dataset, store_data
from tasks.evaluation import evaluate
from tasks.references import CheckpointRef, DatasetRef, Holder, Judged, Result
from tasks.training import resume, train

CONFIG = recipes.load("tutorial", TINY)


def everything(dataset: DatasetRef) -> Batch:
    """All examples that are judged by, as one batch."""
    test = load_dataset(dataset).test
    return test.take(torch.arange(test.count))


@pytest.fixture(scope="module")
def registered(
    tmp_path_factory: pytest.TempPathFactory, database: Path
) -> tuple[Path, DatasetRef, list[CheckpointRef], list[Result]]:
    """Both contenders, trained and resumed for a moment, and registered: by the tasks themselves, without Prefect."""
    directory = tmp_path_factory.mktemp("registered")
    shutil.copy(database, directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
        parent = runs.start_parent(runs.comparison(CONFIG))
        dataset = store_data.fn(CONFIG, parent)
        checkpoints, results = [], []
        for contender in CONFIG.contenders:
            initial = train.fn(CONFIG, contender, dataset, parent)
            checkpoints += [initial, resume.fn(CONFIG, initial, dataset, parent)]
        for checkpoint in checkpoints:
            result = evaluate.fn(CONFIG, checkpoint, dataset)
            results.append(registry.register.fn(CONFIG, checkpoint, result, dataset))
    return directory, dataset, checkpoints, results


@pytest.fixture
def at(registered: tuple[Path, DatasetRef, list[CheckpointRef], list[Result]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the registered models as the working directory."""
    monkeypatch.chdir(registered[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registered[0]}/mlflow.db")
    return registered[0]


def test_every_phase_is_a_version(at: Path, registered) -> None:  # type: ignore[no-untyped-def]
    assert [result.model_uri for result in registered[3]] == [f"models:/tutorial/{number}" for number in (1, 2, 3, 4)]


def test_a_bare_mlflow_predicts_what_was_reported(at: Path, registered) -> None:  # type: ignore[no-untyped-def]
    _, dataset, _, results = registered
    x_BTD = everything(dataset).x_BTD.numpy()
    for result in results:
        served = mlflow.pyfunc.load_model(result.model_uri).predict(x_BTD)
        # the exported loop adds in another order than the one that trained: float32's last digits
        assert served.tolist() == pytest.approx(result.predictions, abs=1e-6)


def test_a_served_model_takes_any_number_of_sequences_of_any_length(at: Path, registered) -> None:  # type: ignore[no-untyped-def]
    _, _, checkpoints, results = registered
    for checkpoint, result in zip(checkpoints, results, strict=True):
        network = load_network(tracking.download(checkpoint.uri))
        served = mlflow.pyfunc.load_model(result.model_uri)
        for B, T in ((1, 1), (2, 3), (1, 9), (7, 40), (3, 400)):
            x_BTD = torch.randn(B, T, 1)
            with torch.no_grad():
                live = network(x_BTD)
            # FACTS' 1e-7, and some room for 400 steps
            assert served.predict(x_BTD.numpy()).tolist() == pytest.approx(live.tolist(), abs=1e-6)


def test_a_served_model_takes_sequences_of_different_lengths(at: Path, registered) -> None:  # type: ignore[no-untyped-def]
    """NaN from a sequence's end to the end of the batch is padding, and changes nothing."""
    _, _, _, results = registered
    lengths = (3, 40, 1, 9, 0)
    x_BTD = torch.randn(5, 40, 1)
    for sequence, length in zip(x_BTD, lengths, strict=True):
        sequence[length:] = torch.nan
    for result in results:
        served = mlflow.pyfunc.load_model(result.model_uri)
        together = served.predict(x_BTD.numpy()).tolist()
        alone = [
            served.predict(x[None, :length].numpy()).item() for x, length in zip(x_BTD[:4], lengths[:4], strict=True)
        ]
        # a matrix product of another batch size may add in another order
        assert together[:4] == pytest.approx(alone, abs=1e-7)
        assert np.isnan(together[4])  # a sequence that is nothing but padding


def test_a_missing_value_is_no_padding(at: Path, registered) -> None:  # type: ignore[no-untyped-def]
    served = mlflow.pyfunc.load_model(registered[3][0].model_uri)
    assert np.isnan(served.predict(np.array([[[1.0], [np.nan], [0.5], [1.0]]], dtype=np.float32))).all()


def test_a_model_tells_what_it_reads_and_tells(at: Path, registered, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    days = tmp_path / "days.csv"
    days.write_text("company,day_4,day_3,day_2,day_1\nC,4,3,2,1\n")
    for result in registered[3]:
        model = registry.load_model(result.model_uri)
        assert (model.data, model.output, model.network.scaling) == (TutorialData(), NUMBER, None)
        new = model.read(days)
        assert (new.names, new.batch.x_BTD.tolist()) == (["C"], [[[1.0], [2.0], [3.0], [4.0]]])


def test_a_version_tells_what_it_is(at: Path, registered) -> None:  # type: ignore[no-untyped-def]
    _, dataset, checkpoints, results = registered
    client = mlflow.MlflowClient()
    version = client.get_model_version("tutorial", "2")
    assert version.tags == {
        "contender": "hand_built",
        "phase": "fine_tuned",
        "dataset": dataset.digest,
        "judged": version.tags["judged"],
        "rows": "all",
        "prefect_flow_run_id": "none",
        "continues": "1",
        "mse": repr(results[1].metrics["mse"]),
        "mae": repr(results[1].metrics["mae"]),
        "max_error": repr(results[1].metrics["max_error"]),
    }
    assert "continues" not in client.get_model_version("tutorial", "1").tags
    judged = Judged.model_validate_json(version.tags["judged"])
    assert judged == results[1].judged()
    assert (judged.loss, judged.parameters, judged.dataset) == (results[1].metrics["mse"], 12, dataset.digest)
    assert version.run_id == checkpoints[1].run_id
    assert version.source.startswith("models:/m-")
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    figures = {metric.key: metric.value for metric in model.metrics}
    assert {key: figures[key] for key in ("mse", "mae", "max_error")} == results[1].metrics
    assert model.experiment_id == tracking.experiment_id("tutorial")


def test_a_run_is_finished_once_its_model_is_registered(at: Path, registered) -> None:  # type: ignore[no-untyped-def]
    statuses = {tracking.client().get_run(checkpoint.run_id).info.status for checkpoint in registered[2]}
    assert statuses == {"FINISHED"}


def choose(results: list[Result]) -> tuple[Holder, Holder | None]:
    """As a flow run of its own does."""
    found: tuple[Holder, Holder | None] = champions.choose_champion.fn(
        CONFIG, results, runs.start_parent(runs.comparison(CONFIG))
    )
    return found


@pytest.mark.usefixtures("harness")
def test_contenders_have_aliases_and_the_best_is_champion(at: Path, registered) -> None:  # type: ignore[no-untyped-def]
    _, _, _, results = registered
    champion, challenger = choose(results)
    best = min(results, key=lambda result: result.metrics["mse"])
    assert (champion.contender, champion.phase, challenger) == (best.contender, best.phase, None)
    aliases = mlflow.MlflowClient().get_registered_model("tutorial").aliases
    expected = int(best.model_uri.rsplit("/")[-1])
    assert {name: int(version) for name, version in aliases.items()} == {
        "hand_built": 2,
        "built_in": 4,
        "champion": expected,
    }


@pytest.mark.usefixtures("harness")
def test_a_champion_judged_on_other_data_stays(at: Path, registered) -> None:  # type: ignore[no-untyped-def]
    _, _, _, results = registered
    choose(results)
    perfect = results[0].model_copy(update={"loss": 0.0, "dataset": "other"})
    champion, challenger = choose([perfect])
    assert champion.model_uri == "models:/tutorial@champion"
    assert (challenger.contender, challenger.model_uri) == ("hand_built", "models:/tutorial@challenger")


@pytest.mark.usefixtures("harness")
def test_a_champion_of_an_older_program_stays(at: Path, registered) -> None:  # type: ignore[no-untyped-def]
    """It was judged in another way, and does not tell how."""
    _, _, _, results = registered
    choose(results)
    client = mlflow.MlflowClient()
    version = client.get_model_version_by_alias("tutorial", "champion")
    client.delete_model_version_tag("tutorial", version.version, "judged")
    others = [result for result in results if result.version != int(version.version)]
    try:
        champion, challenger = choose(others)
    finally:
        client.set_model_version_tag("tutorial", version.version, "judged", version.tags["judged"])
    assert champion.model_uri == "models:/tutorial@champion"
    assert challenger
    assert challenger.model_uri == "models:/tutorial@challenger"
    assert client.get_model_version_by_alias("tutorial", "champion").version == version.version


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/nothing@champion", "models:/nothing@champion: Registered Model with name=nothing not found"),
    ],
)
def test_a_model_that_is_not_there(at: Path, uri: str, message: str) -> None:
    with pytest.raises(registry.ModelError) as caught:
        registry.load_model(uri)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "uri",
    [
        "tutorial", "", "models:/", "models:/tutorial", "models:tutorial/1", "models://tutorial/1", "Model:/tutorial/1",
        "file:///etc/passwd", "/etc/passwd", "http://127.0.0.1:9/tutorial/1", "https://127.0.0.1:9/x@champion",
        "s3://bucket/model", "runs:/0/model", "mlflow-artifacts:/0", "dbfs:/model", "models:/m-0123456789abcdef",
        "models:/../tutorial/1", "models:/..@champion", "models:/tutorial/../1", "models:/tutorial/1/../../x",
        "models:/tutorial/-1", "models:/tutorial/1?x=1", "models:/tutorial/1#x", "models:/tutorial/1 ",
        "models:/tutorial@cham pion", "models:/tutorial@../1", "models:/tutori\u0430l/1", "models:/tutorial/\u0661",
        "models:/tutorial\0/1", "models:/tutorial'--/1", "models:/%2e%2e/1", "models:/tutorial/1\n",
        f"models:/{'x' * 101}/1", f"models:/tutorial/{'9' * 10}",
    ],
)  # fmt: skip
def test_what_names_no_registered_model_is_refused_before_anything_is_fetched(
    at: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "download", lambda uri: pytest.fail(f"{uri} is fetched"))
    monkeypatch.setattr(tracking, "require_database", lambda what: pytest.fail(f"{what} is looked up"))
    with pytest.raises(registry.ModelError) as caught:
        registry.load_model(uri)
    text = f"{uri}: not a model URI; write models:/NAME@ALIAS or models:/NAME/VERSION"
    assert str(caught.value) == one_line(text)


def test_no_database_is_created_by_asking(empty_directory: Path) -> None:
    with pytest.raises(tracking.NothingTracked, match=r"no models here, since there is no mlflow\.db in"):
        registry.load_model("models:/tutorial@champion")
    assert list(empty_directory.iterdir()) == []


class Payload:
    """Writes a file when it is unpickled."""

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (Path.touch, (Path("owned"),))


CODE = "__import__('pathlib').Path('owned').touch()"
CONSTANT = {"path_name": "tensor_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
ANOTHERS = "it may be another's: train anew, or ask who registered it"


def in_config(kind: str, entry: dict[str, object]) -> Callable[[dict[str, bytes]], None]:
    """To the weights or the constants that an archive lists, one more, or one instead."""

    def change(records: dict[str, bytes]) -> None:
        name = f"data/{kind}/model_{kind}_config.json"
        config = json.loads(records[name])
        config["config"] = {**config["config"], "network.recurrent.weight_ih_l0": entry}
        records[name] = json.dumps(config).encode()
        opaque = str(entry["path_name"]).startswith("opaque")
        records[f"data/{kind}/{entry['path_name']}"] = pickle.dumps(Payload()) if opaque else saved(Payload())

    return change


def of_no_check(records: dict[str, bytes]) -> None:
    """A weight that MLflow's check takes for raw numbers: its name has a slash, and another list tells of it too."""
    in_config("weights", {**CONSTANT, "path_name": "data/weights/weight_0"})(records)
    also = {"config": {"w": {"path_name": "weight_0", "use_pickle": False}}}
    records["data/weights/data/weights/x_config.json"] = json.dumps(also).encode()
    del records["data/weights/weight_0"]


@pytest.mark.parametrize(
    ("change", "message", "mlflow_refuses"),
    [
        (
            lambda records: records.update({"data/sample_inputs/model.pt": saved(Payload())}),
            "data/sample_inputs/model.pt in its archive is more than tensors (its pickle names __builtin__.getattr, "
            "no part of a tensor)",
            True,
        ),
        (
            in_config("weights", {**CONSTANT, "path_name": "weight_0"}),
            "data/weights/weight_0 in its archive is a pickle",
            True,
        ),
        (in_config("constants", CONSTANT), "data/constants/tensor_0 in its archive is a pickle", True),
        (
            in_config("constants", {**CONSTANT, "path_name": "opaque_obj_0"}),
            "data/constants/opaque_obj_0 in its archive is nothing that a network is stored with",
            True,
        ),
        (
            of_no_check,
            "data/weights/data/weights/weight_0 in its archive is nothing that a network is stored with",
            False,
        ),
    ],
    ids=["sample inputs", "weight", "constant", "opaque constant", "past MLflow's check"],
)
def test_an_archive_with_a_payload_is_refused_and_nothing_runs(
    at: Path,
    registered,  # type: ignore[no-untyped-def]
    change: Callable[[dict[str, bytes]], None],
    message: str,
    mlflow_refuses: bool,
) -> None:
    with changed(change):
        with pytest.raises(registry.ModelError) as caught:
            registry.load_model("models:/tutorial/1")
        assert str(caught.value) == f"models:/tutorial/1: {message}; {ANOTHERS}"
        assert not (at / "owned").exists()
        # the payload is a live one: a bare MLflow runs it
        assert runs_in_a_bare_mlflow(at, allow_pickle=False) is not mlflow_refuses
        assert runs_in_a_bare_mlflow(at, allow_pickle=True)


def in_guards(program: str) -> str:
    return program.replace('"guards_code": []', f'"guards_code": ["{CODE} is None"]')


def in_symbols(program: str) -> str:
    return re.sub(r'"expr_str": "Symbol[^"]*"', f'"expr_str": "{CODE}"', program)


def in_names(program: str) -> str:
    return program.replace('"x_btd"', f'"x_btd={CODE}"')


@pytest.mark.parametrize("change", [in_guards, in_symbols, in_names])
def test_nothing_of_an_archives_program_runs(at: Path, registered, change: Callable[[str], str]) -> None:  # type: ignore[no-untyped-def]
    """What torch.export.load evaluates is no pickle, and no one looks for it: so this program loads weights alone."""

    def changes(records: dict[str, bytes]) -> None:
        program = records["models/model.json"].decode()
        assert change(program) != program
        records["models/model.json"] = change(program).encode()

    expected = registry.load_model("models:/tutorial/1").network
    with changed(changes):
        assert_equal_networks(registry.load_model("models:/tutorial/1").network, expected)
        assert not (at / "owned").exists()
        assert runs_in_a_bare_mlflow(at, allow_pickle=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: records.pop("data/weights/weight_0"), "damaged (KeyError: 'data/weights/weight_0')"),
        (
            lambda records: records.update({"data/weights/weight_0": b"1234" * 1000}),
            "damaged (ValueError: data/weights/weight_0 has 1,000 numbers, not 4)",
        ),
        (lambda records: records.clear(), "damaged (KeyError: 'data/constants/model_constants_config.json')"),
    ],
)
def test_a_damaged_archive(at: Path, registered, change: Callable[[dict[str, bytes]], None], message: str) -> None:  # type: ignore[no-untyped-def]
    with changed(change), pytest.raises(registry.ModelError) as caught:
        registry.load_model("models:/tutorial/1")
    assert str(caught.value) == f"models:/tutorial/1: its archive is {message}; {ANOTHERS}"


def test_a_description_that_lies_takes_no_memory(at: Path, registered) -> None:  # type: ignore[no-untyped-def]
    directory = tracking.download("models:/tutorial/1")
    description = directory / "MLmodel"
    honest = description.read_text()
    try:
        for size, layers, message in (
            (10**6, 1, "description and weights do not fit together, first in head.bias"),
            (1, 10**9, r"a file of [\d,]+ bytes can't hold 1,000,000,000 layers in 48 bytes of weights"),
        ):
            lie = f"hidden_size: {size}\n    head: linear\n    num_layers: {layers}"
            text = re.sub(r"num_layers: \d+", "", honest.replace("head: none", "")).replace("hidden_size: 1", lie)
            description.write_text(text)
            with pytest.raises(registry.ModelError, match=f"^models:/tutorial/1: not a model .*ValueError: {message}"):
                registry.load_model("models:/tutorial/1")
    finally:
        description.write_text(honest)


@contextlib.contextmanager
def changed(change: Callable[[dict[str, bytes]], object]) -> Iterator[None]:
    """The first version's archive with other records, for as long as the block."""
    archive = tracking.download(mlflow.MlflowClient().get_model_version("tutorial", "1").source) / "data" / "model.pt2"
    honest = archive.read_bytes()
    with zipfile.ZipFile(io.BytesIO(honest)) as source:
        records = {name.removeprefix("model/"): source.read(name) for name in source.namelist()}
    change(records)
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in records.items():
            target.writestr(f"model/{name}", content)
    try:
        yield
    finally:
        archive.write_bytes(honest)


def runs_in_a_bare_mlflow(at: Path, allow_pickle: bool) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", str(allow_pickle).lower())
        with contextlib.suppress(Exception):  # whatever comes of it afterwards
            mlflow.pyfunc.load_model("models:/tutorial/1").predict(np.ones((2, 4, 1), np.float32))
    ran = (at / "owned").exists()
    (at / "owned").unlink(missing_ok=True)
    return ran


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_module=pickle)
    return buffer.getvalue()


def test_the_example_has_two_rows(at: Path) -> None:
    info = mlflow.models.get_model_info("models:/tutorial/1")
    assert np.shape(mlflow.pyfunc.load_model("models:/tutorial/1").input_example) == (2, 4, 1)
    assert info.signature.inputs.inputs[0].shape == (-1, -1, 1)


# ---- other models: two features, cells, copies, a plain recurrent network
LENGTH = 5
OTHERS = parse_config(
    {
        "experiment": "others",
        "seed": 3,
        "data": {"kind": "adding", "length": LENGTH, "count": 4},
        "contenders": {
            name: {
                "model": {"head": "linear", "hidden_size": 3, **model},
                "training": {"max_epochs": 1},
                "fine_tuning": {"max_epochs": 2},
                **more,
            }
            for name, model, more in (
                ("normalised", {"kind": "hand_built", "cell": "layer_norm", "num_layers": 2}, {}),
                ("copied", {"kind": "hand_built", "cell": "peephole", "biases": "one"}, {"replicas": 3}),
                ("copied_built_in", {"kind": "built_in"}, {"replicas": 2}),
                ("rnn", {"kind": "rnn", "num_layers": 2}, {}),
            )
        },
    },
    "others",
)
Others = tuple[Path, DatasetRef, dict[str, tuple[CheckpointRef, Result]]]


@pytest.fixture(scope="module")
def registered_others(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Others:
    """A model of each make, trained for an epoch and registered."""
    directory = tmp_path_factory.mktemp("others")
    shutil.copy(database, directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
        parent = runs.start_parent(runs.comparison(OTHERS))
        dataset = store_data.fn(OTHERS, parent)
        found = {}
        for contender in OTHERS.contenders:
            checkpoint = train.fn(OTHERS, contender, dataset, parent)
            result = evaluate.fn(OTHERS, checkpoint, dataset)
            found[contender] = (checkpoint, registry.register.fn(OTHERS, checkpoint, result, dataset))
    return directory, dataset, found


@pytest.fixture
def others(registered_others: Others, monkeypatch: pytest.MonkeyPatch) -> Others:
    """Likewise, their directory being the working directory."""
    monkeypatch.chdir(registered_others[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registered_others[0]}/mlflow.db")
    return registered_others


def trained(checkpoint: CheckpointRef, result: Result) -> Network:
    """What has been trained; of copies the one that speaks for them."""
    network = load_network(tracking.download(checkpoint.uri))
    if isinstance(network, Replicas):
        assert result.copies
        return network.member(result.copies.median).eval()
    return network


@pytest.mark.parametrize("contender", OTHERS.contenders)
def test_a_registered_model_predicts_what_was_reported_at_any_length(others: Others, contender: str) -> None:
    _, dataset, found = others
    checkpoint, result = found[contender]
    served = mlflow.pyfunc.load_model(result.model_uri)
    # the exported loop adds in another order than the one that trained: float32's last digits
    x_BTD = everything(dataset).x_BTD
    assert served.predict(x_BTD.numpy()).tolist() == pytest.approx(result.predictions, abs=1e-6)
    network = trained(checkpoint, result)
    for B, T in ((1, 1), (3, LENGTH + 1), (2, 40)):
        x_BTD = torch.randn(B, T, 2)
        with torch.no_grad():
            live = network(x_BTD)
        assert served.predict(x_BTD.numpy()).tolist() == pytest.approx(live.tolist(), abs=1e-6)


def test_of_copies_the_median_is_exported(others: Others) -> None:
    """Were it another copy, the predictions would be others: the copies are told apart first."""
    _, dataset, found = others
    x_BTD = everything(dataset).x_BTD
    for contender, count in (("copied", 3), ("copied_built_in", 2)):
        checkpoint, result = found[contender]
        copies = load_network(tracking.download(checkpoint.uri))
        assert isinstance(copies, Replicas)
        assert result.copies
        errors = result.copies.errors
        assert (copies.count, len(errors)) == (count, count)
        assert result.metrics["mse"] == errors[result.copies.median] == sorted(errors)[(count - 1) // 2]
        program = registry.load_model(result.model_uri).program
        with torch.no_grad():
            served = program(x_BTD)
            live = [copies.member(number).eval()(x_BTD) for number in range(count)]
        off = [(served - one).abs().max().item() for one in live]
        # the exported loop adds in another order: float32's last digits
        assert off[result.copies.median] < 1e-6
        assert all(difference > 1e-3 for number, difference in enumerate(off) if number != result.copies.median)


@pytest.mark.parametrize("contender", OTHERS.contenders)
def test_the_network_that_was_trained_comes_back_from_the_registry(others: Others, contender: str) -> None:
    _, _, found = others
    checkpoint, result = found[contender]
    model = registry.load_model(result.model_uri)
    assert model.config == OTHERS.contenders[contender].model
    assert_equal_networks(model.network, trained(checkpoint, result))


@pytest.mark.parametrize("cell", CELLS)
def test_the_network_comes_back_whatever_its_cell(cell: str) -> None:
    settings = {
        "kind": "hand_built",
        "cell": cell,
        "hidden_size": 2,
        "num_layers": 2,
        "head": "linear",
        "biases": "one",
    }
    config: AnyModel = TypeAdapter(AnyModel).validate_python(settings)
    network = build_network(config, input_size=2).eval()
    weights = {key.removeprefix("network."): value for key, value in Exportable(network).state_dict().items()}
    assert_equal_networks(restored(lambda: build_network(config, input_size=2), weights, 2, 10_000), network)


def assert_equal_networks(found: Network, expected: Network) -> None:
    """The same modules with the same weights, to the bit, in evaluation mode."""
    assert str(found) == str(expected)
    assert not any(module.training for module in found.modules())
    weights, others = found.state_dict(), expected.state_dict()
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name


def test_a_model_of_several_features_tells_how_many(others: Others) -> None:
    _, dataset, found = others
    for contender, (_, result) in found.items():
        info = mlflow.models.get_model_info(result.model_uri)
        assert info.metadata == {
            "data": OTHERS.data.model_dump(),
            "columns": [],
            "output": NUMBER.model_dump(),
            "input_size": 2,
            "scaled": False,
            "model": OTHERS.contenders[contender].model.model_dump(),
            "cell": None,
        }
        assert info.signature.inputs.inputs[0].shape == (-1, -1, 2)
        assert info.signature.outputs.inputs[0].shape == (-1,)
        assert registry.load_model(result.model_uri).data == dataset.config == OTHERS.data
