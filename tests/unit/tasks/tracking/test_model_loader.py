"""Model URIs that are refused before any download, and networks that are rebuilt from a model's weights."""

from pathlib import Path

import pytest
from helpers.errors import names_all
from helpers.networks import assert_equal_networks
from pydantic import TypeAdapter

from lstm_models.config import AnyModel
from lstm_models.nn.cell_variants import CELLS
from lstm_models.nn.export import ExportableNetwork
from lstm_models.nn.network import build_from_state_dict, build_network
from lstm_models.utils.errors import one_line
from tasks import tracking
from tasks.tracking import model_loader


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
def test_invalid_model_uris_are_refused_before_any_download(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "download", lambda uri: pytest.fail(f"{uri} is downloaded"))
    monkeypatch.setattr(tracking, "require_database", lambda what: pytest.fail(f"{what} is looked up"))
    with pytest.raises(model_loader.ModelError) as caught:
        model_loader.load_model(uri)
    assert names_all(caught.value, one_line(uri), "models:/NAME@ALIAS", "models:/NAME/VERSION")


def test_loading_a_model_creates_no_database(empty_directory: Path) -> None:
    with pytest.raises(tracking.NotFoundError) as caught:
        model_loader.load_model("models:/tutorial@champion")
    assert names_all(caught.value, "models:/tutorial@champion", "mlflow.db", empty_directory)
    assert list(empty_directory.iterdir()) == []


@pytest.mark.parametrize("cell", CELLS)
def test_a_network_is_rebuilt_from_its_exported_weights_for_every_cell(cell: str) -> None:
    sizes = {"hidden_size": 2, "num_layers": 2, "head": "linear", "double_bias": False}
    config: AnyModel = TypeAdapter(AnyModel).validate_python({"kind": "hand_built", "cell": cell, **sizes})
    network = build_network(config, input_size=2).eval()
    weights = {key.removeprefix("network."): value for key, value in ExportableNetwork(network).state_dict().items()}
    assert_equal_networks(
        build_from_state_dict(lambda: build_network(config, input_size=2), weights, 2, 10_000), network
    )
