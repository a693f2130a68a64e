"""Say what a file that should hold weights is instead, and the line that makes a weights file of it. Loads nothing."""

from __future__ import annotations

import io
import json
import pickletools
import zipfile
from collections import deque

from kd.console import printable_name

LFS = b"version https://git-lfs"  # the start of a pointer
LFS_POINTER = "is a pointer of Git LFS, not the file itself. Run git lfs pull"
_ZIP = b"PK\x03\x04"
START = 64  # bytes in which a text shows its kind
_LONGEST = 60  # characters of a name in a message
_PICKLES = (b"\x02", b"\x03", b"\x04", b"\x05")  # versions of the protocol
_UNPACK = "Unpack it, and pass the file inside"
_FORMATS = {  # first bytes of other files
    b"\x1f\x8b": f"compressed by gzip. {_UNPACK}",
    b"BZh": f"compressed by bzip2. {_UNPACK}",
    b"\xfd7zXZ\0": f"compressed by xz. {_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"compressed by zstd. {_UNPACK}",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive. {_UNPACK}",
    b"Rar!": f"a RAR archive. {_UNPACK}",
    b"\x89HDF": "an HDF5 file, such as Keras's weights. Export the model to ONNX, and pass --teacher FILE.onnx",
    b"\x93NUMPY": "a single NumPy array, not weights by name",
    b"GGUF": "a GGUF file, whose weights are quantised. Pass the weights as saved by PyTorch",
}
# The first pickle in a file of torch.save before version 1.6: this number, and nothing else.
_OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PLAIN = ("torch", "collections", "builtins", "__builtin__", "_codecs")  # modules of what a state_dict needs
# What training programs save besides weights: read as placeholders (``kd.storage.untrusted``).
RECORDS = (
    *("argparse.Namespace", "functools.partial", "numpy.", "pathlib.", "datetime.", "omegaconf."),
    *("torch.nn.modules.", "torch.nn.functional.", "torch._C._nn.", "torch.optim.", "torch.torch_version."),
    *("__builtin__.dict", "__builtin__.list", "__builtin__.int"),  # of a defaultdict
)
DICTIONARIES = (  # read as dictionaries
    *("pytorch_lightning.utilities.parsing.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict"),
    *(
        "lightning.fabric.utilities.data.AttributeDict",
        "easydict.EasyDict",
        "yacs.config.CfgNode",
        "addict.addict.Dict",
    ),
)
# Layers of models. Anything else may be an attack.
_HARMLESS = (*RECORDS, *DICTIONARIES, "kd.models.")
_MODELS = ("torch.nn.modules.", "kd.models.")
_MODEL, _MARK = object(), object()  # in a simulated unpickler
_SAVE = 'torch.save({}, "weights.pth")'


def explain_file(content: bytes, *, safetensors: bool = False) -> str | None:
    """Return what the content is and how to get its weights; None for an unknown or damaged file.

    Args:
        safetensors: whether the file is called .safetensors, and may be such a file.
    """
    if safetensors and content[8:9] == b"{":
        return None
    if found := explain_stand_in(content) or _recognise(content):
        return found
    if content.startswith(_OLD) and not zipfile.is_zipfile(io.BytesIO(content)):
        return _advise("it was written by torch.save before version 1.6", 'torch.load("FILE", weights_only=True)')
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            # torch stores members uncompressed; a compressed one could expand to any size
            stored = [member for member in archive.infolist() if member.compress_type == zipfile.ZIP_STORED]
            pickled = next((archive.read(member) for member in stored if member.filename.endswith("/data.pkl")), b"")
    except Exception:  # any type that zipfile raises for damaged content
        return "it is cut off: its end is missing. Download or copy it again" if content.startswith(_ZIP) else None
    if not any(name.endswith("/data.pkl") for name in names):
        return _explain_archive(names)
    if any(name.endswith("/constants.pkl") for name in names):
        return _advise("it is a TorchScript model", 'torch.jit.load("FILE").state_dict()')
    foreign = _find_globals(pickled)
    if code := [name for name in foreign if not name.startswith(_HARMLESS)]:
        return f"it is not a file of tensors: it names {code[0]}, code that would run if it were loaded"
    if any(name.startswith("torch.nn.modules.") for name in foreign):
        keys = _find_model(pickled)
        kind = f"it {'holds' if keys else 'is'} a whole model and its classes"
        entry = "".join(f"[{json.dumps(key)}]" for key in keys)
        return _advise(kind, f'torch.load("FILE", weights_only=False){entry}.state_dict()')
    if foreign:
        return _advise(
            f"besides weights it holds a {foreign[0]}, as the checkpoints of training programs do",
            'torch.load("FILE", weights_only=False)["state_dict"]',
        )
    return None


