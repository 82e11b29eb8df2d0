"""A new user's forecasts, without network access, and the model served by MLflow."""

import os
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
from helpers.newcomer import Newcomer
from helpers.power import HORIZON, POWER, last_windows, power, with_holes
from helpers.processes import BIN, eventually, free_port, responds, running

OFFLINE = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9") | {"no_proxy": "127.0.0.1,localhost"}


def test_served_forecasts_equal_predicted_ones(tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path)
    newcomer.environment |= OFFLINE
    work = newcomer.directory
    with_holes().to_csv(work / "power.csv", index=False)
    (work / "power.yaml").write_text(POWER)
    assert len(POWER.splitlines()) == 10
    changes = ["contenders.built_in=null", "contenders.hand_built.model.hidden_size=4"]
    changes += ["contenders.hand_built.training.max_epochs=1", "contenders.hand_built.fine_tuning.max_epochs=2"]
    processes = [
        newcomer.start("compare", "power.yaml"),
        newcomer.start("compare", "forecast", *(f"--set={change}" for change in changes)),
    ]
    (out, errors), (recipe_out, recipe_errors) = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors + recipe_errors

    names = [line.split()[0] for line in errors.splitlines()]
    assert names == ["hand_built/initial", "hand_built/fine_tuned", "built_in/initial", "built_in/fine_tuned"]
    assert max(map(len, out.splitlines()[:-3])) <= 100
    assert "\u2026" not in out  # no cell is truncated
    assert "Differences in scaled_mse, on the same examples:" in out
    assert out.splitlines()[-1] == "Next: lstm-flows predict models:/power@champion NEW_ROWS"
    # the recipe on the bundled table
    assert recipe_out.splitlines()[-1] == "Next: lstm-flows predict models:/forecast@champion NEW_ROWS"
    trained = [
        ("compare forecast", "FINISHED"),
        ("hand_built/initial", "FINISHED"),
        ("hand_built/fine_tuned", "FINISHED"),
    ]
    assert newcomer.statuses("forecast") == trained
    assert all(name in recipe_out for name in ("last_value", "mean", "seasonal_naive", "ridge"))

    power().to_csv(work / "new.csv", index=False)
    predict = newcomer.start("predict", "models:/power@champion", "new.csv", "--output", "out.csv")
    assert (predict.communicate(), predict.returncode) == (("", ""), 0)
    predicted = pd.read_csv(work / "out.csv")["load"].to_numpy()
    coming = power(200 + HORIZON).groupby("site").tail(HORIZON)["load"]
    assert (
        np.abs(predicted - coming).mean() < 2
    )  # small enough to show that the predictions are in the unit of the load

    port, log = free_port(), tmp_path / "server.log"
    url = f"http://127.0.0.1:{port}"
    command = [str(BIN / "mlflow"), "models", "serve", "-m", "models:/power@champion", "--env-manager", "local"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{work}/mlflow.db", "PATH": newcomer.environment["PATH"]}
    with running([*command, "--host", "127.0.0.1", "--port", str(port)], log, env=environment, cwd=tmp_path):
        eventually(lambda: responds(f"{url}/ping"))
        response = httpx.post(f"{url}/invocations", json={"inputs": last_windows().tolist()}, timeout=60)
    assert response.status_code == 200, response.text
    served = np.array(response.json()["predictions"])
    assert served.shape == (2, HORIZON, 1)
    np.testing.assert_allclose(served.flatten(), predicted, rtol=1e-6)
