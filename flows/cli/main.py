"""`lstm-flows ...`: parse, call a flow, print. Heavy imports wait until a command needs them."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flows.cli import runtime
from flows.cli.render import print_table, show_comparison, show_fine_tuning, show_monitoring

if TYPE_CHECKING:
    from lstm_models.config import FineTuneConfig, MonitorConfig
    from tasks.schemas import ComparisonReport

NEWEST = "newest"
DONE, RUN_FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def _set_verbosity(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        context.ensure_object(dict)[parameter.name] = True


def verbosity(command: Callable[..., Any]) -> Callable[..., Any]:
    """-q and -v, before or after the command's name."""
    settings: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _set_verbosity}
    command = click.option("-q", "--quiet", help="No progress, no hints.", **settings)(command)
    return click.option("-v", "--verbose", help="The libraries' logs, and tracebacks.", **settings)(command)


def _print_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from lstm_models import backend

        click.echo(f"lstm-flows {version('lstm-flows')} ({backend()})")
        context.exit()


@click.group(
    epilog="Example: lstm-flows compare            (the tutorial's experiment)",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="The version, and which code runs the LSTM.")  # fmt: skip
@verbosity
def cli() -> None:
    """Train, continue, register and compare LSTMs, hand-built and built-in."""


def resumable(command: Callable[..., Any]) -> Callable[..., Any]:
    """--resume, by itself or with a run's id."""
    return click.option(
        "--resume", metavar="[RUN_ID]", is_flag=False, flag_value=NEWEST,
        help="Go on with the newest run that was interrupted, or with RUN_ID, as it was begun.",
    )(command)  # fmt: skip


def _reject_with_resume(context: click.Context, *others: str) -> None:
    """An interrupted run has its own configuration: nothing beside it is taken."""
    for name in others:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            shown = next(parameter for parameter in context.command.params if parameter.name == name)
            raise click.UsageError(
                f"{shown.opts[0] if isinstance(shown, click.Option) else shown.human_readable_name} with --resume: an "
                "interrupted run goes on as it was begun; leave it out"
            )


