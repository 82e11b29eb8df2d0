"""What crosses a task's boundary: small, typed, serialisable. The things themselves lie in MLflow's artifact store."""

from pydantic import BaseModel, ConfigDict, Field

from lstm_models.config import Phase


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
    key: str


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


class Result(Reference):
    """How one contender does after one phase.

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
