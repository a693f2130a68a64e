"""Weights inside the checkpoints of training programs, found by the names of the model's tensors.

Training programs save weights beside other things, under several names, and with prefixes of wrappers:

    {"state_dict": {"model.fc.weight": …}, "epoch": 3, "optimizer": …}    → {"fc.weight": …}
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd.console import printable_name

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # anywhere in a name
_HALF = (torch.float16, torch.bfloat16)
_DEPTH = 4  # of nested dictionaries
_SHOWN = 12  # names in a message
_LONGEST = 60  # characters of a name in a line
_ALL = "."  # name of weights that are not nested
_COUNTER = "num_batches_tracked"  # of batch norms, absent from files of other programs and of torch before 0.4.1


class FoundWeights(NamedTuple):
    """Weights under the names that were expected.

    Attributes:
        stripped: what was removed or converted to get them, in words.
        sha256: of the file, if they are from one.
    """

    state: Any
    stripped: list[str]
    sha256: str = ""


class _Candidate(NamedTuple):
    """A dictionary of a checkpoint, with the names that begin with a prefix.

    Attributes:
        path: keys from the checkpoint to the dictionary.
        state: its tensors, without prefix and wrappers in their names, and expected values that are no tensors.
        ignored: its other names.
        filled: names of counters that it lacks, which are 0 in the state.
    """

    path: tuple[str, ...]
    prefix: str
    state: dict[str, Any]
    ignored: list[str]
    wrappers: list[str]
    filled: list[str]

    @property
    def name(self) -> str:
        """Path and prefix, by which a user can choose this candidate."""
        return ".".join([*self.path, *filter(None, [self.prefix.rstrip(".")])]) or _ALL


def find_weights(content: object, expected: Mapping[str, Tensor], *, entry: str = "") -> FoundWeights:
    """Return the weights in the content of a file: the tensors whose names are exactly the expected ones.

    They may be in a nested dictionary, next to other entries, have a common prefix, as from ``DistributedDataParallel``
    (``module.``), ``torch.compile`` (``_orig_mod.``) or a Lightning module (``model.``), and be of half precision,
    which is converted. Missing counters of batches in batch norms are 0. The caller compares shapes and dtypes.

    Args:
        content: result of ``kd.storage.weights.load_tensors``.
        expected: a model's ``state_dict()``, on any device.
        entry: name of the weights, needed if there are several; such as ``state_dict_ema``.

    Raises:
        ValueError: there are no such tensors, several, or none called ``entry``.
    """
    if not expected:
        return FoundWeights(content, [])
    candidates = _list_candidates(content, expected)
    chosen = [candidate for candidate in candidates if candidate.name == entry]
    chosen = chosen or [c for c in candidates if not entry or f"{c.name}.".startswith(f"{entry}.")]
    if len(chosen) > 1:
        chosen = [candidate for candidate in chosen if _has_shapes(candidate.state, expected)] or chosen
    if len(chosen) > 1:
        names = [candidate.name for candidate in chosen]
        raise ValueError(
            f"it holds several weights that fit: {_format_names(names)}. Name one of them after the file, as in "
            f"FILE::{names[-1]}; in Python, entry={names[-1]!r}"
        )
    if not chosen:
        names = [candidate.name for candidate in candidates]
        found = f"it has no weights named {entry!r} that fit, only {_format_names(names)}"
        raise ValueError(found if candidates else _explain_absence(content, expected))
    state, conversions = _widen(chosen[0].state, expected)
    return FoundWeights(state, [*_describe_stripped(content, chosen[0]), *conversions])


def holds_tensors(content: object) -> bool:
    """Return whether the content or one of its nested dictionaries holds a tensor."""
    return any(isinstance(value, Tensor) for _, mapping in _walk(content) for value in mapping.values())


def describe_mismatch(state: Mapping[Any, object], expected: Mapping[str, Tensor]) -> str:
    """Describe expected and actual names: all names for a small model, only the differing ones for a large one."""
    missing = sorted(name for name in expected if name not in state)
    others = sorted(_format_key(name) for name in state if name not in expected)
    if (weights := [name for name in missing if not name.endswith(_COUNTER)]) or others:
        missing = weights  # counters may be absent
    if not missing:
        return f"it also has {_format_names(others)}, which this model lacks"
    if not others and len(missing) < len(expected):
        return f"it lacks {_format_names(missing)}"
    is_large = len(expected) > _SHOWN
    required = sorted(name for name in expected if not is_large or name not in state)
    got = sorted(_format_key(name) for name in state if not is_large or name not in expected)
    return f"it should hold {_format_names(required)}. Got {_format_names(got)} instead"


def _list_candidates(content: object, expected: Mapping[str, Tensor]) -> list[_Candidate]:
    """List the dictionaries, each with a prefix, that hold exactly the expected names, perhaps without counters."""
    candidates = []
    required = {name: tensor for name, tensor in expected.items() if name.rpartition(".")[2] != _COUNTER} or expected
    for path, mapping in _walk(content):
        names, wrappers = _unwrap(mapping, expected)
        complete = [prefix for prefix, count in _count_prefixes(names, required).items() if count == len(required)]
        for prefix in complete:
            # Another copy of the weights, such as "teacher." beside names without prefix, is no unexpected entry.
            others = tuple(other for other in complete if other.startswith(prefix) and other != prefix)
            state, ignored = _select(mapping, names, prefix, expected, others)
            filled = [name for name in expected if name not in state]
            state |= {name: torch.zeros((), dtype=expected[name].dtype) for name in filled}
            if len(state) == len(expected):
                candidates.append(_Candidate(path, prefix, state, ignored, wrappers, filled))
    return candidates


def _walk(content: object) -> Iterator[tuple[tuple[str, ...], Mapping[Any, object]]]:
    """Yield the content and its nested dictionaries, each once, with the keys that lead to it."""
    seen: set[int] = set()
    pending: deque[tuple[tuple[str, ...], object]] = deque([((), content)])
    while pending:
        path, mapping = pending.popleft()
        if not isinstance(mapping, Mapping) or id(mapping) in seen:
            continue
        seen.add(id(mapping))
        yield path, mapping
        if len(path) < _DEPTH:
            pending += [((*path, str(key)), value) for key, value in mapping.items()]


def _unwrap(mapping: Mapping[Any, object], expected: Mapping[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """Return the names without wrappers, each with its key; and the wrappers that were removed."""
    keys = [key for key in mapping if isinstance(key, str)]
    wrappers = [w for w in _WRAPPERS if any(w in key for key in keys) and not any(w in name for name in expected)]
    names = {}
    for key in keys:
        name = key
        for wrapper in wrappers:
            name = name.replace(wrapper, "")
        names[name] = key
    return (names, wrappers) if len(names) == len(keys) else ({key: key for key in keys}, [])


def _count_prefixes(names: Mapping[str, Any], expected: Mapping[str, Tensor]) -> Counter[str]:
    """Count, for each prefix that is empty or ends with a dot, how many names are the prefix and an expected name."""
    counts: Counter[str] = Counter()
    longest = max(name.count(".") for name in expected) + 1  # in parts
    for name in names:
        parts = name.split(".")
        for start in range(max(0, len(parts) - longest), len(parts)):
            if ".".join(parts[start:]) in expected:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return counts


def _select(
    mapping: Mapping[Any, object],
    names: Mapping[str, str],
    prefix: str,
    expected: Mapping[str, Tensor],
    others: tuple[str, ...] = (),
) -> tuple[dict[str, Any], list[str]]:
    """Return the expected values under a prefix, with all other tensors there that would be unexpected; and the names
    that are ignored.

    Args:
        names: result of ``_unwrap``.
        others: longer prefixes whose names are ignored.
    """
    state: dict[Any, Any] = {}
    ignored = []
    for key, value in mapping.items():
        if isinstance(key, str):
            continue
        if isinstance(value, Tensor) and not prefix:
            state[key] = value
        else:
            ignored.append(_format_key(key))
    for name, key in names.items():
        short = name.removeprefix(prefix)
        is_inside = name.startswith(prefix) and not name.startswith(others or ("\0",))
        if is_inside and (short in expected or isinstance(mapping[key], Tensor)):
            state[short] = mapping[key]
        else:
            ignored.append(key)
    return state, ignored


def _has_shapes(state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> bool:
    return all(isinstance(state[name], Tensor) and state[name].shape == t.shape for name, t in expected.items())


def _widen(state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """Convert tensors of half precision to float32 where that is expected, and describe the conversion."""
    halves = {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and value.dtype in _HALF and expected[name].dtype == torch.float32
    }
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in halves.values()})
    converted = {name: halves[name].float() if name in halves else value for name, value in state.items()}
    return converted, [f"converted from {' and '.join(kinds)} to float32"] if kinds else []


def _describe_stripped(content: Any, candidate: _Candidate) -> list[str]:
    ignored, level = [], content
    for key in candidate.path:
        ignored += [_format_key(other) for other in level if str(other) != key]
        level = next(value for other, value in level.items() if str(other) == key)
    names = [*ignored, *candidate.ignored]
    removed = [repr(text) for text in (candidate.prefix, *candidate.wrappers) if text]
    parts = {
        f"read the entry {'.'.join(candidate.path)!r}": candidate.path,
        f"removed {' and '.join(removed)} from the names": removed,
        f"ignored {_format_list(names)}": names,
        f"set {len(candidate.filled)} missing {_COUNTER} to 0": candidate.filled,
    }
    return [text for text, applies in parts.items() if applies]


def _explain_absence(content: object, expected: Mapping[str, Tensor]) -> str:
    """Describe how the closest dictionary differs from the expected names."""
    if not isinstance(content, Mapping):
        return f"it should hold {_format_names(sorted(expected))}. Got {type(content).__name__} instead"
    closest: tuple[int, str, Mapping[Any, object]] = (0, "", content)
    for path, mapping in _walk(content):
        names, _ = _unwrap(mapping, expected)
        for prefix, count in _count_prefixes(names, expected).most_common(1):
            if count > closest[0]:
                state, _ = _select(mapping, names, prefix, expected)
                place = f"in its entry {'.'.join(path)!r}, " if path else ""
                closest = count, place + (f"without the prefix {prefix!r}, " if prefix else ""), state
    return closest[1] + describe_mismatch(closest[2], expected)


def _format_names(names: list[str]) -> str:
    return f"{names[:_SHOWN]} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else str(names)


def _format_list(names: list[str]) -> str:
    names = [printable_name(name[:_LONGEST]) for name in names]
    return ", ".join(names) if len(names) <= _SHOWN else f"{', '.join(names[:_SHOWN])} and {len(names) - _SHOWN} more"


def _format_key(key: object) -> str:
    return key if isinstance(key, str) else type(key).__name__  # the repr of another key may be long