@cli.command(epilog="Example: lstm-flows compare tutorial --set seed=7 --set contenders.built_in=null")
@click.argument("source", metavar="[RECIPE or FILE.yaml]", default="tutorial")
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="Change one setting; KEY is dotted.")
@click.option("--force", is_flag=True, help="Train even if an equal run has finished before.")
@resumable
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration as YAML; run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@verbosity
@click.pass_context
def compare(
    context: click.Context,
    source: str,
    changes: tuple[str, ...],
    force: bool,
    resume: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train, fine-tune, evaluate, register and compare a recipe's contenders."""
    from flows import recipes

    if resume:
        _reject_with_resume(context, "source", "changes", "force", "dry_run")
    config = recipes.load(source, changes)
    if dry_run:
        click.echo(config.to_yaml(), nl=False)
        return
    options = context.ensure_object(dict)
    runtime.prepare(**options)
    comparison: ComparisonReport = runtime.run("flows.compare:compare", config, force, resume)
    if as_json:
        click.echo(comparison.model_dump_json())
    else:
        show_comparison(comparison, hints=not options.get("quiet"))


def on_experiment(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and the options of what goes on with an experiment's model."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")(command)
    command = click.option("--dry-run", is_flag=True, help="Print the resolved settings as YAML; run nothing.")(command)
    command = click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="Change one setting.")(command)
    return click.argument("experiment")(command)


@cli.command(name="fine-tune", epilog="Example: lstm-flows fine-tune demand --set epochs=10 --set min_improvement=0.02")
@on_experiment
@resumable
@verbosity
@click.pass_context
def fine_tune(
    context: click.Context, experiment: str, changes: tuple[str, ...], resume: str | None, dry_run: bool, as_json: bool
) -> None:
    """Let the champion go on with its table as it is now, and promote what comes of it if it is better."""
    from lstm_models.config import FineTuneConfig

    if resume:
        _reject_with_resume(context, "changes", "dry_run")
    what = "flows.fine_tune:fine_tune", FineTuneConfig, show_fine_tuning
    _run_on_experiment(context, *what, experiment, changes, dry_run, as_json, resume)


@cli.command(epilog="Example: lstm-flows monitor demand")
@on_experiment
@verbosity
@click.pass_context
def monitor(context: click.Context, experiment: str, changes: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Judge the champion on its table as it is now, and add a point to its series in MLflow."""
    from lstm_models.config import MonitorConfig

    what = "flows.monitor:monitor", MonitorConfig, show_monitoring
    _run_on_experiment(context, *what, experiment, changes, dry_run, as_json)


def _run_on_experiment(
    context: click.Context,
    entrypoint: str,
    kind: "type[FineTuneConfig | MonitorConfig]",
    show: Callable[[Any, bool], None],
    experiment: str,
    changes: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    *further: object,
) -> None:
    """Call a flow on an experiment's model, and show what it answers."""
    from flows import recipes

    config = recipes.of_experiment(kind, experiment, changes)
    if dry_run:
        click.echo(config.to_yaml(), nl=False)
        return
    options = context.ensure_object(dict)
    runtime.prepare(**options)
    answer = runtime.run(entrypoint, config, *further)
    if as_json:
        click.echo(answer.model_dump_json())
    else:
        show(answer, not options.get("quiet"))


@cli.command(epilog="Example: lstm-flows history demand")
@click.argument("experiment")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array and nothing else.")
@verbosity
@click.pass_context
def history(context: click.Context, experiment: str, as_json: bool) -> None:
    """What continues what, on which rows, how each version did, and who was champion when (in UTC)."""
    runtime.prepare(**context.ensure_object(dict))
    from tasks import tracking
    from tasks.tracking import history

    tracking.require_database(f"experiment {experiment}")
    with runtime.raising_run_failed():
        rows = history.version_history(experiment)
    if as_json:
        click.echo(json.dumps(rows))
    else:
        print_table(
            history.history_table(rows),
            left=("version", "continues", "model", "trained on", "champion", "aliases"),
            width=120,
        )


@cli.command(epilog='Example: lstm-flows rollback demand --reason "the sensor was broken"')
@click.argument("experiment")
@click.argument("version", required=False, type=click.IntRange(min=1))
@click.option("--reason", default="by hand", show_default=True, help="What is recorded as the reason.")
@verbosity
@click.pass_context
def rollback(context: click.Context, experiment: str, version: int | None, reason: str) -> None:
    """Make the champion before, or a VERSION, champion again."""
    runtime.prepare(**context.ensure_object(dict))
    from tasks import tracking

    tracking.require_database(f"experiment {experiment}")
    tenure = runtime.run("tasks.promotion:rollback", experiment, version, reason)
    click.echo(f"Version {tenure.version} is champion of {experiment} again ({tenure.reason}).")


@cli.command(epilog="Example: lstm-flows prune demand --keep 14 --dry-run")
@click.argument("experiment")
@click.option("--keep", required=True, type=click.IntRange(min=1), help="How many of the newest versions stay.")
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@verbosity
@click.pass_context
def prune(context: click.Context, experiment: str, keep: int, dry_run: bool) -> None:
    """Remove old versions' models, checkpoints and data.

    Versions with an alias stay; what they continue keeps its model and its place in the history. Runs, with their
    metrics and figures, stay.
    """
    runtime.prepare(**context.ensure_object(dict))
    from tasks import retention, tracking

    tracking.require_database(f"experiment {experiment}")
    with runtime.raising_run_failed():
        plan = retention.plan(experiment, keep)
    for removal in plan:
        click.echo(f"{removal} ({removal.bytes / 1e6:.1f} MB)")
    if dry_run or not plan:
        click.echo(f"{len(plan)} versions would be pruned." if plan else "Nothing to prune.")
        return
    click.echo(f"{len(runtime.run('tasks.retention:prune', experiment, keep))} versions pruned.")


@cli.command(epilog="Example: lstm-flows recipes")
def recipes() -> None:
    """List the recipes: complete configurations that ship with the program."""
    from flows import recipes as shipped

    width = max(map(len, shipped.names()))
    for name in shipped.names():
        click.echo(f"{name:<{width}}  {shipped.description(name)}")


@cli.command(epilog="Example: lstm-flows predict models:/tutorial@champion days.csv --output predictions.csv")
@click.argument("model_uri")
@click.argument("table", metavar="NEW_ROWS", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Write here instead of to standard output.")
@verbosity
@click.pass_context
def predict(context: click.Context, model_uri: str, table: Path, output: Path | None) -> None:
    """What a registered model tells of new rows: a column `prediction`, or the rows of a forecast."""
    runtime.prepare(**context.ensure_object(dict))
    from lstm_models.evaluation.predict import predict as predict_rows
    from tasks.tracking.model_loader import load_model

    with runtime.raising_run_failed():
        model = load_model(model_uri)
        rows = predict_rows(model.program, model.read(table), model.data, model.output)
    with (
        _report_write_errors(output),
        open(output, "w", newline="", encoding="utf-8") if output else nullcontext(sys.stdout) as file,
    ):
        rows.to_csv(file, index=False)


@cli.command(epilog="Example: lstm-flows inspect models:/tutorial@champion days.csv --figure gates.png")
@click.argument("model_uri")
@click.argument("table", metavar="NEW_ROWS", type=click.Path(path_type=Path))
@click.option("--figure", type=click.Path(path_type=Path), help="Draw the first four sequences into this PNG file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else: every unit's values.")
@verbosity
@click.pass_context
def inspect(context: click.Context, model_uri: str, table: Path, figure: Path | None, as_json: bool) -> None:
    """Open a registered LSTM: its gates and states at every step of a table's sequences."""
    runtime.prepare(**context.ensure_object(dict))
    from tasks import introspection

    with runtime.raising_run_failed():
        opened = introspection.inspect_model(model_uri, table)
    if figure:
        with _report_write_errors(figure):
            opened.figure().savefig(figure, format="png")
    if as_json:
        click.echo(opened.to_json())
    else:
        print_table(opened.table(), left=("sequence",))


@cli.command(epilog="Example: lstm-flows ui --port 5001")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
def ui(port: int) -> None:
    """Open the MLflow UI on 127.0.0.1, on what was tracked in this directory or at MLFLOW_TRACKING_URI."""
    runtime.prepare()
    from tasks import tracking

    uri = tracking.tracking_uri()
    if uri.startswith("http"):
        click.echo(f"The tracking server has it: {uri}")
        return
    tracking.mlflow_client()
    click.echo(f"MLflow UI: http://127.0.0.1:{port}   (Ctrl-C ends it)", err=True)
    command = ["mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", *command, "--workers", "1"])  # noqa: S606


@contextmanager
def _report_write_errors(path: Path | None) -> Iterator[None]:
    """Say in one line that a file can't be written."""
    try:
        yield
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise click.UsageError(f"{path}: can't be written: {os.strerror(error.errno or 0)}") from None


def _resume_command(given: Sequence[str]) -> str:
    """How the command that was given goes on, where it is one that can."""
    resumable = {"compare": "compare", "fine-tune": "fine-tune EXPERIMENT"}
    command = resumable.get(next((word for word in given if not word.startswith("-")), ""))
    return f"; lstm-flows {command} --resume goes on" if command else ""


def _exit_with(message: str, code: int) -> NoReturn:
    from lstm_models.utils.errors import one_line

    click.echo(f"lstm-flows: {one_line(message)}", err=True)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, and exit: 0 done, 1 the run failed, 2 wrong input, 130 Ctrl-C."""
    from lstm_models.utils.errors import UserError

    given = sys.argv[1:] if arguments is None else arguments
    try:
        sys.exit(cli.main(given, prog_name="lstm-flows", standalone_mode=False) or DONE)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(WRONG_INPUT)
    except click.ClickException as error:
        _exit_with(error.format_message(), WRONG_INPUT)
    except UserError as error:
        _exit_with(str(error), WRONG_INPUT)
    except (KeyboardInterrupt, click.Abort):
        _exit_with(f"interrupted{_resume_command(given)}", INTERRUPTED)
    except runtime.RunFailed as error:
        if "-v" in given or "--verbose" in given:
            raise
        _exit_with(
            f"the run failed: {error}{_resume_command(given) if error.can_resume else ''}; -v shows more", RUN_FAILED
        )
