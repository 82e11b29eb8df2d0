"""The form in which a network is registered, one program for any number of sequences of any length; and its weights."""

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
    """A network as torch.export can store it, its loop over time one operator whatever the number of steps.

    What serves a model hands it one tensor. So the lengths of a padded batch travel in it: NaN in all features, from a
    sequence's end to the end of the batch, is padding. A NaN anywhere else is a missing value, and its prediction NaN.

    An nn.LSTM or nn.RNN is exported as the hand-built LSTM of the same weights: its own operator would store the number
    of steps as a constant.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        recurrent = network.recurrent
        if isinstance(recurrent, nn.LSTM | nn.RNN):
            recurrent = LSTM.from_builtin(recurrent)
        self.network = Network(recurrent, network.head, network.output, network.scaler)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Tell of each sequence, (B, T, D), as `Network` does, and of classes their probabilities, (B, C).

        NaN for a sequence that is nothing but padding.
        """
        step_T = torch.arange(1, x_BTD.size(1) + 1, device=x_BTD.device)
        lengths_B = (~x_BTD.isnan().all(-1) * step_T).amax(1)
        told = self.network(x_BTD, lengths_B.clamp(min=1))
        if self.network.output.kind == "classification":
            told = told.softmax(-1)
        return torch.where((lengths_B > 0).view(-1, *[1] * (told.dim() - 1)), told, torch.nan)


# What torch.export writes for a network: no custom object, no compiled library.
_RECORDS = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|data/weights/(weight_\d+|model_weights_config\.json)|"
    r"data/constants/(tensor_\d+|model_constants_config\.json)|(archive_|\.data/)?version|archive_format|byteorder|"
    r"\.data/serialization_id"
)
_TYPES = {5: torch.int64, 7: torch.float32, 8: torch.float64, 12: torch.bool}  # as torch.export numbers them


class ArchiveError(UserError):
    """An archive can't be trusted, or is none; the message names the record."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a pt2 archive, which are raw numbers there: nothing else in it is used, and nothing runs.

    torch.export.load is for archives that are trusted: it unpickles what says that it is a pickle, and evaluates as
    Python what the program tells of guards, symbols and names.

    Raises:
        ArchiveError: if it is no archive of a network, or a pickle in it is more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content: dict[str, bytes] = {}
            for info in archive.infolist():
                name = info.filename.partition("/")[2]
                if not _RECORDS.fullmatch(name) or name in content or info.compress_type != zipfile.ZIP_STORED:
                    raise ArchiveError(f"{name[-60:]} in its archive is nothing that a network is stored with")
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
        raise ArchiveError(f"{sample} in its archive is more than tensors ({error})") from error
    return weights


def _tensors(content: dict[str, bytes], kind: str) -> dict[str, Tensor]:
    folder = f"data/{kind}"
    tensors = {}
    for name, entry in json.loads(content[f"{folder}/model_{kind}_config.json"])["config"].items():
        record = f"{folder}/{entry['path_name']}"
        if entry["use_pickle"] is not False:
            raise ArchiveError(f"{record[-60:]} in its archive is a pickle")
        meta = entry["tensor_meta"]
        size, stride = ([number["as_int"] for number in meta[key]] for key in ("sizes", "strides"))
        flat = torch.frombuffer(bytearray(content[record]), dtype=_TYPES[meta["dtype"]])
        if flat.numel() != math.prod(size):
            raise ValueError(f"{record} has {flat.numel():,} numbers, not {math.prod(size):,}")
        tensors[name] = flat.as_strided(size, stride, meta["storage_offset"]["as_int"])
    return tensors
