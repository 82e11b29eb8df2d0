"""What crosses a task's boundary: small, typed, serialisable. The things themselves lie in MLflow's artifact store."""

from pydantic import BaseModel, ConfigDict, Field

from lstm_models.config import Phase
from lstm_models.data.tables import Columns


class Reference(BaseModel):
    """Immutable, and the same after a trip through JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ParentRun(Reference):
    """The MLflow run of one flow run; the runs of contenders and phases are its children."""

    run_id: str
    experiment_id: str
    experiment: str
    tensorboard_dir: str


class DatasetRef(Reference):
    """A table of sequences, stored as Parquet."""

    uri: str
    name: str
    digest: str
    sequences: int
    inputs: tuple[str, ...]
    target: str
    features: int
    key: str

    @property
    def columns(self) -> Columns:
        """Which of its columns hold what."""
        return Columns(self.inputs, self.target, self.features)


class CheckpointRef(Reference):
    """What a training run left to go on from. `sha256` is of the file's bytes; `epochs` count from the beginning."""

    uri: str
    sha256: str
    run_id: str
    contender: str
    phase: Phase
    epochs: int
    seconds: float


class DatasetSummary(Reference):
    """Which data a comparison was made on."""

    name: str
    digest: str
    sequences: int
    names: list[str] | None = Field(None, description="of the sequences, where they are few")


class Copies(Reference):
    """How the copies of a contender with replicas do. Copy number n, from 0, has the comparison's seed + n."""

    count: int
    criterion: str = Field(description="what counts as converged")
    converged: int
    low: float = Field(description="of the 95 % interval of the share of converged ones, after Wilson")
    high: float
    median: int = Field(description="the number of the median copy by mse, whose figures the result has")
    errors: list[float | None] = Field(description="each copy's mse; null where it predicts NaN or infinity")


class Result(Reference):
    """How one contender does after one phase; with replicas, its median copy.

    predictions is None, and predictions_uri the place of a Parquet table, where there are more than 100. model_uri is
    None for the untrained phase, whose figures stand on the parent run.
    """

    contender: str
    phase: Phase
    epochs: int
    targets: list[float] | None
    predictions: list[float] | None
    predictions_uri: str | None = None
    metrics: dict[str, float]
    seconds: float = Field(description="spent in training, of this phase alone")
    parameters: int
    run_id: str
    model_uri: str | None
    copies: Copies | None = None


class Holder(Reference):
    """Who holds an alias in the registry."""

    contender: str
    phase: Phase
    model_uri: str


class Comparison(Reference):
    """What the flow `compare` answers with."""

    experiment: str
    parent_run_id: str
    dataset: DatasetSummary
    results: list[Result]
    champion: Holder
    challenger: Holder | None = Field(None, description="this comparison's best, where it did not become champion")
    reused: bool = Field(False, description="an earlier run's result: the same configuration, data and code")
