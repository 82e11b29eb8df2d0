"""Registering a checkpoint as a model that plain MLflow serves; and archives that are refused."""

import contextlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pytest
import torch
from helpers.cli_runner import without_plots, working_in
from helpers.errors import names_all
from helpers.networks import assert_equal_networks

from lstm_models.config import parse_config
from lstm_models.data.output import REGRESSION
from lstm_models.evaluation.model_selection import Score
from lstm_models.nn.network import Network
from lstm_models.nn.replicas import Replicas
from lstm_models.training.checkpoint import load_network
from tasks import promotion, registration, tracking
from tasks.data import load_dataset, store_data
from tasks.evaluation import evaluate
from tasks.schemas import AliasHolder, CheckpointRef, DatasetRef, PhaseResult
from tasks.tracking import model_loader, runs
from tasks.training import fine_tune, train

LENGTH = 5
CONFIG = parse_config(
    {
        "experiment": "models",
        "seed": 3,
        "data": {"kind": "adding", "length": LENGTH, "count": 4},
        "contenders": {
            name: {
                "model": {"kind": "hand_built", "head": "linear", "hidden_size": 3, **model},
                "training": {"max_epochs": 1},
                "fine_tuning": {"max_epochs": 2},
                "replicas": replicas,
            }
            for name, model, replicas in (
                ("replicated", {"cell": "peephole", "double_bias": False, "hidden_size": 1, "head": "none"}, 3),
                ("normalised", {"cell": "layer_norm", "num_layers": 2}, 1),
                ("replicated_built_in", {"kind": "built_in"}, 2),
                ("rnn", {"kind": "rnn", "num_layers": 2}, 1),
            )
        },
    },
    "models",
)


class Registered(NamedTuple):
    """Versions 1 to 5: the first contender trained and fine-tuned, and each other contender trained."""

    directory: Path
    dataset: DatasetRef
    checkpoints: list[CheckpointRef]
    results: list[PhaseResult]
    served: list[Any]
    """Each version as plain MLflow loads it."""

    def sequences(self) -> torch.Tensor:
        """All sequences of the test part, (B, T, D)."""
        test = load_dataset(self.dataset).test
        return test.get_batch(torch.arange(test.count)).x_BTD

    def trained(self, index: int) -> Network:
        """The trained network; with replicas, the median one."""
        network = load_network(tracking.download(self.checkpoints[index].uri))
        if isinstance(network, Replicas):
            replicas = self.results[index].replicas
            assert replicas
            return network.member(replicas.median).eval()
        return network


VERSIONS = range(5)


