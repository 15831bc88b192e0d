"""The time of a training step if the memory that steps free is reused, as in hvdclip, relative to glibc's default.

    python jobs/kept_memory.py [PAIRS]

An LSTM language model with the vocabulary of WikiText-2, whose logits are larger than what glibc keeps of itself. Each
pair is two processes, one after the other, in an order that alternates.
"""

import os
import subprocess
import sys

import numpy as np

# a tunable's default value: hvdclip does not configure glibc if any tunable is set
ENVIRONMENTS = {"kept": {}, "glibc's": {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}}
LANGUAGE = {"vocabulary": 33278, "embedding": 200, "hidden": 200, "layers": 2}


def seconds_of_a_step() -> float:
    from hvdclip.bench.blocks import Peer, measure
    from hvdclip.bench.train import STEP, WAYS, Task
    from hvdclip.comm import SingleRank
    from hvdclip.training.memory import keep_freed

    keep_freed()
    comm = SingleRank()
    step = WAYS[STEP](Task(LANGUAGE, comm)).step
    return measure([Peer(STEP, step)], comm, 15).median(STEP)


def compare(pairs: int) -> None:
    plain = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    ratios = []
    for pair in range(pairs):
        found = {}
        for way in sorted(ENVIRONMENTS, reverse=bool(pair % 2)):
            environment = plain | {"OMP_NUM_THREADS": "1"} | ENVIRONMENTS[way]
            command = [sys.executable, __file__, "step"]
            found[way] = float(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
        ratios.append(found["kept"] / found["glibc's"])
    first, middle, third = np.quantile(ratios, (0.25, 0.5, 0.75))
    print(f"kept to glibc's: {middle:.2f} (quartiles {first:.2f} to {third:.2f}, {pairs} pairs)")


match sys.argv[1:]:
    case ["step"]:
        print(seconds_of_a_step())
    case more:
        compare(int(more[0]) if more else 7)
