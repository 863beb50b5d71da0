"""Loaders in Hugging Face's Trainer; needs ``pip install "seqstream[transformers]"``.

A `Loader` goes where a data set goes, and nothing else of the script changes:

    from seqstream.transformers import StreamTrainer

    trainer = StreamTrainer(model=model, args=args, train_dataset=loader, eval_dataset=valid)
    trainer.train(resume_from_checkpoint=True)
    output = trainer.predict(test)

`StreamMixin` does the same for a Trainer of another class: ``class MyTrainer(StreamMixin, Seq2SeqTrainer): ...``.
"""

from seqstream.options import require

require("transformers>=4.57", "accelerate>=1.3")

from seqstream.transformers.evaluation import Predictions  # noqa: E402 - the library is there
from seqstream.transformers.trainer import StreamMixin, StreamTrainer  # noqa: E402

__all__ = ["Predictions", "StreamMixin", "StreamTrainer"]
