"""Notifications to a webhook on a local server; an unreachable webhook causes no failure."""

import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers.errors import names_all
from helpers.http_server import http_server
from helpers.processes import free_port
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, Failed

from flows import recipes
from flows.fine_tune import fine_tune
from lstm_models.evaluation.model_selection import Score
from tasks import promotion, tracking
from tasks.orchestration import notifications, state_hooks
from tasks.schemas import PhaseResult
from tasks.tracking import runs

SECRET = "T0K3N"


class Hook(NamedTuple):
    """A webhook server.

    Attributes:
        posts: The paths, content types and bodies that it received.
        status: The status that it responds with, one element; 0: it does not respond.
    """

    posts: list[tuple[str, str | None, Any]]
    status: list[int]

    def bodies(self) -> list[Any]:
        """Return the bodies that it received."""
        return [body for _, _, body in self.posts]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    hook, over = Hook([], [200]), threading.Event()

    def respond(request: BaseHTTPRequestHandler, body: bytes) -> int:
        hook.posts.append((request.path, request.headers["Content-Type"], json.loads(body)))
        if not hook.status[0]:
            over.wait(60)
        return hook.status[0]

    with http_server(respond) as url:
        monkeypatch.setenv("LSTM_FLOWS_WEBHOOK", f"{url}/{SECRET}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hook
        over.set()


Warnings = Callable[[], list[str]]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Warnings:
    """A function that returns the program's warnings."""
    caplog.set_level(logging.WARNING, "lstm_flows")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "lstm_flows"]


def assert_one_warning(messages: list[str], event: str, reason: str) -> None:
    """Assert that a warning reports an undelivered notification and the reason, but not the URL, which is a secret."""
    (message,) = messages
    assert names_all(message, "LSTM_FLOWS_WEBHOOK", event, "not delivered", f"({reason})")
    assert SECRET not in message
    assert "127.0.0.1" not in message


def notice(event: str, message: str, experiment: str | None, flow_run: str | None) -> dict[str, str | None]:
    return {"event": event, "message": message, "text": message, "experiment": experiment, "flow_run": flow_run}


# ---- content
def test_a_notification_is_a_json_object(hook: Hook, warnings: Warnings, monkeypatch: pytest.MonkeyPatch) -> None:
    notifications.send("rollback", "back")  # unknown values are null
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "mine")
    notifications.send("promotion", "on", experiment="demand")  # of the current flow run
    notifications.send("promotion", "Größer als 1 \u2192 2", experiment="demand", flow_run="f")
    monkeypatch.setenv("LSTM_FLOWS_WEBHOOK", "")
    notifications.send("promotion", "not sent")
    monkeypatch.delenv("LSTM_FLOWS_WEBHOOK")
    notifications.send("promotion", "not sent")
    bodies = [
        notice("rollback", "back", None, None),
        notice("promotion", "on", "demand", "mine"),
        notice("promotion", "Größer als 1 \u2192 2", "demand", "f"),
    ]
    assert hook.posts == [(f"/{SECRET}", "application/json", body) for body in bodies]
    assert warnings() == []


@pytest.mark.parametrize("state", [Failed(message="exception: ValueError: no"), Crashed(message="status code 137.")])
def test_a_failure_notifies_the_webhook(hook: Hook, empty_directory: Path, state: Any) -> None:
    run = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="bold-cat")
    state_hooks.terminate_tracked_runs(fine_tune, run, state)
    message = f"fine_tune (bold-cat): {state.name}: {state.message}"
    assert hook.bodies() == [notice("failure", message, None, str(run.id))]
    assert list(empty_directory.iterdir()) == []


@pytest.fixture
def promote(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that promotes a version, which has only a score, without Prefect's lock."""
    monkeypatch.setattr(promotion, "promotion_lock", lambda _: nullcontext())
    client = tracking.mlflow_client()
    client.create_registered_model("tutorial")
    run_id = client.create_run(tracking.get_or_create_experiment("tutorial")).info.run_id
    score = Score(loss=0.5, parameters=12, dataset="d")
    tags = {"contender": "hand_built", "phase": "fine_tuned", "score": score.model_dump_json()}
    client.create_model_version("tutorial", source=str(workplace), run_id=run_id, tags=tags)
    result = PhaseResult(
        **score.model_dump(), contender="hand_built", phase="fine_tuned", epochs=1, targets=None, predictions=None,
        metrics={}, seconds=0, run_id=run_id, model_uri="models:/tutorial/1",
    )  # fmt: skip

    def promote() -> None:
        config = recipes.load("tutorial")
        promotion.promote_best.fn(config, [result], runs.start_parent_run(runs.comparison_spec(config)))
        assert tracking.aliases("tutorial") == {"champion": 1}

    return promote


def test_a_retried_promotion_notifies_the_webhook_again(hook: Hook, promote: Callable[[], None]) -> None:
    promote()
    promote()  # it is champion already: a previous attempt may have failed before the notification
    first, second = hook.bodies()
    assert first == second == notice("promotion", first["message"], "tutorial", None)
    assert names_all(first["message"], "tutorial", "version 1", "loss 0.5", "first")


# ---- delivery failures
@pytest.mark.parametrize("status", [500, 404, 302])
def test_an_error_status_is_a_warning(hook: Hook, warnings: Warnings, status: int) -> None:
    hook.status[0] = status
    notifications.send("promotion", "on")
    assert len(hook.posts) == 1
    assert_one_warning(warnings(), "promotion", f"status {status}")


def test_a_timeout_is_a_warning(hook: Hook, warnings: Warnings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert notifications.TIMEOUT_SECONDS == 10
    monkeypatch.setattr(notifications, "TIMEOUT_SECONDS", 0.2)
    hook.status[0] = 0
    notifications.send("failure", "no")
    assert_one_warning(warnings(), "failure", "ReadTimeout")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:{port}/T0K3N", "ConnectError"),
        ("127.0.0.1/T0K3N", "UnsupportedProtocol"),
        ("http:///T0K3N", "UnsupportedProtocol"),
        ("http://127.0.0.1:T0K3N/", "InvalidURL"),
        ("http://127.0.0.1/T0K3N\n", "InvalidURL"),
        (f"http://{'a' * 64}.invalid/T0K3N", "UnicodeError"),
    ],
)
def test_an_unreachable_url_is_a_warning(
    warnings: Warnings, monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    monkeypatch.setenv("LSTM_FLOWS_WEBHOOK", url.format(port=free_port()))
    monkeypatch.setenv("NO_PROXY", "*")
    notifications.send("failure", "no")
    assert_one_warning(warnings(), "failure", reason)


def test_an_undelivered_notification_fails_neither_promotion_nor_hook(
    hook: Hook, promote: Callable[[], None], warnings: Warnings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.status[0] = 500
    promote()
    assert_one_warning(warnings(), "promotion", "status 500")
    monkeypatch.setenv("LSTM_FLOWS_WEBHOOK", f"http://127.0.0.1:{free_port()}/{SECRET}")
    run = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="bold-cat")
    tags = {"prefect_flow_run_id": str(run.id)}
    run_id = tracking.start_run(tracking.get_or_create_experiment("tutorial"), "parent", tags=tags, note="")
    state_hooks.terminate_tracked_runs(fine_tune, run, Failed(message="no"))
    assert tracking.mlflow_client().get_run(run_id).info.status == "FAILED"
    assert_one_warning(warnings()[1:], "failure", "ConnectError")
