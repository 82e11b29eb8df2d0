"""What crosses a task's boundary: small, typed, serialisable. The things themselves lie in MLflow's artifact store."""

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lstm_models.config import AnyData, CompareConfig, FineTuneConfig, Phase
from lstm_models.data.cleaning.series import RowCounts
from lstm_models.data.holdout import RowRanges
from lstm_models.data.output import OutputSpec
from lstm_models.evaluation.model_selection import Verdict


class Reference(BaseModel):
    """Immutable, and the same after a trip through JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ParentRun(Reference):
    """The MLflow run of one flow run; the runs of contenders and phases are its children."""

    run_id: str
    experiment_id: str
    experiment: str
    tensorboard_dir: str
    request: FineTuneConfig | None = Field(None, description="what was asked for beside the configuration")


class InterruptedRun(Reference):
    """A flow run's MLflow run that did not come to its end, and what it was about.

    champion: the version that was champion when it began, of a flow that goes on with one; None: nobody was.
    """

    parent: ParentRun
    config: CompareConfig
    champion: int | None = None


class DatasetRef(Reference):
    """A table, stored as Parquet, and what is made of it. The digest names both: the examples that follow from them."""

    uri: str
    name: str
    digest: str
    config: AnyData = Field(discriminator="kind")
    seed: int
    rows: int
    columns_schema: str = Field(description="its columns' types, as MLflow notes them")

    @property
    def columns(self) -> list[dict[str, str]]:
        """Its columns' names and types."""
        found: list[dict[str, str]] = json.loads(self.columns_schema)["mlflow_colspec"]
        return found


class CheckpointRef(Reference):
    """What a training run left: uri to go on from, best_uri, of the lowest validation loss, to be used (the same where
    there is no validation). `sha256` is of the first file's bytes; `epochs` count from the beginning."""

    uri: str
    best_uri: str
    sha256: str
    run_id: str
    contender: str
    phase: Phase
    epochs: int
    best_epoch: int
    seconds: float


class TrainingRecord(Reference):
    """What a training leaves for one that goes on from it; it lies in the training's run."""

    config: CompareConfig = Field(description="as it was trained; the checkpoint's contender is among its contenders")
    checkpoint: CheckpointRef
    dataset: DatasetRef
    columns: tuple[str, ...] = Field(description="the inputs, of a table with a time step a row")
    output: OutputSpec = Field(description="what is told")
    rows: RowRanges | None = Field(description="which rows it has told; none: judged in sample")
    trained_on: RowRanges | None = Field(description="the same, with what all that it continues have learnt from")


class TrainedVersion(Reference):
    """A registered version, and what it takes to go on from it."""

    name: str
    number: int
    trained: TrainingRecord

    @property
    def contender(self) -> str:
        return self.trained.checkpoint.contender

    @property
    def phase(self) -> Phase:
        return self.trained.checkpoint.phase


class FeatureDrift(Reference):
    """How far a feature's values have moved since training; see lstm_models.evaluation.drift."""

    feature: str
    psi: float
    ks: float


class DatasetSummary(Reference):
    """Which data a comparison was made on."""

    name: str
    digest: str
    in_sample: bool = Field(description="judged on what was trained on")
    train: int = Field(description="examples for training")
    validation: int
    test: int
    rows: RowCounts | None = Field(None, description="of a table's rows, how many were read, dropped and used")
    notes: list[str] = []
    names: list[str] | None = Field(None, description="of the sequences, where they are few")


class ReplicaStats(Reference):
    """How the copies of a contender with replicas do. Copy number n, from 0, has the comparison's seed + n."""

    count: int
    criterion: str = Field(description="what counts as converged")
    converged: int
    low: float = Field(description="of the 95 % interval of the share of converged ones, after Wilson")
    high: float
    median: int = Field(description="the number of the median copy by mse, whose figures the result has")
    errors: list[float | None] = Field(description="each copy's mse; null where it predicts NaN or infinity")


class Score(Reference):
    """How far off something is on a dataset's test part: its loss, and where the loss of every example lies.

    low and high: the 95 % interval of the loss over other data of the kind; None in sample. block: how many
    neighbouring losses belong together, for an interval.
    """

    loss: float = Field(description="the comparison's metric")
    low: float | None = None
    high: float | None = None
    parameters: int
    dataset: str = Field(description="its digest")
    losses_uri: str | None = Field(None, description="a Parquet table with each example's; none: judged in sample")
    block: int = 1


class PhaseResult(Score):
    """How one contender does after one phase; with replicas, its median copy.

    predictions is None, and predictions_uri the place of a Parquet table, where they are not numbers or more than 100.
    model_uri is None for the untrained phase, whose figures stand on the parent run.
    """

    contender: str
    phase: Phase
    epochs: int
    best_epoch: int | None = Field(None, description="of the lowest validation loss, whose model was judged")
    targets: list[float] | None
    predictions: list[float] | None
    predictions_uri: str | None = None
    metrics: dict[str, float]
    seconds: float = Field(description="spent in training, of this phase alone")
    run_id: str
    artifacts: str = Field("", description="the folder of the run in which its files lie")
    model_uri: str | None
    replicas: ReplicaStats | None = None

    @property
    def name(self) -> str:
        return f"{self.contender}/{self.phase}"

    @property
    def version(self) -> int | None:
        """Of the registered model."""
        return None if self.model_uri is None else int(self.model_uri.rsplit("/", 1)[-1])

    def score(self) -> Score:
        """What it takes to compare it with others."""
        return Score.model_validate(self.model_dump(include=set(Score.model_fields)))


class BaselineResult(Score):
    """How something does that needs little or no learning."""

    name: str
    metrics: dict[str, float]
    run_id: str
    artifacts: str = ""


class ScoreDifference(Reference):
    """How one's losses differ from another's on the same examples, with the 95 % interval of their mean."""

    model: str
    reference: str
    mean: float
    low: float | None = Field(description="None: there are too few examples to tell")
    high: float | None
    verdict: Verdict


class AliasHolder(Reference):
    """Who holds an alias in the registry."""

    contender: str
    phase: Phase
    model_uri: str
    version: int


class ComparisonReport(Reference):
    """What the flow `compare` answers with."""

    experiment: str
    parent_run_id: str
    dataset: DatasetSummary
    metric: str = Field(description="which of the metrics the loss is")
    results: list[PhaseResult]
    baselines: list[BaselineResult] = []
    differences: list[ScoreDifference] = []
    champion: AliasHolder
    challenger: AliasHolder | None = Field(None, description="this comparison's best, where it did not become champion")
    reused: bool = Field(False, description="an earlier run's result: the same configuration, data and code")


class FineTuneResult(Reference):
    """What the flow `fine_tune` answers with.

    promoted: the challenger is champion now; kept: the champion stays. Where nothing was to do there is nothing else.
    """

    experiment: str
    outcome: Literal["promoted", "not promoted", "skipped"]
    message: str
    base_version: int = Field(description="the version that was to go on")
    challenger: int | None = Field(None, description="the version that came of it")
    comparison: ComparisonReport | None = Field(None, description="of champion and challenger")
    drift: list[FeatureDrift] = []
    pruned: list[str] = Field([], description="what went, since keep asked for it")


class MonitoringPoint(Reference):
    """What the flow `evaluate` answers with: a point of the series, none where nothing is new."""

    experiment: str
    version: int
    run_id: str | None
    step: int | None
    metrics: dict[str, float] = {}
    drift: list[FeatureDrift] = []
    message: str = ""
