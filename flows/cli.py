"""`lstm-flows ...`: parse, call a flow, print. Heavy imports wait until a command needs them."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flows import session

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from lstm_models.config import EvaluateConfig, FineTuneConfig
    from tasks.references import Comparison, Drifted, FineTuned, Watched

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


def _resumes_alone(context: click.Context, *others: str) -> None:
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
@click.option("--again", is_flag=True, help="Train even if an equal run has finished before.")
@resumable
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration as YAML; run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@verbosity
@click.pass_context
def compare(
    context: click.Context,
    source: str,
    changes: tuple[str, ...],
    again: bool,
    resume: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train, fine-tune, evaluate, register and compare a recipe's contenders."""
    from flows import recipes

    if resume:
        _resumes_alone(context, "source", "changes", "again", "dry_run")
    config = recipes.load(source, changes)
    if dry_run:
        click.echo(config.to_yaml(), nl=False)
        return
    options = context.ensure_object(dict)
    session.prepare(**options)
    comparison: Comparison = session.run("flows.compare:compare", config, again, resume)
    if as_json:
        click.echo(comparison.model_dump_json())
    else:
        _show(comparison, hints=not options.get("quiet"))


def on_experiment(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and the options of what goes on with an experiment's model."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")(command)
    command = click.option("--dry-run", is_flag=True, help="Print the resolved settings as YAML; run nothing.")(command)
    command = click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="Change one setting.")(command)
    return click.argument("experiment")(command)


@cli.command(name="fine-tune", epilog="Example: lstm-flows fine-tune demand --set epochs=10 --set margin=0.02")
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
        _resumes_alone(context, "changes", "dry_run")
    what = "flows.fine_tune:fine_tune", FineTuneConfig, _show_fine_tuned
    _go_on(context, *what, experiment, changes, dry_run, as_json, resume)


