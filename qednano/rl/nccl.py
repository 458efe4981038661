"""The trainer's end of a broadcast from GPU to GPU: NCCL, by the library that torch has loaded.

vLLM's worker meets a peer that is not torch's process group by an id that was made beforehand, and both begin with a
sum over one number. Only what that needs is bound here: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from qednano.errors import QedError

ID_BYTES = 128
_SUM = 0
_TYPES = {torch.float16: 6, torch.float32: 7, torch.bfloat16: 9}
_POLL_SECONDS = 0.002


class TransferFailed(QedError):
    """A broadcast did not come to its end; the servers concerned need the weights in another way."""

    reason = "TransferFailed"


class Link(Protocol):
    """The connection with the workers of one server; the trainer is rank 0."""

    def broadcast(self, tensor: Tensor) -> None:
        """Begin to send a tensor of the CPU."""
        ...

    def finish(self, failed: Callable[[], bool]) -> None:
        """Wait until all of it has arrived; TransferFailed, and the link is gone, once `failed()`."""
        ...

    def close(self) -> None:
        """Let go of it, whatever is under way."""
        ...


class Fabric(Protocol):
    """What makes links."""

    def unique_id(self) -> bytes:
        """An id for one link, to be told to the other side."""
        ...

    def join(self, unique_id: bytes, ranks: int) -> Link:
        """The link of that id; waits until all `ranks` are there."""
        ...


class _UniqueId(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_byte * ID_BYTES)]


class Nccl:
    """The fabric of real GPUs; links live on the current device."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libnccl.so.2")
        self.library.ncclGetErrorString.restype = ctypes.c_char_p
        pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        self.library.ncclCommInitRank.argtypes = [ctypes.POINTER(pointer), number, _UniqueId, number]
        self.library.ncclAllReduce.argtypes = [pointer, pointer, size, number, number, pointer, pointer]
        self.library.ncclBroadcast.argtypes = [pointer, pointer, size, number, number, pointer, pointer]
        self.library.ncclCommAbort.argtypes = [pointer]

    def call(self, name: str, *arguments: object) -> None:
        """Call it; TransferFailed with NCCL's words when it fails."""
        code = getattr(self.library, name)(*arguments)
        if code:
            raise TransferFailed(f"{name}: {self.library.ncclGetErrorString(code).decode()}")

    def unique_id(self) -> bytes:
        """128 bytes that name where rank 0 listens."""
        found = _UniqueId()
        self.call("ncclGetUniqueId", ctypes.byref(found))
        return bytes(found)

    def join(self, unique_id: bytes, ranks: int) -> NcclLink:
        """Rank 0 of the link; waits for the others."""
        communicator = ctypes.c_void_p()
        self.call("ncclCommInitRank", ctypes.byref(communicator), ranks, _UniqueId.from_buffer_copy(unique_id), 0)
        return NcclLink(self, communicator)


class NcclLink:
    """Sends from the current device, on its current stream."""

    def __init__(self, nccl: Nccl, communicator: ctypes.c_void_p) -> None:
        self._nccl, self._communicator = nccl, communicator
        one = torch.zeros(1, device="cuda")
        arguments = (one.data_ptr(), one.data_ptr(), 1, _TYPES[one.dtype], _SUM, communicator, _stream())
        nccl.call("ncclAllReduce", *arguments)

    def broadcast(self, tensor: Tensor) -> None:
        """Begin to send; the copy on the GPU is free again once it is sent, as both are on one stream."""
        copy = tensor.contiguous().to("cuda", non_blocking=True)
        arguments = (copy.data_ptr(), copy.data_ptr(), copy.numel(), _TYPES[copy.dtype], 0, self._communicator)
        self._nccl.call("ncclBroadcast", *arguments, _stream())

    def finish(self, failed: Callable[[], bool]) -> None:
        """Wait for the stream."""
        done = torch.cuda.Event()
        done.record()
        while not done.query():
            if failed():
                self.close()
                raise TransferFailed("the other side gave up")
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Abort what is under way, so that the stream goes on."""
        self._nccl.call("ncclCommAbort", self._communicator)


def _stream() -> int:
    return int(torch.cuda.current_stream().cuda_stream)
