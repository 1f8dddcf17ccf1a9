# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Train and test on two CPU processes and write the images given to each; started by a test."""

import json
import sys

from anomalib_inctrl.data import GeneralistDataModule
from tests.data.test_generalist import Recorder, trainer

if __name__ == "__main__":
    sources, visa, output = sys.argv[1:]
    auxiliary = json.loads(sources)
    # The target without masks makes the loader use its own batch sampler, which Lightning has to rebuild.
    datamodule = GeneralistDataModule(
        auxiliary,
        [
            {"datamodule": "Visa", "root": visa},
            {**auxiliary[1], "options": {**auxiliary[1]["options"], "val_split_mode": "none"}},
        ],
        train_batch_size=4,
        eval_batch_size=4,
        steps_per_epoch=3,
        num_workers=0,
    )
    engine = trainer(".", strategy="ddp", devices=2)
    model = Recorder(needs_one_class_queries=True)
    engine.fit(model, datamodule=datamodule)
    engine.test(model, datamodule=datamodule)
    with open(f"{output}{engine.global_rank}.json", "w") as file:  # noqa: PTH123
        json.dump(model.seen, file)
