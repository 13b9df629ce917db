"""A request's inputs from the words of a command line.

    VALUE                 for the model's only input, or the only one that is not named
    name=VALUE            JSON if it parses, text otherwise; where the model declares STRING it is text, always
    name=@file.npy        an array; also @file.json, and @anything-else as text
    name=- or name=@-     text from standard input
    name=@@text           a text that begins with @
    name:INT64=VALUE      a tensor of that dtype, where the model declares nothing

With --lines every line of standard input is the value for name=-, or for the only input that is not named.

A tensor is made from a JSON list of numbers where the model declares a tensor, in the declared dtype; and where it
declares nothing, as FP32 unless another dtype is named, whether the numbers are whole or not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from inferd.cli.common import find_model, signature_text, type_text
from inferd.errors import InferdError
from inferd.wire.tensor import ITEM_BYTES, Spec

if TYPE_CHECKING:
    import numpy

_NAMED = re.compile(rf"([A-Za-z_][A-Za-z0-9_.-]*)(?::({'|'.join(ITEM_BYTES)}))?=(.*)", re.DOTALL)
# Above this FP32 does not have every whole number.
MAX_WHOLE_FP32 = 1 << 24
STDIN = ("-", "@-")
_JSON_TYPES: dict[str, tuple[type, ...]] = {"NUMBER": (int, float), "BOOLEAN": (bool,), "LIST": (list,), "MAP": (dict,)}


class Inputs:
    """What a model takes, and how to make it from text."""

    def __init__(self, models: Sequence[dict[str, Any]], name: str, read_stdin: Callable[[], str]) -> None:
        description = find_model(models, name)
        rows = description.get("inputs")
        self.model = name
        self.declared: dict[str, Spec] | None = None
        if rows is not None:
            self.declared = {name: Spec(name, dtype, tuple(shape)) for name, dtype, shape in rows}
        self._takes = signature_text(rows)
        self._read_stdin = read_stdin
        self._stdin_used = False
        self._dtypes: dict[str, str] = {}  # by name, where the command line names one

    def parse(self, arguments: Sequence[str], lines: bool = False) -> tuple[dict[str, Any], str]:
        """The inputs that `arguments` give, and with `lines` the name of the one that the lines are for."""
        named: dict[str, str] = {}
        bare: list[str] = []
        for argument in arguments:
            match = _NAMED.fullmatch(argument)
            if match is None:
                bare.append(argument)
                continue
            name, dtype, text = match.groups()
            if self.declared is not None and name not in self.declared:
                problem = f"model {self.model!r} has no input {name!r}; it takes {self._takes}"
                only = self._open_input({})
                if only:
                    problem += f". For a value that begins like this, write {only}='{name}=…'"
                raise click.UsageError(problem)
            if name in named:
                raise click.UsageError(f"the input {name!r} is given twice")
            if dtype:
                self._dtypes[name] = dtype
                if self.declared and self.declared[name].dtype != dtype:
                    takes = type_text(self.declared[name].dtype, self.declared[name].shape)
                    raise click.UsageError(f"input {name!r}: model {self.model!r} takes {takes}, not {dtype}")
            named[name] = text
        if len(bare) > 1:
            raise click.UsageError(f"{len(bare)} inputs have no name: write name=VALUE (quote a text with blanks)")
        if lines and bare:
            raise click.UsageError("with --lines the input comes from standard input; others are given as name=VALUE")
        marked = [name for name, text in named.items() if lines and text in STDIN]
        place = marked[0] if marked else self._open_input(named) if bare or lines else ""
        if marked:
            del named[place]
        if (bare or lines) and not place:
            if self.declared is None:
                problem = f"model {self.model!r} does not declare its inputs, so they need names"
            else:
                problem = f"model {self.model!r} takes {self._takes}"
            raise click.UsageError(f"{problem}: write {'name=- for the lines' if lines else 'name=VALUE'}")
        if bare:
            named[place] = bare[0]
        if not named and not lines and self.declared != {}:
            raise click.UsageError(f"model {self.model!r} needs an input; it takes: {self._takes}")
        return {name: self._argument(name, text) for name, text in named.items()}, place

    def line(self, name: str, text: str) -> Any:
        """The value of a line of standard input: JSON or text, never the content of a file."""
        return self._value(name, text)

    def _open_input(self, named: dict[str, str]) -> str:
        """The only declared input that is not in `named`, or ""."""
        names = [name for name in self.declared or {} if name not in named]
        return names[0] if len(names) == 1 else ""

    def _argument(self, name: str, text: str) -> Any:
        if text in STDIN:
            if self._stdin_used:
                raise click.UsageError("only one input can come from standard input")
            self._stdin_used = True
            return self._value(name, self._read_stdin())
        if text.startswith("@@"):
            return self._value(name, text[1:])
        if text.startswith("@"):
            return self._file(name, text[1:])
        return self._value(name, text)

    def _file(self, name: str, path: str) -> Any:
        try:
            if path.endswith(".npy"):
                return self._cast(name, _load(path))
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            raise InferdError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, EOFError) as error:
            what = "an array file that holds plain numbers" if path.endswith(".npy") else "text in UTF-8"
            raise InferdError(f"{path} is not {what}") from error
        if self._spec(name).dtype == "STRING":
            return text
        if path.endswith(".json"):
            try:
                return self._from_json(name, _read_json(text))
            except ValueError as error:
                raise InferdError(f"{path} is not valid JSON: {error}") from error
        if self._spec(name).is_tensor:
            raise click.UsageError(f"input {name!r}: {path} is text; a tensor comes from an .npy or a .json file")
        return text

    def _spec(self, name: str) -> Spec:
        return (self.declared or {}).get(name) or Spec(name, self._dtypes.get(name, "ANY"), ())

    def _expected(self, spec: Spec) -> str:
        """`model 'm' takes FP32[4]`, for messages."""
        if self.declared is None:
            return spec.dtype
        return f"model {self.model!r} takes {type_text(spec.dtype, spec.shape)}"

    def _value(self, name: str, text: str) -> Any:
        spec = self._spec(name)
        if spec.dtype == "STRING":
            return text
        try:
            value = _read_json(text)
        except ValueError:
            if spec.dtype != "ANY":
                raise click.UsageError(f"input {name!r}: {self._expected(spec)} and {text!r:.60} is not JSON") from None
            return text
        return self._from_json(name, value)

    def _from_json(self, name: str, value: Any) -> Any:
        spec = self._spec(name)
        if spec.is_tensor:
            return self._tensor(spec, value)
        kinds = _JSON_TYPES.get(spec.dtype)
        if kinds and (not isinstance(value, kinds) or (spec.dtype == "NUMBER" and isinstance(value, bool))):
            raise click.UsageError(f"input {name!r}: model {self.model!r} takes {spec.dtype}, got {value!r:.60}")
        if self.declared is None and isinstance(value, list):
            guess = _guess(name, value)
            return value if guess is None else guess
        return value

    def _tensor(self, spec: Spec, value: Any) -> Any:
        import numpy

        try:
            array = numpy.array(value)
        except ValueError:
            array = numpy.array(None)
        if array.dtype.kind not in "biuf":
            raise click.UsageError(
                f"input {spec.name!r}: {self._expected(spec)}: a number, a list of numbers (lists of "
                "equal lengths for more dimensions), or @file.npy"
            )
        if array.ndim == 0 and all(size in (1, -1) for size in spec.shape):
            array = array.reshape((1,) * len(spec.shape))
        return self._cast(spec.name, array)

    def _cast(self, name: str, array: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
        """`array` in the declared dtype, if no kind of number is lost on the way (1.5 is no INT64)."""
        import numpy
        from inferd_client.codec import NUMPY_DTYPES

        spec = self._spec(name)
        if not spec.is_tensor:
            return array
        if spec.dtype == "BF16":
            raise click.UsageError(f"input {name!r} is BF16, which numpy cannot make; use the Python client and torch")
        dtype = NUMPY_DTYPES[spec.dtype]
        if array.size == 0 or _fits(array, numpy.dtype(dtype)):
            return array.astype(dtype, copy=False)
        raise click.UsageError(f"input {name!r}: {self._expected(spec)}, got {array.dtype} numbers that do not fit")


def _load(path: str) -> numpy.ndarray[Any, Any]:
    """The array of an .npy file. Raises ValueError, EOFError or OSError: also for an archive of several, which numpy
    reads under any name, whole or broken."""
    import zipfile

    import numpy

    try:
        loaded = numpy.load(path, allow_pickle=False)
    except zipfile.BadZipFile as error:
        raise ValueError("it is the beginning of an archive") from error
    if isinstance(loaded, numpy.ndarray):
        return loaded
    loaded.close()
    raise ValueError("it is an archive of arrays")


def _read_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError if it is none."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InferdError("an input is nested too deep to be read; make it flatter") from error


def _fits(array: numpy.ndarray[Any, Any], dtype: numpy.dtype[Any]) -> bool:
    """Whether these numbers can be written in `dtype`: whole ones within its limits, others but for their precision."""
    import numpy

    if array.dtype.kind in "iu" and dtype.kind in "iu":
        limits = numpy.iinfo(dtype)
        return bool(limits.min <= int(array.min()) and int(array.max()) <= limits.max)
    return numpy.can_cast(array.dtype, dtype, "same_kind")


def _guess(name: str, value: list[Any]) -> Any:
    """An FP32 tensor from nested lists of numbers of one shape; None if they are something else."""
    import numpy

    try:
        array = numpy.array(value)
    except (ValueError, OverflowError):
        return None
    if array.dtype.kind not in "iuf" and array.size:
        return None
    if array.dtype.kind in "iu" and abs(array).max() > MAX_WHOLE_FP32:
        raise click.UsageError(f"input {name!r}: FP32 does not have all of these whole numbers; write {name}:INT64=…")
    return array.astype(numpy.float32)
