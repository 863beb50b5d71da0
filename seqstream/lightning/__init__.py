"""Loaders in Lightning; needs ``pip install "seqstream[lightning]"``.

from seqstream.lightning import StreamData, log_loss, predict

data = StreamData(train=loader, valid=valid)
trainer.fit(module, datamodule=data, ckpt_path=checkpoint)  # goes on with exactly the next batch
for row_id, piece, value in predict(trainer, module, test):  # in the order of the source
    ...
"""

from seqstream.options import require

require("lightning>=2.5.3")

from seqstream.lightning.data import StreamData, log_loss, predict  # noqa: E402 - the library is there

__all__ = ["StreamData", "log_loss", "predict"]
