"""What a webhook is sent, by a real server on this machine; and that nothing fails of one that can't be reached."""

import json
import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pytest
from helpers.processes import free_port
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, Failed

from flows import recipes
from flows.fine_tune import fine_tune
from tasks import champions, endings, notices, runs, tracking
from tasks.references import Judged, Result

SECRET = "T0K3N"


class Hook(NamedTuple):
    """A webhook, and what it was sent: paths, content types and bodies."""

    url: str
    posts: list[tuple[str, str, Any]]
    answer: list[int]
    """The status, one element; 0: none comes."""

    def bodies(self) -> list[Any]:
        return [body for _, _, body in self.posts]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    posts: list[tuple[str, str, Any]] = []
    answer, over = [200], threading.Event()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            posts.append((self.path, self.headers["Content-Type"], body))
            if not answer[0]:
                over.wait(10)
                return
            self.send_response(answer[0])
            self.send_header("Location", f"/{SECRET}/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        url = f"http://127.0.0.1:{server.server_port}/{SECRET}"
        monkeypatch.setenv("LSTM_FLOWS_WEBHOOK", url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Hook(url, posts, answer)
        over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "lstm_flows")
    return caplog


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "lstm_flows"]


def notice(event: str, message: str, experiment: str | None, flow_run: str | None) -> dict[str, str | None]:
    return {"event": event, "message": message, "text": message, "experiment": experiment, "flow_run": flow_run}


# ---- what is sent
def test_a_notice_is_a_json_object(hook: Hook, warnings: pytest.LogCaptureFixture) -> None:
    notices.send("promotion", "Größer als 1 \u2192 2", experiment="demand", flow_run="f")
    expected = notice("promotion", "Größer als 1 \u2192 2", "demand", "f")
    assert hook.posts == [(f"/{SECRET}", "application/json", expected)]
    assert told(warnings) == []


def test_what_is_not_known_is_null(hook: Hook) -> None:
    notices.send("rollback", "back")
    assert hook.bodies() == [notice("rollback", "back", None, None)]


def test_the_flow_run_at_hand_is_told(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "mine")
    notices.send("promotion", "on", experiment="demand")
    assert hook.bodies() == [notice("promotion", "on", "demand", "mine")]


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_webhook_nothing_is_sent(
    hook: Hook, warnings: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("LSTM_FLOWS_WEBHOOK")
    if value is not None:
        monkeypatch.setenv("LSTM_FLOWS_WEBHOOK", value)
    notices.send("promotion", "on")
    assert (hook.posts, told(warnings)) == ([], [])


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (Failed(message="Flow run encountered an exception: ValueError: no"), "Failed: Flow run encountered an exc"),
        (Crashed(message="Flow run process exited with non-zero status code 137."), "Crashed: Flow run process exited"),
    ],
    ids=["failed", "crashed"],
)
def test_the_webhook_is_told_of_a_failure(hook: Hook, empty_directory: Path, state: Any, told: str) -> None:
    run = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="bold-cat")
    endings.ended_badly(fine_tune, run, state)
    ((_, _, body),) = hook.posts
    assert body == notice("failure", f"fine_tune (bold-cat): {state.name}: {state.message}", None, str(run.id))
    assert told in body["message"]
    assert list(empty_directory.iterdir()) == []


class Registered(NamedTuple):
    config: Any
    results: list[Result]


