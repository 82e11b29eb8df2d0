"""What a webhook is sent, by a real server on this machine; and that nothing fails of one that can't be reached."""

import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers.errors import names_all
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
                over.wait(60)
                return
            self.send_response(answer[0])
            self.send_header("Location", f"/{SECRET}/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        monkeypatch.setenv("LSTM_FLOWS_WEBHOOK", f"http://127.0.0.1:{server.server_port}/{SECRET}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Hook(posts, answer)
        over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the program has warned of."""
    caplog.set_level(logging.WARNING, "lstm_flows")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "lstm_flows"]


Warnings = Callable[[], list[str]]


def assert_one_warning(messages: list[str], event: str, reason: str) -> None:
    """That a notice was not delivered, and why; but not the URL, which is a secret."""
    (message,) = messages
    assert names_all(message, "LSTM_FLOWS_WEBHOOK", event, "not delivered", f"({reason})")
    assert SECRET not in message
    assert "127.0.0.1" not in message


def notice(event: str, message: str, experiment: str | None, flow_run: str | None) -> dict[str, str | None]:
    return {"event": event, "message": message, "text": message, "experiment": experiment, "flow_run": flow_run}


# ---- what is sent
def test_a_notice_is_a_json_object(hook: Hook, warnings: Warnings, monkeypatch: pytest.MonkeyPatch) -> None:
    notices.send("promotion", "Größer als 1 \u2192 2", experiment="demand", flow_run="f")
    notices.send("rollback", "back")  # what is not known is null
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "mine")
    notices.send("promotion", "on", experiment="demand")  # of the flow run at hand
    bodies = [
        notice("promotion", "Größer als 1 \u2192 2", "demand", "f"),
        notice("rollback", "back", None, None),
        notice("promotion", "on", "demand", "mine"),
    ]
    assert hook.posts == [(f"/{SECRET}", "application/json", body) for body in bodies]
    assert warnings() == []


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_webhook_nothing_is_sent(
    hook: Hook, warnings: Warnings, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("LSTM_FLOWS_WEBHOOK")
    if value is not None:
        monkeypatch.setenv("LSTM_FLOWS_WEBHOOK", value)
    notices.send("promotion", "on")
    assert (hook.posts, warnings()) == ([], [])


@pytest.mark.parametrize("state", [Failed(message="exception: ValueError: no"), Crashed(message="status code 137.")])
def test_the_webhook_is_told_of_a_failure(hook: Hook, empty_directory: Path, state: Any) -> None:
    run = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="bold-cat")
    endings.ended_badly(fine_tune, run, state)
    message = f"fine_tune (bold-cat): {state.name}: {state.message}"
    assert hook.bodies() == [notice("failure", message, None, str(run.id))]
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


def test_the_webhook_is_told_of_promotions_and_rollbacks_and_of_nothing_else(
    hook: Hook, registered: Registered
) -> None:
    def assert_sent(event: str, *parts: object) -> None:
        """One more notice, and it says this."""
        assert len(hook.posts) == before + 1
        body = hook.bodies()[-1]
        assert body == notice(event, body["message"], "tutorial", None)
        assert names_all(body["message"], "tutorial", *parts)

    before = len(hook.posts)
    choose(registered, 1)
    assert_sent("promotion", "version 1", "loss 0.5", "first")
    before = len(hook.posts)
    choose(registered, 2, veto="the inputs have drifted")  # not promoted
    assert len(hook.posts) == before
    choose(registered, 2)
    assert_sent("promotion", "version 2", "loss 0.25", "better than version 1's 0.5")
    promotion = hook.bodies()[-1]
    before = len(hook.posts)
    choose(registered, 1)  # worse
    assert len(hook.posts) == before
    choose(registered, 2)  # it is already: an earlier try of the task, which may not have come to tell
    assert_sent("promotion")
    assert hook.bodies()[-1] == promotion
    before = len(hook.posts)
    champions.rollback.fn("tutorial", None, "the sensor was broken")
    assert_sent("rollback", "from version 2 to 1", "the sensor was broken")


# ---- what can't be delivered
@pytest.mark.parametrize("status", [500, 404, 302])
def test_a_status_that_says_no_is_a_warning(hook: Hook, warnings: Warnings, status: int) -> None:
    hook.answer[0] = status
    notices.send("promotion", "on")
    assert len(hook.posts) == 1
    assert_one_warning(warnings(), "promotion", f"status {status}")


def test_one_that_does_not_answer_in_time_is_a_warning(
    hook: Hook, warnings: Warnings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notices.SECONDS == 10
    monkeypatch.setattr(notices, "SECONDS", 0.2)
    hook.answer[0] = 0
    notices.send("failure", "no")
    assert_one_warning(warnings(), "failure", "ReadTimeout")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:{port}/T0K3N", "ConnectError"),
        ("127.0.0.1/T0K3N", "UnsupportedProtocol"),
        ("ftp://127.0.0.1/T0K3N", "UnsupportedProtocol"),
        ("http:///T0K3N", "UnsupportedProtocol"),
        ("http://[::1/T0K3N", "InvalidURL"),
        ("http://127.0.0.1:T0K3N/", "InvalidURL"),
        ("http://127.0.0.1/T0K3N\n", "InvalidURL"),
        (f"http://{'a' * 64}.invalid/T0K3N", "UnicodeError"),
    ],
)
def test_a_url_that_leads_nowhere_is_a_warning(
    warnings: Warnings, monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    monkeypatch.setenv("LSTM_FLOWS_WEBHOOK", url.format(port=free_port()))
    monkeypatch.setenv("NO_PROXY", "*")
    notices.send("failure", "no")
    assert_one_warning(warnings(), "failure", reason)


def test_nothing_fails_where_the_webhook_does_not_hear_of_it(
    hook: Hook, registered: Registered, warnings: Warnings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.answer[0] = 500
    choose(registered, 1)
    assert tracking.aliases("tutorial")["champion"] == 1
    assert_one_warning(warnings(), "promotion", "status 500")
    monkeypatch.setenv("LSTM_FLOWS_WEBHOOK", f"http://127.0.0.1:{free_port()}/{SECRET}")
    run = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="bold-cat")
    tags = {"prefect_flow_run_id": str(run.id)}
    run_id = tracking.start_run(tracking.experiment_id("tutorial"), "parent", tags=tags, note="")
    endings.ended_badly(fine_tune, run, Failed(message="no"))
    assert tracking.client().get_run(run_id).info.status == "FAILED"
    assert_one_warning(warnings()[1:], "failure", "ConnectError")