@cli.command(epilog="Example: lstm-flows evaluate demand")
@on_experiment
@verbosity
@click.pass_context
def evaluate(context: click.Context, experiment: str, changes: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Judge the champion on its table as it is now, and add a point to its series in MLflow."""
    from lstm_models.config import EvaluateConfig

    what = "flows.evaluate:evaluate", EvaluateConfig, _show_point
    _go_on(context, *what, experiment, changes, dry_run, as_json)


def _go_on(
    context: click.Context,
    entrypoint: str,
    kind: "type[FineTuneConfig | EvaluateConfig]",
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
    session.prepare(**options)
    answer = session.run(entrypoint, config, *further)
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
    session.prepare(**context.ensure_object(dict))
    from tasks import history, tracking

    tracking.require_database(f"experiment {experiment}")
    with session.failing():
        rows = history.history(experiment)
    if as_json:
        click.echo(json.dumps(rows))
    else:
        _print_table(
            history.as_table(rows),
            left=("version", "continues", "model", "trained on", "champion", "aliases"),
            width=120,
        )


@cli.command(epilog='Example: lstm-flows rollback demand --why "the sensor was broken"')
@click.argument("experiment")
@click.argument("version", required=False, type=click.IntRange(min=1))
@click.option("--why", default="by hand", show_default=True, help="What is recorded as the reason.")
@verbosity
@click.pass_context
def rollback(context: click.Context, experiment: str, version: int | None, why: str) -> None:
    """Make the champion before, or a VERSION, champion again."""
    session.prepare(**context.ensure_object(dict))
    from tasks import tracking

    tracking.require_database(f"experiment {experiment}")
    reign = session.run("tasks.champions:rollback", experiment, version, why)
    click.echo(f"Version {reign.version} is champion of {experiment} again ({reign.why}).")


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
    session.prepare(**context.ensure_object(dict))
    from tasks import retention, tracking

    tracking.require_database(f"experiment {experiment}")
    with session.failing():
        plan = retention.plan(experiment, keep)
    for removal in plan:
        click.echo(f"{removal} ({removal.bytes / 1e6:.1f} MB)")
    if dry_run or not plan:
        click.echo(f"{len(plan)} versions would be pruned." if plan else "Nothing to prune.")
        return
    click.echo(f"{len(session.run('tasks.retention:prune', experiment, keep))} versions pruned.")


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
    session.prepare(**context.ensure_object(dict))
    from lstm_models import prediction
    from tasks.registry import load_model

    with session.failing():
        model = load_model(model_uri)
        rows = prediction.predict(model.program, model.read(table), model.data, model.output)
    with (
        _written(output),
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
    session.prepare(**context.ensure_object(dict))
    from tasks import inside

    with session.failing():
        opened = inside.inspect(model_uri, table)
    if figure:
        with _written(figure):
            opened.figure().savefig(figure, format="png")
    if as_json:
        click.echo(opened.to_json())
    else:
        _print_table(opened.table(), left=("sequence",))


@cli.command(epilog="Example: lstm-flows ui --port 5001")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
def ui(port: int) -> None:
    """Open the MLflow UI on 127.0.0.1, on what was tracked in this directory or at MLFLOW_TRACKING_URI."""
    session.prepare()
    from tasks import tracking

    uri = tracking.uri()
    if uri.startswith("http"):
        click.echo(f"The tracking server has it: {uri}")
        return
    tracking.client()
    click.echo(f"MLflow UI: http://127.0.0.1:{port}   (Ctrl-C ends it)", err=True)
    command = ["mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", *command, "--workers", "1"])  # noqa: S606


@contextmanager
def _written(path: Path | None) -> Iterator[None]:
    """Say in one line that a file can't be written."""
    try:
        yield
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise click.UsageError(f"{path}: can't be written: {os.strerror(error.errno or 0)}") from None


def _console(width: int = 100) -> "Console":
    from rich.console import Console

    return Console(
        highlight=False, markup=False, emoji=False, color_system=None, width=None if sys.stdout.isatty() else width
    )


def _print_table(rows: "pd.DataFrame", left: Sequence[str], width: int = 100) -> None:
    """A table of text; the columns `left` are words, the others numbers."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in rows.columns:
        # a number that is too long goes on in the next line, rather than losing its end
        shown.add_column(name, justify="left" if name in left else "right", no_wrap=name in left, overflow="fold")
    for row in rows.itertuples(index=False):
        shown.add_row(*row)
    _console(width).print(shown)


def _show(comparison: "Comparison", hints: bool) -> None:
    from tasks import text

    console = _console()
    if comparison.reused:
        console.print("Nothing was trained: an earlier run had this configuration, data and code (--again trains).")
    _show_results(comparison)
    console.print(f"\n{text.headline(comparison)}")
    if hints:
        name = comparison.experiment
        following = "compare parity" if name == "tutorial" else "compare tutorial"
        if not comparison.dataset.in_sample:
            following = f"predict models:/{name}@champion NEW_ROWS"
        _show_where(comparison.parent_run_id)
        console.print(f"Next: {_program()} {following}")


def _show_results(comparison: "Comparison") -> None:
    """Who did how, and who is better than whom."""
    from tasks import text

    _print_table(text.table(comparison), left=("contender", "phase"))
    if comparison.differences:
        _console().print(f"\nDifferences in {comparison.metric}, on the same examples:")
        _print_table(text.differences(comparison), left=("this", "is", "than"))


def _program() -> str:
    """What can be typed: the bare name only where the shell finds it."""
    return "lstm-flows" if shutil.which("lstm-flows") else os.path.relpath(sys.argv[0])


def _show_where(run_id: str) -> None:
    """Where a run can be looked at."""
    from tasks import tracking

    first = "" if tracking.uri().startswith("http") else f"{_program()} ui   then "
    _console().print(f"\nLook: {first}{tracking.run_url(run_id)}", soft_wrap=True)


def _show_fine_tuned(done: "FineTuned", hints: bool) -> None:
    console = _console()
    if done.comparison:
        _show_results(done.comparison)
        _show_drift(done.drift)
        console.print()
    console.print(done.message)
    for removed in done.removed:
        console.print(f"Pruned: {removed}")
    if done.comparison and hints:
        _show_where(done.comparison.parent_run_id)


def _show_drift(drift: "list[Drifted]") -> None:
    from tasks import text

    if drift:
        _console().print(f"\n{text.DRIFT}")
        _print_table(text.drift(drift), left=("feature",))


def _show_point(point: "Watched", hints: bool) -> None:
    console = _console()
    for name, value in point.metrics.items():
        console.print(f"{name}  {value:.6g}")
    _show_drift(point.drift)
    console.print(f"\n{point.message}" if point.metrics else point.message)
    if point.run_id and hints:
        _show_where(point.run_id)


def _going_on(given: Sequence[str]) -> str:
    """How the command that was given goes on, where it is one that can."""
    resumable = {"compare": "compare", "fine-tune": "fine-tune EXPERIMENT"}
    command = resumable.get(next((word for word in given if not word.startswith("-")), ""))
    return f"; lstm-flows {command} --resume goes on" if command else ""


def _fail(message: str, code: int) -> NoReturn:
    from lstm_models.config import one_line

    click.echo(f"lstm-flows: {one_line(message)}", err=True)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, and exit: 0 done, 1 the run failed, 2 wrong input, 130 Ctrl-C."""
    from lstm_models.config import UserError

    given = sys.argv[1:] if arguments is None else arguments
    try:
        sys.exit(cli.main(given, prog_name="lstm-flows", standalone_mode=False) or DONE)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(WRONG_INPUT)
    except click.ClickException as error:
        _fail(error.format_message(), WRONG_INPUT)
    except UserError as error:
        _fail(str(error), WRONG_INPUT)
    except (KeyboardInterrupt, click.Abort):
        _fail(f"interrupted{_going_on(given)}", INTERRUPTED)
    except session.RunFailed as error:
        if "-v" in given or "--verbose" in given:
            raise
        _fail(f"the run failed: {error}{_going_on(given) if error.can_go_on else ''}; -v shows more", RUN_FAILED)
