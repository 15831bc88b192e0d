"""The problems with known answers, and the runs of them that simulated and real ranks make alike."""

from follow import Job

ETA = {"mushrooms": 1 / 2.786214, "a9a": 1 / 1.771920}

CANCELLING: list[Job] = [
    ({"name": "clip_then_average", "lr": 0.5, "max_norm": 1.0}, {"name": "cancelling"}, 60),
    ({"name": "clip21", "lr": 0.5, "tau": 1.0}, {"name": "cancelling"}, 60),
]

# H: f*, x*, gap and clip fraction of celgc, gap and clip fraction of episode
QUARTICS = {
    1: (-8.86328, 2.31137, 1.9e-3, 0.288, 4.9e-4, 0.005),
    2: (-11.65685, 2.41421, 2.3e-3, 0.977, 5.7e-4, 0.006),
    4: (-17.95047, 2.59789, 6.45, 0.964, 8.2e-4, 0.008),
    8: (-33.18027, 2.90816, 28.18, 1.000, 1.7e-3, 0.010),
}


def quartics(algorithm: str, heterogeneity: int, rounds: int = 500) -> Job:
    rule = {"name": algorithm, "lr": 0.01, "gamma": 0.05, "interval": 8}
    return rule, {"name": "quartics", "heterogeneity": float(heterogeneity)}, 8 * rounds


def _clipped(c: float) -> dict:
    return {"name": "clip_then_average", "max_norm": c}


# data, algorithm, ||grad f(x_k)||^2 and f(x_k) as printed for k = 10, 100, 1000; - is "below 1e-25"
LOGISTIC = [
    ("mushrooms", {"name": "minibatch_sgd"}, "6.3372e-01 3.344638  4.7067e-04 0.399471  3.9059e-07 0.358885"),
    (
        "mushrooms",
        {"name": "clip_then_average", "max_norm": 0.1},
        "3.9801e+00 15.078283  4.1464e+00 9.093507  1.1359e-02 0.376586",
    ),
    ("mushrooms", {"name": "clip21", "tau": 0.1}, "4.2153e+00 12.140680  6.9956e-04 0.385422  2.2124e-07 0.358877"),
    (
        "mushrooms",
        {"name": "clip_then_average", "max_norm": 0.01},
        "3.9224e+00 15.657761  3.9801e+00 15.078221  4.1467e+00 9.093485",
    ),
    ("mushrooms", {"name": "clip21", "tau": 0.01}, "3.9512e+00 15.368806  3.9091e+00 7.452795  1.7559e-05 0.413870"),
    ("a9a", {"name": "minibatch_sgd"}, "4.5623e-01 3.276616  1.0601e-07 0.505792  - 0.505791"),
    ("a9a", _clipped(0.1), "5.0746e+00 15.400504  1.2505e+00 4.932571  - 0.505791"),
    ("a9a", {"name": "clip21", "tau": 0.1}, "4.8164e+00 9.663311  1.5560e-04 0.506510  - 0.505791"),
]


def logistic(data: str, algorithm: dict, steps: int = 1000) -> Job:
    return algorithm | {"lr": ETA[data]}, {"name": "libsvm", "file": data}, steps


# what real ranks do, of the longer ones the beginning
JOBS = {
    "cancelling": CANCELLING,
    "quartics": [quartics(algorithm, h, rounds=40) for algorithm in ("celgc", "episode") for h in QUARTICS],
    "logistic": [logistic(data, algorithm, steps=100) for data, algorithm, _ in LOGISTIC],
}
