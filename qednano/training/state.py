"""Weights and moments by name, whole and in fp32, whatever ZeRO stage holds them and on however many ranks.

A checkpoint made of these fits any number of ranks and any stage, and can be read without DeepSpeed. Each rank keeps
the copies of some parameters, so that the files are shards of about equal size.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from qednano.errors import CheckpointError
from qednano.training.optim import GuardedAdamW

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
_PATTERN, _FACTS = "engine-*.safetensors", "qednano"


class OptimizerState:
    """Reads and writes the masters and moments of `parameters` (name, parameter) inside a DeepSpeed engine."""

    def __init__(self, parameters: Sequence[tuple[str, nn.Parameter]], adamw: GuardedAdamW, wrapper: Any, stage: int):
        self.parameters, self.adamw, self.wrapper, self.stage = list(parameters), adamw, wrapper, stage
        adamw.prepare(self._flat())
        if stage in (1, 2):
            wrapper._lazy_init_hp_params_optimizer_state()  # else moments are linked to parameters in the first step

    def _flat(self) -> list[nn.Parameter]:
        """What AdamW itself steps: the parameters, or ZeRO's partitions of them."""
        if self.stage == 3:
            return list(self.wrapper.fp32_partitioned_groups_flat)
        return [parameter for group in self.adamw.param_groups for parameter in group["params"]]

    @property
    def steps(self) -> int:
        """Updates that AdamW has made, for its bias correction."""
        return max((int(self.adamw.state[flat]["step"]) for flat in self._flat()), default=0)

    def snapshot(self, rank: int, ranks: int) -> dict[str, Tensor]:
        """CPU copies of this rank's share, as `kind:name`. Every rank must call it."""
        kept: dict[str, Tensor] = {}
        owners = _owners([_numel(parameter) for _, parameter in self.parameters], ranks)
        for (name, parameter), owner in zip(self.parameters, owners, strict=True):
            for kind in (WEIGHT, *MOMENTS):
                whole = self._whole(parameter, kind)
                if owner == rank:
                    kept[f"{kind}:{name}"] = whole.detach().to("cpu", copy=True)
        return kept

    def restore(self, read: Callable[[str], Tensor], steps: int) -> None:
        """Put back what `snapshot` gave: `read` finds the tensor of a `kind:name`. Every rank must call it."""
        for name, parameter in self.parameters:
            for kind in (WEIGHT, *MOMENTS):
                value = read(f"{kind}:{name}")
                if value.numel() != _numel(parameter):
                    raise CheckpointError(
                        f"{name} has shape {list(value.shape)} there, and {_numel(parameter)} elements here"
                    )
                self._put(parameter, kind, value.to(parameter.device))
        for flat in self._flat():
            self.adamw.state[flat]["step"].fill_(steps)

    def _whole(self, parameter: nn.Parameter, kind: str) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self.stage == 0:
            return parameter if kind == WEIGHT else self.adamw.state[parameter][kind]
        if kind == WEIGHT:
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, kind)

    def _put(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        if self.stage == 0:
            (parameter if kind == WEIGHT else self.adamw.state[parameter][kind]).data.copy_(value)
        elif self.stage < 3:
            parameter.set_full_hp_param(value, None if kind == WEIGHT else kind)  # type: ignore[attr-defined]
            if kind == WEIGHT:
                parameter.data.copy_(value)
        else:
            self._put_partition(parameter, kind, value)

    def _put_partition(self, parameter: Any, kind: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        size, place = parameter.ds_tensor.numel(), self.wrapper._get_param_partition_rank(parameter)
        padded = nn.functional.pad(value.flatten(), (0, size * (place + 1))).narrow(0, size * place, size)
        if kind != WEIGHT:
            safe_set_local_optimizer_state(parameter, padded, kind)
            return
        safe_set_local_fp32_param(parameter, padded)
        parameter.ds_tensor.data.copy_(padded)
        if parameter.data.numel() == value.numel():  # small parameters stay gathered
            parameter.data.copy_(value.view(parameter.ds_shape))


def _numel(parameter: nn.Parameter) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _owners(sizes: Sequence[int], ranks: int) -> list[int]:
    """Which rank keeps each parameter: the largest first, to whom has least."""
    loads = [(0, rank) for rank in range(ranks)]
    owners = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        load, rank = heapq.heappop(loads)
        owners[index] = rank
        heapq.heappush(loads, (load + sizes[index], rank))
    return owners


def write_shard(folder: Path, rank: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a rank's share into `folder`, with the facts about the engine."""
    save_file(tensors, folder / f"engine-{rank:05d}.safetensors", metadata={_FACTS: json.dumps(facts)})


class Shards:
    """The shards of a checkpoint, read tensor by tensor. A context manager; CheckpointError for what isn't there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> Shards:
        paths = sorted(self.folder.glob(_PATTERN))
        if not paths:
            raise CheckpointError(f"{self.folder} holds no engine's state ({_PATTERN})")
        for path in paths:
            file = self._stack.enter_context(safe_open(path, "pt"))
            self.facts = json.loads((file.metadata() or {}).get(_FACTS, "{}"))
            self._files.update(dict.fromkeys(file.keys(), file))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, key: str) -> Tensor:
        """The tensor of a `kind:name`."""
        if key not in self._files:
            raise CheckpointError(f"{self.folder} has no {key}: it is of another model")
        tensor: Tensor = self._files[key].get_tensor(key)
        return tensor

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name, fp32 weight) of every parameter that was trained."""
        for key in sorted(self._files):
            kind, _, name = key.partition(":")
            if kind == WEIGHT:
                yield name, self.read(key)
