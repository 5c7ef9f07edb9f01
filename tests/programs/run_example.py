"""Runs the README's example, and again without averaging its gradients.

    run_example.py EXAMPLE

Prints, as one JSON object from rank 0, what each rank had at the end of both.
"""

import json
import os
import pathlib
import random
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Left out the second time. AverageMetrics would refuse it.
_UNLIKE = (
    (r"processes = distributed\.start\(\)", ""),
    (r"optimizers\.distributed\((.*), processes\)", r"\1"),
    (r"callbacks\.AverageMetrics\(processes\),", ""),
)


def _train(example, names):
    # Keras takes the seeds of weights from here: ranks begin apart.
    random.seed(int(os.environ.get("HOROVOD_RANK", 0)))
    exec(compile(example, "README.md", "exec"), names)
    return {
        "weights": [w.ravel().tolist() for w in names["model"].get_weights()],
        "history": names["model"].history.history,
        "rate": float(names["model"].optimizer.learning_rate),
    }


def main():
    example = pathlib.Path(sys.argv[1]).read_text()
    names = {}
    averaged = _train(example, names)
    unlike = example
    for pattern, text in _UNLIKE:
        unlike, count = re.subn(pattern, text, unlike)
        if count != 1:
            raise ValueError(f"the example has {pattern} {count} times")
    apart = _train(unlike, names)
    processes = names["processes"]
    gathered = processes.gather_object({"averaged": averaged, "apart": apart})
    if processes.world.is_first:
        sys.stdout.write("RESULT " + json.dumps(gathered) + "\n")


if __name__ == "__main__":
    main()
