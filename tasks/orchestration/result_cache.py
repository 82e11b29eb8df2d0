"""Nothing is done twice: what a task has answered lies in its run, and an interrupted flow run finds it there."""

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


def cached_in_run(work: Callable[P, T]) -> Callable[P, T]:
    """Let a task's work be done once for the same arguments in the same run: that of its parent or its checkpoint.

    The answer is written when all is done, as JSON; one that is not whole, or of an older program, counts as none.
    """
    signature = inspect.signature(work)

    @functools.wraps(work)
    def answered(*args: P.args, **kwargs: P.kwargs) -> T:
        given = signature.bind(*args, **kwargs).arguments
        run_id: str = (given.get("parent") or given["checkpoint"]).run_id
        kind: TypeAdapter[T] = TypeAdapter(get_type_hints(work)["return"])
        digest = hashlib.sha256(to_json(given, inf_nan_mode="constants")).hexdigest()[:16]
        file = f"{CACHE_DIR}/{work.__name__}-{digest}.json"
        try:
            return kind.validate_json(tracking.download(f"runs:/{run_id}/{file}").read_bytes())
        except (MlflowException, OSError, ValueError) as error:
            if is_transient(error):
                raise
        answer = work(*args, **kwargs)
        # pydantic's own JSON has null for NaN
        tracking.mlflow_client().log_text(run_id, json.dumps(kind.dump_python(answer, mode="json")), file)
        return answer

    return answered
