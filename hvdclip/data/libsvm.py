"""Samples from LIBSVM text files: a line is a label and then index:value pairs, `-1 3:1 11:0.5`."""

import re
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from .folder import data_folder
from .labelled import Labelled

NUMBER = rb"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
LINE = re.compile(rb"[ \t]*%b(?:[ \t]+\d{1,9}:%b)*[ \t]*" % (NUMBER, NUMBER))
SHOWN = 60  # characters of a malformed line in its message
SOURCE = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets"


def libsvm(file: str, root: str | None = None, features: int | None = None) -> Labelled:
    """The samples of root/libsvm/file as dense float64 features (m, d), labels 0, 1, ... in the order of their values.

    root defaults to the environment variable HVDCLIP_DATA, d is features, by default the file's largest index. Indices
    count from 1 and ascend in a line; features that a line leaves out are 0. ValueError without a root, for too few
    features and, with the line's number, a malformed line; FileNotFoundError for a missing file. Format: Chang and Lin
    (2011).
    """
    path = _path(file, root)
    words = _words(path)
    rows = np.repeat(np.arange(len(words)), [len(line) // 2 for line in words])
    columns = np.fromiter(map(int, chain.from_iterable(line[1::2] for line in words)), np.int64, len(rows)) - 1
    values = np.fromiter(map(float, chain.from_iterable(line[2::2] for line in words)), np.float64, len(rows))
    targets = np.array([float(line[0]) for line in words])
    _check_indices(path, rows, columns)
    _check_finite(path, np.append(rows, np.arange(len(words))), np.append(values, targets))
    matrix = np.zeros((len(words), _width(path, columns, features)))
    matrix[rows, columns] = values
    labels = np.unique(targets, return_inverse=True)[1]
    return Labelled(torch.from_numpy(matrix), torch.from_numpy(labels.astype(np.int64)))


def _path(file: str, root: str | None) -> Path:
    folder = data_folder(root, file)
    path = folder / "libsvm" / file
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found: put the LIBSVM text file {file} there (many are at {SOURCE}); the folder "
            f"{folder} is data.root, by default the environment variable HVDCLIP_DATA"
        )
    return path


def _words(path: Path) -> list[list[bytes]]:
    """Each line as label, index, value, index, value, ..."""
    text = path.read_bytes()
    if not text.strip():
        raise ValueError(f"{path} is empty: it should hold lines such as '-1 3:1 11:0.5'")
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if not LINE.fullmatch(line):
            start = line[:SHOWN].decode(errors="replace")
            raise ValueError(
                f"{path}, line {number}: {start!r} is not a label and index:value pairs, such as '-1 3:1 11:0.5'"
            )
    return [line.replace(b":", b" ").split() for line in lines]


def _check_indices(path: Path, rows: np.ndarray, columns: np.ndarray) -> None:
    before = np.full_like(columns, -1)  # the index before each one in its line
    before[1:] = np.where(rows[1:] == rows[:-1], columns[:-1], -1)
    wrong = np.flatnonzero(columns <= before)
    if len(wrong):
        line, index, last = rows[wrong[0]] + 1, columns[wrong[0]] + 1, before[wrong[0]] + 1
        raise ValueError(
            f"{path}, line {line}: index is {index}; allowed: above {last}, since indices count from 1 and ascend"
        )


def _check_finite(path: Path, rows: np.ndarray, values: np.ndarray) -> None:
    wrong = rows[~np.isfinite(values)]
    if len(wrong):
        raise ValueError(f"{path}, line {wrong.min() + 1}: a number is too large for float64")


def _width(path: Path, columns: np.ndarray, features: int | None) -> int:
    largest = int(columns.max(initial=-1)) + 1
    if features is None:
        return largest
    if features < largest:
        raise ValueError(f"features is {features}; allowed: at least {largest}, the largest index in {path}")
    return features
