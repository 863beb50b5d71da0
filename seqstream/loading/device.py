"""Copies batches to the device, ahead of the consumer."""

from __future__ import annotations

import dataclasses

import torch

from seqstream.batches.batch import Batch


@dataclasses.dataclass
class Transfer:
    """Copies batches to a device; to CUDA from pinned memory and on a stream of its own, so that it overlaps with training.

    Args:
        device: Where the tensors go; ``None`` to leave them.
        pin_memory: Whether batches pass through page-locked memory; ``None`` means where it helps: on the way to CUDA.
    """

    device: torch.device | None
    pin_memory: bool | None
    _stream: torch.cuda.Stream | None = None

    @property
    def has_work(self) -> bool:
        """Whether batches are copied at all."""
        return self.device is not None or bool(self.pin_memory)

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU of CUDA."""
        return self.device is not None and self.device.type == "cuda"

    def send(self, batch: Batch) -> tuple[Batch, torch.cuda.Event | None]:
        """Start the copy of a batch; return it, and the event of the end of the copy where that is asynchronous."""
        if self.is_cuda if self.pin_memory is None else self.pin_memory:
            batch = batch.pin_memory()
        if self.device is None:
            return batch, None
        if not self.is_cuda:
            return batch.to(self.device), None
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch does not type it
        with torch.cuda.stream(self._stream):
            moved = batch.to(self.device, non_blocking=True)
            return moved, self._stream.record_event()

    def receive(self, batch: Batch, event: torch.cuda.Event | None) -> Batch:
        """Let the current stream of the consumer wait for the copy, and not the consumer; return the batch."""
        if event is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(event)
            for tensor in batch.device_tensors():
                tensor.record_stream(stream)
        return batch
