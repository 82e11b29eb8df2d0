"""Cache task results as artifacts of the MLflow run, so that a resumed flow run reuses them."""

import functools
import hashlib
import inspect
import json
from collections.abc import Callable
from typing import ParamSpec, TypeVar, get_type_hints

from mlflow.exceptions import MlflowException
from pydantic import TypeAdapter
from pydantic_core import to_json

from tasks import tracking
from tasks.tracking.transient import is_transient

CACHE_DIR = "result_cache"

P = ParamSpec("P")
T = TypeVar("T")


def cached_in_run(function: Callable[P, T]) -> Callable[P, T]:
    """Cache the function's result, for each set of arguments, as a JSON artifact of the run that it works on.

    The run is that of the argument `parent`, or else of the argument `checkpoint`. The result is stored after the
    function has returned. A stored result that is incomplete, or that another version of the program wrote, is ignored.

    Args:
        function: A function with a return annotation that pydantic can validate.

    Returns:
        The decorated function. It raises the connection error if MLflow cannot be reached.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def cached(*args: P.args, **kwargs: P.kwargs) -> T:
        arguments = signature.bind(*args, **kwargs).arguments
        run_id: str = (arguments.get("parent") or arguments["checkpoint"]).run_id
        adapter: TypeAdapter[T] = TypeAdapter(get_type_hints(function)["return"])
        digest = hashlib.sha256(to_json(arguments, inf_nan_mode="constants")).hexdigest()[:16]
        file = f"{CACHE_DIR}/{function.__name__}-{digest}.json"
        try:
            return adapter.validate_json(tracking.download(f"runs:/{run_id}/{file}").read_bytes())
        except (MlflowException, OSError, ValueError) as error:
            if is_transient(error):
                raise
        result = function(*args, **kwargs)
        # json, because pydantic's own serializer writes NaN as null
        tracking.mlflow_client().log_text(run_id, json.dumps(adapter.dump_python(result, mode="json")), file)
        return result

    return cached
