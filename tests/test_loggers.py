"""Programs that follow a run: W&B offline and MLflow's own files; TensorBoard's tests are in test_cli.py.

The packages are optional: pip install -e '.[wandb,mlflow]'.
"""

import json

import pytest
import yaml
from click.testing import CliRunner

from hvdclip.cli import main
from hvdclip.config import ConfigError, check

JOB = {
    "algorithm": {"name": "celgc", "lr": 0.1, "gamma": 0.05, "interval": 4},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {
        "name": "synthetic",
        "samples": 64,
        "channels": 1,
        "side": 4,
        "classes": 4,
        "test_samples": 16,
        "batch": 16,
    },
    "train": {"steps": 20, "evaluate_every_steps": 8},
    "checkpoint": {"every_steps": 8},
}


def train(folder, log, *arguments):
    """What is said on stderr by a run that must end well."""
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB | {"log": log}))
    line = ["train", str(folder / "job.yaml"), "--run-dir", str(folder / "run"), *arguments]
    done = CliRunner().invoke(main, line)
    assert done.exit_code == 0, done.output
    return done.stderr


def resumed(folder, log):
    (folder / "run/summary.json").unlink()
    return train(folder, log, "--resume")


def rows(folder, name):
    return [json.loads(line) for line in (folder / "run" / f"{name}.jsonl").read_text().splitlines()]


def test_a_resumed_run_is_one_run_of_mlflow(tmp_path, monkeypatch):
    library = pytest.importorskip("mlflow", reason="mlflow is not installed: it is optional")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log = {"mlflow": {"tracking_uri": f"file:{tmp_path}/mlruns", "experiment": "clips"}}
    train(tmp_path, log)
    client = library.MlflowClient(log["mlflow"]["tracking_uri"])
    resumed(tmp_path, log)
    (run,) = client.search_runs([client.get_experiment_by_name("clips").experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert run.data.params["algorithm.gamma"] == "0.05" and run.data.params["train.steps"] == "20"
    for key in ("loss", "clip_fraction", "grad_norm_p90", "lr"):
        found = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, key)}
        assert found == pytest.approx({row["step"]: row[key] for row in rows(tmp_path, "metrics")}), key
    found = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "test/loss")}
    assert found == pytest.approx({row["step"]: row["loss"] for row in rows(tmp_path, "evals")})
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["summary.json"]


def records(file):
    """The byte strings of a .wandb file: LevelDB's log format, blocks of 32 KiB, after 7 bytes of its own."""
    content, place, parts = file.read_bytes(), 7, []
    while place + 7 <= len(content):
        if place % 2**15 > 2**15 - 7:  # no header fits into the rest of a block
            place += -place % 2**15
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def test_a_resumed_run_is_one_run_of_wandb(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed: it is optional")
    from wandb.proto.wandb_internal_pb2 import Record

    log = {"wandb": {"mode": "offline", "project": "clips"}}
    train(tmp_path, log)
    resumed(tmp_path, log)
    name = json.loads((tmp_path / "run/logged.json").read_text())["wandb"]
    files = sorted((tmp_path / "run/wandb").glob(f"offline-run-*-{name}/*.wandb"))
    assert len(files) == 2 and len(list((tmp_path / "run/wandb").glob("offline-run-*"))) == 2

    seen = {}
    for file in files:
        for data in records(file):
            record = Record()
            record.ParseFromString(data)
            line = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            if "loss" in line:
                seen[line["step"]] = line
            if record.HasField("run"):
                assert (record.run.run_id, record.run.project) == (name, "clips")
    lines = rows(tmp_path, "metrics")
    assert [seen[row["step"]]["loss"] for row in lines] == pytest.approx([row["loss"] for row in lines])
    assert seen[8]["grad_norm_p50"] == pytest.approx(lines[1]["grad_norm_p50"])


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_fails_is_named_once_and_ends_no_training(tmp_path, name, monkeypatch):
    library = pytest.importorskip(name, reason=f"{name} is not installed: it is optional")
    if name == "mlflow":
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        log = {"mlflow": {"tracking_uri": f"file:{tmp_path}/mlruns"}}
        monkeypatch.setattr(library.MlflowClient, "log_batch", lambda *_, **__: 1 / 0)
    else:
        log = {"wandb": {"mode": "offline"}}
        monkeypatch.setattr("wandb.sdk.wandb_run.Run.log", lambda *_, **__: 1 / 0)
    said = train(tmp_path, log)
    shown = {"wandb": "W&B", "mlflow": "MLflow"}[name]
    assert said.count(f"hvdclip: {shown}: division by zero; it gets nothing more, training continues") == 1
    assert json.loads((tmp_path / "run/summary.json").read_text())["exit"] == "done"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            {"wandb": {"projekt": "x"}},
            "log: wandb.projekt is 'x'; allowed keys: project, entity, group, name, tags, mode",
        ),
        ({"mlflow": 3}, "log.mlflow"),
    ],
)
def test_wrong_settings_are_one_line(log, message):
    with pytest.raises(ConfigError) as caught:
        check(JOB | {"log": log})
    assert message in str(caught.value)


def test_a_logger_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="log: wandb is True, but wandb is not installed: pip install wandb"):
        check(JOB | {"log": {"wandb": True}})
