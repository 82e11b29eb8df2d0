"""Export of networks as one program for any number of sequences of any length, and reading of its weights."""

import io
import json
import math
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from lstm_models.nn.lstm import LSTM
from lstm_models.nn.network import Network
from lstm_models.utils import atomic_files
from lstm_models.utils.errors import UserError


class ExportableNetwork(nn.Module):
    """Network in a form that torch.export can store, with a loop over time of one operator for any number of steps.

    Model servers pass a single tensor, so the lengths of a padded batch are encoded in it: time steps at the end of a
    sequence that are NaN in all features are padding. Any other NaN is a missing value, and makes the prediction NaN.

    An nn.LSTM or nn.RNN is exported as the hand-built LSTM with the same weights, because the export of PyTorch's
    operator fixes the number of steps.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        recurrent = network.recurrent
        if isinstance(recurrent, nn.LSTM | nn.RNN):
            recurrent = LSTM.from_builtin(recurrent)
        self.network = Network(recurrent, network.head, network.output, network.scaler)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Predict each sequence, (B, T, D), as `Network` does, with class probabilities, (B, C), for a classification.

        The prediction for a sequence of nothing but padding is NaN.
        """
        step_T = torch.arange(1, x_BTD.size(1) + 1, device=x_BTD.device)
        lengths_B = (~x_BTD.isnan().all(-1) * step_T).amax(1)
        predictions = self.network(x_BTD, lengths_B.clamp(min=1))
        if self.network.output.kind == "classification":
            predictions = predictions.softmax(-1)
        return torch.where((lengths_B > 0).view(-1, *[1] * (predictions.dim() - 1)), predictions, torch.nan)


# the records that torch.export writes for a network: no custom objects, no compiled libraries
_RECORDS = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|data/weights/(weight_\d+|model_weights_config\.json)|"
    r"data/constants/(tensor_\d+|model_constants_config\.json)|(archive_|\.data/)?version|archive_format|byteorder|"
    r"\.data/serialization_id"
)
_TYPES = {5: torch.int64, 7: torch.float32, 8: torch.float64, 12: torch.bool}  # torch.export's type numbers


class ArchiveError(UserError):
    """An archive is damaged or untrusted; the message names the record."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights from a pt2 archive without running any code from it.

    The weights are stored as raw numbers; nothing else in the archive is used. torch.export.load is unsafe for
    untrusted archives: it unpickles records that are marked as pickles, and evaluates guards, symbols and names of the
    program as Python expressions.

    Raises:
        ArchiveError: If the file is no archive of a network, or a pickle in it holds more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content: dict[str, bytes] = {}
            for info in archive.infolist():
                name = info.filename.partition("/")[2]
                if not _RECORDS.fullmatch(name) or name in content or info.compress_type != zipfile.ZIP_STORED:
                    raise ArchiveError(f"unexpected record {name[-60:]} in its archive")
                content[name] = archive.read(info)
        _tensors(content, "constants")
        weights = _tensors(content, "weights")
    except ArchiveError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, zipfile.BadZipFile) as error:
        raise ArchiveError(f"its archive is damaged ({type(error).__name__}: {error})") from error
    sample = "data/sample_inputs/model.pt"
    try:
        atomic_files.validate_tensor_file(io.BytesIO(content[sample]))
    except (LookupError, ValueError, zipfile.BadZipFile) as error:
        raise ArchiveError(f"record {sample} in its archive holds more than tensors ({error})") from error
    return weights


def _tensors(content: dict[str, bytes], kind: str) -> dict[str, Tensor]:
    folder = f"data/{kind}"
    tensors = {}
    for name, entry in json.loads(content[f"{folder}/model_{kind}_config.json"])["config"].items():
        record = f"{folder}/{entry['path_name']}"
        if entry["use_pickle"] is not False:
            raise ArchiveError(f"record {record[-60:]} in its archive is a pickle")
        meta = entry["tensor_meta"]
        size, stride = ([number["as_int"] for number in meta[key]] for key in ("sizes", "strides"))
        flat = torch.frombuffer(bytearray(content[record]), dtype=_TYPES[meta["dtype"]])
        if flat.numel() != math.prod(size):
            raise ValueError(f"{record} has {flat.numel():,} numbers, not {math.prod(size):,}")
        tensors[name] = flat.as_strided(size, stride, meta["storage_offset"]["as_int"])
    return tensors
