"""A second device for machines that have none: its tensors say that they are on "meta", and compute on the CPU.

As on a GPU, a tensor that was not moved is an error, and reading a number means waiting, which is counted. Numbers are
those of the CPU, bit for bit. Memory, streams of work and rounding of a real device are not imitated.
"""

from collections import Counter

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

OTHER = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.masked_select}


class Elsewhere(Tensor):
    """A tensor on the other device; `here` holds its numbers."""

    @staticmethod
    def __new__(cls, here):
        form = here.shape, here.stride(), here.storage_offset()
        made = Tensor._make_wrapper_subclass(cls, *form, dtype=here.dtype, device=OTHER)
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of OtherDevice")


class OtherDevice(TorchDispatchMode):
    """While it is entered there is a second device. `waits` and `sends` count transfers from it and to it."""

    def __init__(self):
        super().__init__()
        self.waits, self.sends = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        elsewhere = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
        device = kwargs.get("device")
        if name is aten.copy_:
            device = args[0].device
        elif device is None:
            device = OTHER if elsewhere else CPU
        if not elsewhere and device != OTHER:
            return func(*args, **kwargs)
        both = len(elsewhere) < len(tensors)
        if name in (aten._to_copy, aten.copy_):
            if both or device == CPU:
                (self.waits if device == CPU else self.sends)[str(func)] += 1
        elif both and any(tensor.ndim for tensor in tensors if not isinstance(tensor, Elsewhere)):
            raise RuntimeError(f"{func} of tensors on both devices")
        elif name in READS or (name is aten.index and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.waits[str(func)] += 1
        real_args, real_kwargs = tree_map_only(Elsewhere, lambda tensor: tensor.here, (args, kwargs))
        if "device" in real_kwargs:
            real_kwargs["device"] = CPU
        done = func(*real_args, **real_kwargs)
        if device == CPU:
            return done
        return return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, Elsewhere, done))