def explain_stand_in(content: bytes) -> str | None:
    """Return what stands in place of a file, whatever its format: a pointer of Git LFS, a web page, or nothing.

    Args:
        content: the whole file, or its first bytes.
    """
    start = content[:START].lstrip().lower()
    if content.startswith(LFS):
        return f"it {LFS_POINTER}"
    if not content.strip(b"\0"):
        return f"it {'is empty' if not content else 'holds zeros only'}. Download or copy it again"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, such as a server's answer in place of the file. Download the file itself"
    return None


def _recognise(content: bytes) -> str | None:
    """Return what a file of another format is, by its first bytes."""
    start = content[:START].lstrip().lower()
    if start.startswith((b"{", b"[")) and _is_json(content):
        return "it is JSON text, such as a configuration, not weights. Pass the file of weights"
    for magic, kind in _FORMATS.items():
        if content.startswith(magic):
            return f"it is {kind}"
    if content[257:262] == b"ustar":
        return "it is a tar archive. Unpack it, and pass the file of weights inside"
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
        return "it is a file of safetensors. Rename it to FILE.safetensors"
    if content[:1] == b"\x80" and content[1:2] in _PICKLES and not content.startswith(_OLD):
        return _advise("it is a pickle, not a file of torch.save", 'pickle.load(open("FILE", "rb"))')
    return None


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _explain_archive(names: list[str]) -> str:
    """Return what an archive without a pickle of torch.save is, by the names of its members."""
    if any(name.rpartition("/")[2] == "archive_format" for name in names):
        return _advise("it is a program of torch.export", 'dict(torch.export.load("FILE").state_dict)')
    if names and all(name.endswith(".npy") for name in names):
        expression = '{name: torch.as_tensor(value) for name, value in numpy.load("FILE").items()}'
        return _advise("it holds NumPy arrays, not tensors", expression)
    shown = f", such as {printable_name(names[0][:_LONGEST])}" if names else ""
    return f"it is an archive of other files{shown}. Unpack it, and pass the file of weights inside"


def explain_arrays() -> str:
    """Return how to make a weights file of a dictionary of NumPy arrays."""
    items = 'torch.load("FILE", weights_only=False).items()'
    return _advise("it holds NumPy arrays, not tensors", f"{{name: torch.as_tensor(value) for name, value in {items}}}")


def _advise(kind: str, expression: str) -> str:
    runs_code = "weights_only=False" in expression or "pickle.load" in expression
    warning = ", which runs code of the file, so only if you trust it" if runs_code else ""
    return f"{kind}. Write the weights alone: {_SAVE.format(expression)}{warning}"


def _find_globals(pickled: bytes) -> list[str]:
    """Return the classes and functions that a pickle names, as module.name, except those that tensors need."""
    names: list[str] = []
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name == "GLOBAL":
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except ValueError:  # a damaged pickle
        return []
    return [name for name in names if name.startswith("torch.nn.modules.") or name.partition(".")[0] not in _PLAIN]


def _find_model(pickled: bytes) -> list[str]:
    """Return the keys that lead to the first model in nested dictionaries; none if the content itself is a model."""
    pending: deque[tuple[list[str], object]] = deque([([], _read_dictionaries(pickled))])
    seen = set[int]()  # a dictionary may hold another one many times
    while pending:
        keys, value = pending.popleft()
        if value is _MODEL:
            return keys
        if isinstance(value, dict) and id(value) not in seen:
            seen.add(id(value))
            pending += [([*keys, key], item) for key, item in value.items()]
    return []


def _read_dictionaries(pickled: bytes) -> object:
    """Return the dictionaries of a pickle by their text keys; a model is ``_MODEL``, any other value None."""
    stack, memo, result = list[object](), dict[object, object](), None
    for opcode, argument, _ in pickletools.genops(pickled):
        name, before = opcode.name, opcode.stack_before
        if name.endswith("PUT") and stack:
            memo[argument] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo.get(argument))
        else:
            items: list[object] = []
            if pickletools.markobject in before:
                at = next((index for index in reversed(range(len(stack))) if stack[index] is _MARK), 0)
                items, before = stack[at + 1 :], before[: before.index(pickletools.markobject)]
                del stack[at:]
            start = max(0, len(stack) - len(before))
            items = stack[start:] + items
            del stack[start:]
            stack += [_combine(name, argument, items)] * len(opcode.stack_after)
            result = items[0] if name == "STOP" and items else None
    return result


def _combine(name: str, argument: object, items: list[object]) -> object:
    """Return the value that an operation makes of the items that it takes from the stack."""
    first = items[0] if items else None
    if name in ("SETITEM", "SETITEMS") and isinstance(first, dict):
        first |= {key: value for key, value in zip(items[1::2], items[2::2], strict=False) if isinstance(key, str)}
    if name == "GLOBAL":
        return _MODEL if str(argument).startswith(_MODELS) else None
    if name in ("SETITEM", "SETITEMS", "NEWOBJ", "REDUCE", "BUILD"):
        return first
    created: dict[str, object] = {"EMPTY_DICT": {}, "MARK": _MARK, "BINUNICODE": argument}
    return created.get(name)
