"""Inputs and results of tasks: small, typed, serializable. The data itself is in MLflow's artifact store."""

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lstm_models.config import AnyData, CompareConfig, FineTuneConfig, Phase
from lstm_models.data.cleaning.series import RowCounts
from lstm_models.data.holdout import RowRanges
from lstm_models.data.output import OutputSpec
from lstm_models.evaluation.model_selection import Score, Verdict


class Reference(BaseModel):
    """Base class: immutable, with a lossless JSON round trip."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ParentRun(Reference):
    """The MLflow run of one flow run; the runs of contenders and phases are its children."""

    run_id: str
    experiment_id: str
    experiment: str
    tensorboard_dir: str
    request: FineTuneConfig | None = Field(None, description="the settings of the run, beside the configuration")


class InterruptedRun(Reference):
    """The MLflow run of an interrupted flow run, with its configuration.

    Attributes:
        parent: The run.
        config: Its configuration.
        champion: For fine-tuning, the champion's version when the run started; None if there was none.
    """

    parent: ParentRun
    config: CompareConfig
    champion: int | None = None


class DatasetRef(Reference):
    """A table, stored as Parquet, with the settings that turn it into examples; the digest covers both."""

    uri: str
    name: str
    digest: str
    config: AnyData = Field(discriminator="kind")
    seed: int
    rows: int
    columns_schema: str = Field(description="the columns' names and MLflow types, as JSON")

    @property
    def columns(self) -> list[dict[str, str]]:
        """The columns' names and MLflow types."""
        columns: list[dict[str, str]] = json.loads(self.columns_schema)["mlflow_colspec"]
        return columns


class CheckpointRef(Reference):
    """The checkpoints of a training run.

    Attributes:
        uri: The last checkpoint, to resume or fine-tune from.
        best_uri: The checkpoint with the lowest validation loss, to use; the last one if there is no validation.
        sha256: The SHA-256 of the last checkpoint.
        epochs: The number of epochs trained, including those of the runs that this one continues.
    """

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
    """What a later training needs to continue from this one, stored with its run."""

    config: CompareConfig = Field(description="as trained; its contenders include the checkpoint's")
    checkpoint: CheckpointRef
    dataset: DatasetRef
    columns: tuple[str, ...] = Field(description="the inputs of a table with one time step per row")
    output: OutputSpec = Field(description="what the model predicts")
    rows: RowRanges | None = Field(description="the rows of each part; none: in sample")
    trained_on: RowRanges | None = Field(description="the same, merged with the rows of all versions that it continues")


class TrainedVersion(Reference):
    """A registered version with its training record."""

    name: str
    number: int
    trained: TrainingRecord

    @property
    def contender(self) -> str:
        """The contender's name."""
        return self.trained.checkpoint.contender

    @property
    def phase(self) -> Phase:
        """The phase after which it was registered."""
        return self.trained.checkpoint.phase


class FeatureDrift(Reference):
    """How far a feature's distribution has moved since training; see lstm_models.evaluation.drift."""

    feature: str
    psi: float
    ks: float


class DatasetSummary(Reference):
    """The data of a comparison."""

    name: str
    digest: str
    in_sample: bool = Field(description="whether it is evaluated on the training data")
    train: int = Field(description="number of training examples")
    validation: int
    test: int
    rows: RowCounts | None = Field(None, description="how many rows of a table were read, dropped and used")
    notes: list[str] = []
    names: list[str] | None = Field(None, description="the test sequences' names, if there are few")


class ReplicaStats(Reference):
    """How a contender's replicas perform. Replica n, from 0, has the comparison's seed + n."""

    count: int
    criterion: str = Field(description="when a replica counts as converged")
    converged: int
    low: float = Field(description="lower end of Wilson's 95 % interval of the share of converged replicas")
    high: float
    median: int = Field(description="number of the median replica by mse, whose metrics the result has")
    errors: list[float | None] = Field(description="each replica's mse; null if it predicts NaN or infinity")


class PhaseResult(Score):
    """The evaluation of a contender after a phase; with replicas, of its median replica.

    `targets` and `predictions` are None unless they are single numbers of at most 100 examples; `predictions_uri` is a
    table with all predictions. `model_uri` is None for the untrained phase, whose artifacts are on the parent run.
    """

    contender: str
    phase: Phase
    epochs: int
    best_epoch: int | None = Field(None, description="with the lowest validation loss; its model is evaluated")
    targets: list[float] | None
    predictions: list[float] | None
    predictions_uri: str | None = None
    metrics: dict[str, float]
    seconds: float = Field(description="training time of this phase")
    run_id: str
    artifact_dir: str = Field("", description="the run's artifact folder with its files")
    model_uri: str | None
    replicas: ReplicaStats | None = None

    @property
    def name(self) -> str:
        """The contender and the phase."""
        return f"{self.contender}/{self.phase}"

    @property
    def version(self) -> int | None:
        """The version of the registered model."""
        return None if self.model_uri is None else int(self.model_uri.rsplit("/", 1)[-1])

    def score(self) -> Score:
        """Return the part that is needed to compare it with other results."""
        return Score.model_validate(self.model_dump(include=set(Score.model_fields)))


class BaselineResult(Score):
    """The evaluation of a baseline."""

    name: str
    metrics: dict[str, float]
    run_id: str
    artifact_dir: str = ""


class ScoreDifference(Reference):
    """The mean paired difference of two models' losses on the same examples, with its 95 % interval."""

    model: str
    reference: str
    mean: float
    low: float | None = Field(description="None: too few examples for an interval")
    high: float | None
    verdict: Verdict


class AliasHolder(Reference):
    """The version that has an alias in the registry."""

    contender: str
    phase: Phase
    model_uri: str
    version: int


class ComparisonReport(Reference):
    """The result of the flow `compare`."""

    experiment: str
    parent_run_id: str
    dataset: DatasetSummary
    metric: str = Field(description="the metric that models are compared by")
    results: list[PhaseResult]
    baselines: list[BaselineResult] = []
    differences: list[ScoreDifference] = []
    champion: AliasHolder
    challenger: AliasHolder | None = Field(None, description="the best of this comparison if it was not promoted")
    reused: bool = Field(False, description="the result of an earlier run with the same configuration, data and code")


class FineTuneResult(Reference):
    """The result of the flow `fine_tune`; a skipped run has no challenger and no comparison."""

    experiment: str
    outcome: Literal["promoted", "not promoted", "skipped"]
    message: str
    base_version: int = Field(description="the version to fine-tune")
    challenger: int | None = Field(None, description="the fine-tuned version")
    comparison: ComparisonReport | None = Field(None, description="of champion and challenger")
    drift: list[FeatureDrift] = []
    pruned: list[str] = Field([], description="what was removed because of keep_versions")


class MonitoringPoint(Reference):
    """The result of the flow `monitor`: a step of the monitoring run; without a step if it was skipped."""

    experiment: str
    version: int
    run_id: str | None
    step: int | None
    metrics: dict[str, float] = {}
    drift: list[FeatureDrift] = []
    message: str = ""
