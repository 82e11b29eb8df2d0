"""Commands of `lstm-flows`: parse the arguments, call a flow or task, print its result. Heavy imports are deferred."""

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


def _set_verbosity(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(dict)[parameter.name] = True


def verbosity(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add -q and -v, which are accepted before and after the command's name."""
    settings: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _set_verbosity}
    command = click.option("-q", "--quiet", help="Hide progress and hints.", **settings)(command)
    return click.option("-v", "--verbose", help="Show library logs and tracebacks.", **settings)(command)


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from lstm_models import backend

        click.echo(f"lstm-flows {version('lstm-flows')} ({backend()})")
        context.exit()


@click.group(
    epilog="Example: lstm-flows compare            (runs the tutorial's experiment)",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="Show the version and the LSTM backend, then exit.")  # fmt: skip
@verbosity
def cli() -> None:
    """Train, fine-tune, register and compare LSTMs, hand-built and built-in."""


def resumable(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --resume, with or without a run id."""
    return click.option(
        "--resume", metavar="[RUN_ID]", is_flag=False, flag_value=NEWEST,
        help="Resume the newest interrupted run, or run RUN_ID, with its original configuration.",
    )(command)  # fmt: skip


def _reject_with_resume(context: click.Context, *names: str) -> None:
    """Raise a usage error if one of these parameters is set: an interrupted run has its own configuration."""
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            parameter = next(parameter for parameter in context.command.params if parameter.name == name)
            label = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
            raise click.UsageError(
                f"{label} with --resume: an interrupted run resumes with its original configuration; leave it out"
            )


@cli.command(epilog="Example: lstm-flows compare tutorial --set seed=7 --set contenders.built_in=null")
@click.argument("source", metavar="[RECIPE or FILE.yaml]", default="tutorial")
@click.option(
    "--set", "changes", metavar="KEY=VALUE", multiple=True, help="Override a setting; KEY is a dotted path. Repeatable."
)
@click.option("--force", is_flag=True, help="Train even if a finished run has the same configuration, data and code.")
@resumable
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration as YAML without running it.")
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
    """Add the argument and the options shared by the commands that use an experiment's registered model."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")(command)
    command = click.option("--dry-run", is_flag=True, help="Print the resolved settings as YAML without running.")(
        command
    )
    command = click.option(
        "--set", "changes", metavar="KEY=VALUE", multiple=True, help="Override a setting. Repeatable."
    )(command)
    return click.argument("experiment")(command)


@cli.command(name="fine-tune", epilog="Example: lstm-flows fine-tune demand --set epochs=10 --set min_improvement=0.02")
@on_experiment
@resumable
@verbosity
@click.pass_context
def fine_tune(
    context: click.Context, experiment: str, changes: tuple[str, ...], resume: str | None, dry_run: bool, as_json: bool
) -> None:
    """Fine-tune the champion on new data and promote the result if it is significantly better."""
    from lstm_models.config import FineTuneConfig

    if resume:
        _reject_with_resume(context, "changes", "dry_run")
    flow = "flows.fine_tune:fine_tune", FineTuneConfig, show_fine_tuning
    _run_on_experiment(context, *flow, experiment, changes, dry_run, as_json, resume)


@cli.command(epilog="Example: lstm-flows monitor demand")
@on_experiment
@verbosity
@click.pass_context
def monitor(context: click.Context, experiment: str, changes: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Evaluate the champion on the newest data. Its metrics and drift are logged to MLflow."""
    from lstm_models.config import MonitorConfig

    flow = "flows.monitor:monitor", MonitorConfig, show_monitoring
    _run_on_experiment(context, *flow, experiment, changes, dry_run, as_json)


def _run_on_experiment(
    context: click.Context,
    entrypoint: str,
    kind: "type[FineTuneConfig | MonitorConfig]",
    show: Callable[[Any, bool], None],
    experiment: str,
    changes: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    *arguments: object,
) -> None:
    """Run a flow on an experiment's registered model and print its result."""
    from flows import recipes

    config = recipes.load_for_experiment(kind, experiment, changes)
    if dry_run:
        click.echo(config.to_yaml(), nl=False)
        return
    options = context.ensure_object(dict)
    runtime.prepare(**options)
    result = runtime.run(entrypoint, config, *arguments)
    if as_json:
        click.echo(result.model_dump_json())
    else:
        show(result, not options.get("quiet"))


@cli.command(epilog="Example: lstm-flows history demand")
@click.argument("experiment")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array and nothing else.")
@verbosity
@click.pass_context
def history(context: click.Context, experiment: str, as_json: bool) -> None:
    """List an experiment's model versions.

    Shows each version's lineage, training rows, error, aliases and periods as champion (UTC).
    """
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
            text_columns=("version", "continues", "model", "trained on", "champion", "aliases"),
            width=120,
        )


@cli.command(epilog='Example: lstm-flows rollback demand --reason "the sensor was broken"')
@click.argument("experiment")
@click.argument("version", required=False, type=click.IntRange(min=1))
@click.option("--reason", default="manual", show_default=True, help="Reason to record.")
@verbosity
@click.pass_context
def rollback(context: click.Context, experiment: str, version: int | None, reason: str) -> None:
    """Roll back to the previous champion, or to VERSION."""
    runtime.prepare(**context.ensure_object(dict))
    from tasks import tracking

    tracking.require_database(f"experiment {experiment}")
    tenure = runtime.run("tasks.promotion:rollback", experiment, version, reason)
    click.echo(f"Version {tenure.version} is now champion of {experiment} ({tenure.reason}).")


@cli.command(epilog="Example: lstm-flows prune demand --keep 14 --dry-run")
@click.argument("experiment")
@click.option("--keep", required=True, type=click.IntRange(min=1), help="Number of the newest versions to keep.")
@click.option("--dry-run", is_flag=True, help="List what would be removed without removing it.")
@verbosity
@click.pass_context
def prune(context: click.Context, experiment: str, keep: int, dry_run: bool) -> None:
    """Remove the models, checkpoints and data of old versions.

    Versions with an alias are kept in full. Versions that a kept version continues keep their model and their entry in
    the history. All runs keep their metrics and figures.
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
    """List the built-in recipes. A recipe is a complete configuration."""
    from flows import recipes as bundled

    width = max(map(len, bundled.names()))
    for name in bundled.names():
        click.echo(f"{name:<{width}}  {bundled.description(name)}")


@cli.command(epilog="Example: lstm-flows predict models:/tutorial@champion days.csv --output predictions.csv")
@click.argument("model_uri")
@click.argument("table", metavar="NEW_ROWS", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Write to this file instead of standard output.")
@verbosity
@click.pass_context
def predict(context: click.Context, model_uri: str, table: Path, output: Path | None) -> None:
    """Predict new rows with a registered model.

    Prints them as CSV with a column `prediction`, or prints the rows of a forecast.
    """
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
@click.option("--figure", type=click.Path(path_type=Path), help="Plot the first four sequences to this PNG file.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else, with every unit's values."
)
@verbosity
@click.pass_context
def inspect(context: click.Context, model_uri: str, table: Path, figure: Path | None, as_json: bool) -> None:
    """Show a registered LSTM's gates and states.

    Prints their values at every time step of a table's sequences.
    """
    runtime.prepare(**context.ensure_object(dict))
    from tasks import introspection

    with runtime.raising_run_failed():
        inspection = introspection.inspect_model(model_uri, table)
    if figure:
        with _report_write_errors(figure):
            inspection.figure().savefig(figure, format="png")
    if as_json:
        click.echo(inspection.to_json())
    else:
        print_table(inspection.table(), text_columns=("sequence",))


@cli.command(epilog="Example: lstm-flows ui --port 5001")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
def ui(port: int) -> None:
    """Start the MLflow UI on 127.0.0.1.

    Shows the runs of this directory, or of MLFLOW_TRACKING_URI if it is set.
    """
    runtime.prepare()
    from tasks import tracking

    uri = tracking.tracking_uri()
    if uri.startswith("http"):
        click.echo(f"The tracking server serves the MLflow UI: {uri}")
        return
    tracking.mlflow_client()
    click.echo(f"MLflow UI: http://127.0.0.1:{port}   (press Ctrl-C to stop)", err=True)
    command = ["mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", *command, "--workers", "1"])  # noqa: S606


@contextmanager
def _report_write_errors(path: Path | None) -> Iterator[None]:
    """Report in one line that a file can't be written."""
    try:
        yield
    except BrokenPipeError:  # the reader has closed the pipe, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise click.UsageError(f"{path}: can't be written: {os.strerror(error.errno or 0)}") from None


def _resume_hint(arguments: Sequence[str]) -> str:
    """Return the hint how to resume this command, or "" if it is not resumable."""
    resumable = {"compare": "compare", "fine-tune": "fine-tune EXPERIMENT"}
    command = resumable.get(next((word for word in arguments if not word.startswith("-")), ""))
    return f"; to resume: lstm-flows {command} --resume" if command else ""


def _exit_with(message: str, code: int) -> NoReturn:
    from lstm_models.utils.errors import one_line

    click.echo(f"lstm-flows: {one_line(message)}", err=True)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with 0 (success), 1 (the run failed), 2 (invalid input) or 130 (Ctrl-C)."""
    from lstm_models.utils.errors import UserError

    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        sys.exit(cli.main(arguments, prog_name="lstm-flows", standalone_mode=False) or DONE)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(WRONG_INPUT)
    except click.ClickException as error:
        _exit_with(error.format_message(), WRONG_INPUT)
    except UserError as error:
        _exit_with(str(error), WRONG_INPUT)
    except (KeyboardInterrupt, click.Abort):
        _exit_with(f"interrupted{_resume_hint(arguments)}", INTERRUPTED)
    except runtime.RunFailed as error:
        if "-v" in arguments or "--verbose" in arguments:
            raise
        _exit_with(
            f"the run failed: {error}{_resume_hint(arguments) if error.can_resume else ''}; use -v for details",
            RUN_FAILED,
        )
