"""A GPU that is not there: tensors of a device of their own ("meta", which builds for CPUs know) that live in
the CPU's memory.

Operations that mix them with tensors of the CPU fail, as they would on a GPU; what makes the CPU wait for it
is written down.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("meta")
WAITS = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "is_nonzero",
    "equal",
    "repeat_interleave",
    "allclose",
)
INDEXED = (
    "index",
    "index_put",
    "index_put_",
    "_index_put_impl_",
)  # the numbers of an index may lie on the CPU
waits: list[str] = []


class Pretend(torch.Tensor):
    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Any:
        sizes = dict(strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype)
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, device=GPU, **sizes)
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl
    __torch_dispatch__ = classmethod(
        lambda cls, func, types, args=(), kwargs=None: dispatch(func, args, kwargs or {})
    )

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(copied(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(copied(index), value)

    def tolist(self) -> Any:
        waits.append("tolist")
        return self.inner.tolist()


def copied(index: Any) -> Any:
    """Lists of numbers in an index are copied there, which torch does without an operation."""
    if isinstance(index, tuple):
        return tuple(copied(part) for part in index)
    if isinstance(index, list):
        waits.append("index by a list")
        return Pretend(torch.tensor(index))
    return index


class PretendGPU(TorchDispatchMode):
    """Make tensors that are asked for on GPU Pretend ones. `waits` names what a GPU was waited for."""

    def __enter__(self) -> PretendGPU:
        waits.clear()
        self.tensor = torch.tensor  # which is no operation

        def tensor(data: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
            made = self.tensor(
                tree_map(lambda part: part.item() if isinstance(part, Pretend) else part, data), **kwargs
            )
            if device is None or torch.device(device) != GPU:
                return made
            waits.append("torch.tensor")
            return Pretend(made)

        torch.tensor = tensor
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.tensor = self.tensor
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [part for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)]
    there = [part for part in tensors if isinstance(part, Pretend)]
    here = [part for part in tensors if not isinstance(part, Pretend) and part.ndim]
    asked = kwargs.get("device")
    target = torch.device(asked) if asked is not None else GPU if there else torch.device("cpu")
    if name == "copy_":
        target = args[0].device
    in_index = (
        [part for part in tree_leaves(args[1]) if isinstance(part, torch.Tensor)] if name in INDEXED else []
    )
    if name in ("_to_copy", "copy_"):
        crossing = {part.device for part in (*there, *here)} | {target}
        waits.extend(
            [name] if len(crossing) > 1 and not kwargs.get("non_blocking") and (there or here) else []
        )
    elif (
        there
        and in_index
        and isinstance(args[0], Pretend)
        and all(any(part is one for one in in_index) for part in here)
    ):
        if here or any(part.dtype == torch.bool for part in in_index):
            waits.append(
                f"{name} by numbers of the CPU, or by a mask"
            )  # those are copied first; of this, the True are counted
    elif there and here:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {name} got some on the GPU, some on the CPU"
        )
    elif there and name.startswith(WAITS):
        waits.append(name)
    if there and name == "_fused_sdp_choice":
        return 0  # attention of plain operations
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if "pin_memory" in kwargs:
        kwargs = {**kwargs, "pin_memory": False}  # which needs a real one
    originals = {id(part.inner): part for part in there}
    args, kwargs = tree_map(lambda part: part.inner if isinstance(part, Pretend) else part, (args, kwargs))
    found = func(*args, **kwargs)
    if target != GPU:
        return found

    def pretended(part: Any) -> Any:
        if not isinstance(part, torch.Tensor):
            return part
        original = originals.get(id(part))  # of operations in place
        return Pretend(part) if original is None else original

    return tree_map(pretended, found)


def move(model: nn.Module) -> nn.Module:
    """Have a model's weights there, in place."""
    for module in model.modules():
        for name, value in [*module._parameters.items()]:
            module._parameters[name] = (
                None if value is None else nn.Parameter(Pretend(value.detach()), requires_grad=False)
            )
        for name, value in [*module._buffers.items()]:
            module._buffers[name] = None if value is None else Pretend(value)
    return model