@pytest.fixture
def registered(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Registered:
    """Two versions that know nothing but how they were judged; and no lock, which Prefect's server would keep."""
    monkeypatch.setattr(champions, "one_at_a_time", lambda _: nullcontext())
    client = tracking.client()
    client.create_registered_model("tutorial")
    run_id = client.create_run(tracking.experiment_id("tutorial")).info.run_id
    results = []
    for number, loss in ((1, 0.5), (2, 0.25)):
        judged = Judged(loss=loss, parameters=12, dataset="d")
        tags = {"contender": "hand_built", "phase": "fine_tuned", "judged": judged.model_dump_json()}
        client.create_model_version("tutorial", source=str(workplace), run_id=run_id, tags=tags)
        result = Result(
            **judged.model_dump(), contender="hand_built", phase="fine_tuned", epochs=1, targets=None, predictions=None,
            metrics={}, seconds=0, run_id=run_id, model_uri=f"models:/tutorial/{number}",
        )  # fmt: skip
        results.append(result)
    return Registered(recipes.load("tutorial"), results)


def choose(registered: Registered, number: int, veto: str | None = None) -> None:
    parent = runs.start_parent(runs.comparison(registered.config))
    champions.choose_champion.fn(registered.config, [registered.results[number - 1]], parent, veto)


def champion() -> int:
    return tracking.aliases("tutorial")["champion"]


def test_the_webhook_is_told_of_a_promotion_and_of_nothing_else(hook: Hook, registered: Registered) -> None:
    choose(registered, 1)
    messages = ["tutorial: version 1 is champion now: loss 0.5, the first"]
    assert hook.bodies() == [notice("promotion", messages[0], "tutorial", None)]
    choose(registered, 2, veto="the inputs have drifted")
    assert len(hook.posts) == 1  # kept
    choose(registered, 2)
    messages += ["tutorial: version 2 is champion now: loss 0.25, better than version 1's 0.5"]
    assert hook.bodies() == [notice("promotion", message, "tutorial", None) for message in messages]
    choose(registered, 1)  # worse
    assert len(hook.posts) == 2
    choose(registered, 2)  # it is already: an earlier try of the task, which may not have come to tell
    assert hook.bodies()[2:] == [notice("promotion", messages[1], "tutorial", None)]


def test_the_webhook_is_told_of_a_rollback(hook: Hook, registered: Registered) -> None:
    choose(registered, 1)
    choose(registered, 2)
    champions.rollback.fn("tutorial", None, "the sensor was broken")
    message = "tutorial: back from version 2 to 1: the sensor was broken"
    assert hook.bodies()[2:] == [notice("rollback", message, "tutorial", None)]


# ---- what can't be delivered
@pytest.mark.parametrize("status", [500, 503, 404, 302])
def test_a_status_that_says_no_is_a_warning_without_the_url(
    hook: Hook, warnings: pytest.LogCaptureFixture, status: int
) -> None:
    hook.answer[0] = status
    notices.send("promotion", "on")
    assert len(hook.posts) == 1
    expected = f"LSTM_FLOWS_WEBHOOK: the notice of a promotion was not delivered (status {status})"
    assert told(warnings) == [expected]
    assert SECRET not in warnings.text
    assert "127.0.0.1" not in warnings.text


def test_one_that_does_not_answer_in_time_is_a_warning(
    hook: Hook, warnings: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notices.SECONDS == 10
    monkeypatch.setattr(notices, "SECONDS", 0.2)
    hook.answer[0] = 0
    notices.send("failure", "no")
    assert told(warnings) == ["LSTM_FLOWS_WEBHOOK: the notice of a failure was not delivered (ReadTimeout)"]


UNUSABLE = {
    "nobody listens": ("http://127.0.0.1:{port}/T0K3N", "ConnectError"),
    "no such host": ("http://nowhere.invalid/T0K3N", "ConnectError"),
    "no scheme": ("127.0.0.1/T0K3N", "UnsupportedProtocol"),
    "another scheme": ("ftp://127.0.0.1/T0K3N", "UnsupportedProtocol"),
    "no host": ("http:///T0K3N", "UnsupportedProtocol"),
    "half an address": ("http://[::1/T0K3N", "InvalidURL"),
    "a port that is no number": ("http://127.0.0.1:T0K3N/", "InvalidURL"),
    "a control character": ("http://127.0.0.1/T0K3N\n", "InvalidURL"),
    "a name that is too long": (f"http://{'a' * 64}.invalid/T0K3N", "UnicodeError"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_url_that_leads_nowhere_is_a_warning_without_the_url(
    warnings: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    url, reason = UNUSABLE[case]
    monkeypatch.setenv("LSTM_FLOWS_WEBHOOK", url.format(port=free_port()))
    monkeypatch.setenv("NO_PROXY", "*")
    notices.send("failure", "no")
    assert told(warnings) == [f"LSTM_FLOWS_WEBHOOK: the notice of a failure was not delivered ({reason})"]
    assert SECRET not in warnings.text


def test_a_promotion_stands_whether_or_not_the_webhook_hears_of_it(
    hook: Hook, registered: Registered, warnings: pytest.LogCaptureFixture
) -> None:
    hook.answer[0] = 500
    choose(registered, 1)
    assert champion() == 1
    assert told(warnings) == ["LSTM_FLOWS_WEBHOOK: the notice of a promotion was not delivered (status 500)"]


def test_runs_are_marked_whether_or_not_the_webhook_hears_of_it(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LSTM_FLOWS_WEBHOOK", f"http://127.0.0.1:{free_port()}/{SECRET}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    run = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="bold-cat")
    tags = {"prefect_flow_run_id": str(run.id)}
    run_id = tracking.start_run(tracking.experiment_id("tutorial"), "parent", tags=tags, note="")
    endings.ended_badly(fine_tune, run, Failed(message="no"))
    assert mlflow.MlflowClient().get_run(run_id).info.status == "FAILED"
    assert told(warnings) == ["LSTM_FLOWS_WEBHOOK: the notice of a failure was not delivered (ConnectError)"]