@pytest.fixture(scope="module")
def registered_once(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Registered:
    """A model of each kind, trained for an epoch and registered by the tasks' functions, without Prefect."""
    directory = tmp_path_factory.mktemp("registered")
    with working_in(directory, database), without_plots(export=True):
        parent = runs.start_parent_run(runs.comparison_spec(CONFIG))
        dataset = store_data.fn(CONFIG, parent)
        checkpoints = [train.fn(CONFIG, contender, dataset, parent) for contender in CONFIG.contenders]
        checkpoints.insert(1, fine_tune.fn(CONFIG, checkpoints[0], dataset, parent))
        results = [evaluate.fn(CONFIG, checkpoint, dataset) for checkpoint in checkpoints]
        results = [
            registration.register.fn(CONFIG, checkpoint, result, dataset)
            for checkpoint, result in zip(checkpoints, results, strict=True)
        ]
        served = [mlflow.pyfunc.load_model(f"models:/models/{index + 1}") for index in VERSIONS]
    return Registered(directory, dataset, checkpoints, results, served)


@pytest.fixture
def registered(registered_once: Registered) -> Iterator[Registered]:
    """The registered models, with their directory as the working directory."""
    with working_in(registered_once.directory):
        yield registered_once


@pytest.mark.parametrize("index", VERSIONS)
def test_plain_mlflow_serves_the_trained_network(registered: Registered, index: int) -> None:
    served, network, x_BTD = registered.served[index], registered.trained(index), registered.sequences()
    # the exported loop sums in another order than the training loop: float32 rounding
    close = {"rel": 1e-6, "abs": 1e-6}
    assert served.predict(x_BTD.numpy()).tolist() == pytest.approx(registered.results[index].predictions, **close)
    # any number of sequences of any length
    torch.manual_seed(index)
    for B, T in ((1, 1), (2, 3), (1, LENGTH + 1), (3, 400)):
        x_BTD = torch.randn(B, T, 2)
        with torch.no_grad():
            live = network(x_BTD)
        assert served.predict(x_BTD.numpy()).tolist() == pytest.approx(live.tolist(), **close)
    # NaN from a sequence's end to the end of the batch is padding, and changes nothing
    lengths = (3, 40, 1, 9, 0)
    x_BTD = torch.randn(len(lengths), 40, 2)
    for sequence, length in zip(x_BTD, lengths, strict=True):
        sequence[length:] = torch.nan
    *together, only_padding = served.predict(x_BTD.numpy()).tolist()
    alone = [served.predict(x_BTD[b : b + 1, :length].numpy()).item() for b, length in enumerate(lengths[:4])]
    # a matrix product of another batch size may sum in another order
    assert together == pytest.approx(alone, rel=1e-6, abs=1e-6)
    assert np.isnan(only_padding)
    # a missing value is not padding
    x_BTD = torch.randn(1, 4, 2)
    x_BTD[0, 1] = torch.nan
    assert np.isnan(served.predict(x_BTD.numpy())).all()


@pytest.mark.parametrize("index", VERSIONS)
def test_the_trained_network_is_loaded_from_the_registry(registered: Registered, index: int) -> None:
    uri, contender = f"models:/models/{index + 1}", registered.checkpoints[index].contender
    assert registered.results[index].model_uri == uri
    model = model_loader.load_model(uri)
    assert (model.config, model.data) == (CONFIG.contenders[contender].model, CONFIG.data)
    assert (model.output, model.columns, model.network.scaler) == (REGRESSION, (), None)
    assert registered.dataset.config == CONFIG.data
    assert_equal_networks(model.network, registered.trained(index))


@pytest.mark.parametrize("index", VERSIONS)
def test_a_model_is_described_by_metadata_signature_and_example(registered: Registered, index: int) -> None:
    info = mlflow.models.get_model_info(f"models:/models/{index + 1}")
    assert info.metadata == {
        "data": CONFIG.data.model_dump(),
        "columns": [],
        "output": REGRESSION.model_dump(),
        "input_size": 2,
        "scaled": False,
        "model": CONFIG.contenders[registered.checkpoints[index].contender].model.model_dump(),
        "cell": None,
    }
    assert info.signature.inputs.inputs[0].shape == (-1, -1, 2)
    assert info.signature.outputs.inputs[0].shape == (-1,)
    assert np.array_equal(registered.served[index].input_example, registered.sequences()[:2].numpy())


def test_the_median_replica_is_exported(registered: Registered) -> None:
    """The replicas' predictions differ, so the exported one can be identified."""
    x_BTD = registered.sequences()
    for index, count in ((0, 3), (1, 3), (3, 2)):
        result = registered.results[index]
        replicas = load_network(tracking.download(registered.checkpoints[index].uri))
        assert isinstance(replicas, Replicas)
        assert result.replicas
        errors = result.replicas.errors
        assert (replicas.count, len(errors)) == (count, count)
        assert result.metrics["mse"] == errors[result.replicas.median] == sorted(errors)[(count - 1) // 2]
        served = registered.served[index].predict(x_BTD.numpy())
        with torch.no_grad():
            live = [replicas.member(number).eval()(x_BTD).numpy() for number in range(count)]
        errors = [np.abs(served - predictions).max() for predictions in live]
        # the exported loop sums in another order: float32 rounding
        assert errors[result.replicas.median] < 1e-6
        assert all(error > 1e-3 for number, error in enumerate(errors) if number != result.replicas.median)


def test_a_version_has_its_metadata_as_tags(registered: Registered) -> None:
    result = registered.results[1]
    client = mlflow.MlflowClient()
    version = client.get_model_version("models", "2")
    assert version.tags == {
        "contender": "replicated",
        "phase": "fine_tuned",
        "dataset": registered.dataset.digest,
        "score": version.tags["score"],
        "rows": "all",
        "prefect_flow_run_id": "none",
        "continues": "1",
        **{name: repr(result.metrics[name]) for name in ("mse", "mae", "max_error")},
    }
    assert "continues" not in client.get_model_version("models", "1").tags
    score = Score.model_validate_json(version.tags["score"])
    assert score == result.score()
    # of one replica: four gates, each with two input weights, one state weight and a bias; and three peepholes
    assert (score.loss, score.parameters, score.dataset) == (result.metrics["mse"], 19, registered.dataset.digest)
    assert version.run_id == registered.checkpoints[1].run_id
    assert version.source.startswith("models:/m-")
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    metrics = {metric.key: metric.value for metric in model.metrics}
    assert {key: metrics[key] for key in ("mse", "mae", "max_error")} == result.metrics
    assert model.experiment_id == tracking.get_or_create_experiment("models")
    statuses = [client.get_run(checkpoint.run_id).info.status for checkpoint in registered.checkpoints]
    assert statuses == ["FINISHED"] * 5


def test_registering_again_makes_no_second_version(registered: Registered) -> None:
    """As when the task's first attempt failed after its work was done."""
    unregistered = registered.results[1].model_copy(update={"model_uri": None})
    again = registration.register.fn(CONFIG, registered.checkpoints[1], unregistered, registered.dataset)
    assert again == registered.results[1]
    assert len(tracking.versions("models")) == 5


def promote(results: list[PhaseResult]) -> tuple[AliasHolder, AliasHolder | None]:
    """Promote the best of these results as a separate flow run does."""
    holders: tuple[AliasHolder, AliasHolder | None] = promotion.promote_best.fn(
        CONFIG, results, runs.start_parent_run(runs.comparison_spec(CONFIG))
    )
    return holders


@pytest.mark.usefixtures("harness")
def test_the_best_is_promoted_and_a_champion_evaluated_on_other_data_remains(registered: Registered) -> None:
    results, client = registered.results, mlflow.MlflowClient()
    best = min(results, key=lambda result: result.metrics["mse"])
    champion, challenger = promote(results)
    assert (champion.contender, champion.phase, challenger) == (best.contender, best.phase, None)
    assert tracking.aliases("models") == {"replicated": 2, "champion": best.version}

    # scores on other data are not comparable
    perfect = next(result for result in results if result.version != best.version)
    perfect = perfect.model_copy(update={"loss": 0.0, "dataset": "other"})
    champion, challenger = promote([perfect])
    assert champion.model_uri == "models:/models@champion"
    assert challenger
    assert (challenger.contender, challenger.model_uri) == (perfect.contender, "models:/models@challenger")
    assert tracking.aliases("models") == {"replicated": 2, "champion": best.version, "challenger": perfect.version}

    # a champion of an older version of the program has no comparable score
    version = client.get_model_version_by_alias("models", "champion")
    client.delete_model_version_tag("models", version.version, "score")
    try:
        champion, challenger = promote([result for result in results if result.version != best.version])
    finally:
        client.set_model_version_tag("models", version.version, "score", version.tags["score"])
    assert champion.version == best.version
    assert challenger
    assert tracking.aliases("models")["challenger"] == challenger.version != best.version
    assert tracking.aliases("models")["champion"] == best.version


def test_an_unknown_model_is_named_in_the_error(registered: Registered) -> None:
    with pytest.raises(model_loader.ModelError) as caught:
        model_loader.load_model("models:/nothing@champion")
    assert names_all(caught.value, "models:/nothing@champion", "not found")


# ---- archives that are refused
class Payload:
    """Writes a file when it is unpickled."""

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (Path.touch, (Path("owned"),))


CODE = "__import__('pathlib').Path('owned').touch()"
CONSTANT = {"path_name": "tensor_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
URI = "models:/models/1"
Records = dict[str, bytes]


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_module=pickle)
    return buffer.getvalue()


def in_config(kind: str, entry: dict[str, object]) -> Callable[[Records], None]:
    """Add or replace an entry of an archive's list of weights or constants."""

    def change(records: Records) -> None:
        name = f"data/{kind}/model_{kind}_config.json"
        config = json.loads(records[name])
        config["config"] = {**config["config"], "network.recurrent.weight_ih_l0": entry}
        records[name] = json.dumps(config).encode()
        opaque = str(entry["path_name"]).startswith("opaque")
        records[f"data/{kind}/{entry['path_name']}"] = pickle.dumps(Payload()) if opaque else saved(Payload())

    return change


def past_mlflows_check(records: Records) -> None:
    """Add a weight that MLflow's check takes for raw numbers: its name has a slash and is in a second list."""
    in_config("weights", {**CONSTANT, "path_name": "data/weights/weight_0"})(records)
    also = {"config": {"w": {"path_name": "weight_0", "use_pickle": False}}}
    records["data/weights/data/weights/x_config.json"] = json.dumps(also).encode()
    del records["data/weights/weight_0"]


@contextlib.contextmanager
def changed(change: Callable[[Records], object]) -> Iterator[None]:
    """Change the records of the first version's archive for the block."""
    archive = tracking.download(mlflow.MlflowClient().get_model_version("models", "1").source) / "data" / "model.pt2"
    original = archive.read_bytes()
    with zipfile.ZipFile(io.BytesIO(original)) as source:
        records = {name.removeprefix("model/"): source.read(name) for name in source.namelist()}
    change(records)
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in records.items():
            target.writestr(f"model/{name}", content)
    try:
        yield
    finally:
        archive.write_bytes(original)


def runs_in_plain_mlflow(allow_pickle: bool) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", str(allow_pickle).lower())
        with contextlib.suppress(Exception):  # errors after the payload has run do not matter
            mlflow.pyfunc.load_model(URI).predict(np.ones((2, 4, 2), np.float32))
    ran = Path("owned").exists()
    Path("owned").unlink(missing_ok=True)
    return ran


@pytest.mark.parametrize(
    ("change", "record", "mlflow_refuses"),
    [
        (lambda records: records.update({"data/sample_inputs/model.pt": saved(Payload())}), "sample_inputs", True),
        (in_config("weights", {**CONSTANT, "path_name": "weight_0"}), "data/weights/weight_0", True),
        (in_config("constants", CONSTANT), "data/constants/tensor_0", True),
        (in_config("constants", {**CONSTANT, "path_name": "opaque_obj_0"}), "data/constants/opaque_obj_0", True),
        (past_mlflows_check, "data/weights/data/weights/weight_0", False),
    ],
    ids=["sample inputs", "weight", "constant", "opaque constant", "past MLflow's check"],
)
def test_an_archive_with_a_payload_is_refused_and_nothing_runs(
    registered: Registered, change: Callable[[Records], None], record: str, mlflow_refuses: bool
) -> None:
    with changed(change):
        with pytest.raises(model_loader.ModelError) as caught:
            model_loader.load_model(URI)
        assert names_all(caught.value, URI, record, "in its archive")
        assert "damaged" not in str(caught.value)
        assert not Path("owned").exists()
        # the payload works: plain MLflow runs it
        assert runs_in_plain_mlflow(allow_pickle=False) is not mlflow_refuses
        assert runs_in_plain_mlflow(allow_pickle=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda program: program.replace('"guards_code": []', f'"guards_code": ["{CODE} is None"]'),
        lambda program: re.sub(r'"expr_str": "Symbol[^"]*"', f'"expr_str": "{CODE}"', program),
        lambda program: program.replace('"x_btd"', f'"x_btd={CODE}"'),
    ],
    ids=["guards", "symbols", "names"],
)
def test_no_code_of_an_archives_program_runs(registered: Registered, change: Callable[[str], str]) -> None:
    """torch.export.load evaluates expressions that no pickle check finds; so lstm-flows loads only the weights."""

    def changes(records: Records) -> None:
        program = records["models/model.json"].decode()
        assert change(program) != program
        records["models/model.json"] = change(program).encode()

    with changed(changes):
        assert_equal_networks(model_loader.load_model(URI).network, registered.trained(0))
        assert not Path("owned").exists()
        assert runs_in_plain_mlflow(allow_pickle=False)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda records: records.pop("data/weights/weight_0"), ["KeyError", "data/weights/weight_0"]),
        (
            lambda records: records.update({"data/weights/weight_0": b"1234" * 1000}),
            ["ValueError", "data/weights/weight_0", "1,000"],
        ),
        (lambda records: records.clear(), ["KeyError", "data/constants/model_constants_config.json"]),
    ],
    ids=["no weight", "a longer weight", "nothing"],
)
def test_a_damaged_archive_is_refused(
    registered: Registered, change: Callable[[Records], None], parts: list[str]
) -> None:
    with changed(change), pytest.raises(model_loader.ModelError) as caught:
        model_loader.load_model(URI)
    assert names_all(caught.value, URI, "damaged", *parts)


def test_a_false_model_size_does_not_allocate_memory(registered: Registered) -> None:
    description = tracking.download(URI) / "MLmodel"
    original = description.read_text()
    try:
        for size, layers, parts in (
            (10**6, 1, ["ValueError", "head.bias"]),
            (1, 10**9, ["ValueError", "1,000,000,000 layers", "76 bytes"]),
        ):
            changed_size = f"hidden_size: {size}\n    head: linear\n    num_layers: {layers}"
            text = re.sub(r"num_layers: \d+", "", original.replace("head: none", "")).replace(
                "hidden_size: 1", changed_size
            )
            description.write_text(text)
            with pytest.raises(model_loader.ModelError) as caught:
                model_loader.load_model(URI)
            assert names_all(caught.value, URI, *parts)
    finally:
        description.write_text(original)
