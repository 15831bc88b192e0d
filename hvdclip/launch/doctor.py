"""The doctor: what may be wrong with an installation, a launch or a cluster, one line each, with what to do."""

from __future__ import annotations

import shutil
import socket
import statistics
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from rich.markup import escape

from hvdclip.comm import Communicator
from hvdclip.config import Config
from hvdclip.errors import message_of
from hvdclip.hosts.facts import Facts, facts, interfaces, sharing
from hvdclip.hosts.preflight import check_tasks
from hvdclip.project import SET_UP
from hvdclip.training.job import Job, choose_device
from hvdclip.training.provenance import code_sha256, versions

LATE_S = 2.0  # if clocks differ by more, heartbeats are misleading
LEAST_FREE = 2**30
MESSAGES = {"4 bytes": 1, "64 MB": 2**24}  # floats
REPETITIONS = 7


class Finding(NamedTuple):
    """What was checked and found; `advice` is empty if all is well."""

    what: str
    seen: str
    advice: str = ""


def row(finding: Finding) -> str:
    """A line for the terminal, and a second one with what to do."""
    mark = "[red]  ![/red]" if finding.advice else "[green] ok[/green]"
    line = f"{mark}  {escape(f'{finding.what:<22}')} {escape(finding.seen)}"
    return f"{line}\n     {'':<22} [red]{escape(finding.advice)}[/red]" if finding.advice else line


def examine(comm: Communicator, run: Path | None, config: Config | None) -> Iterator[Finding]:
    """All findings, the same on all ranks, which must all call it."""
    choose_device("cpu", comm)  # with as many threads as in training
    everyone = comm.gather(facts(comm))
    yield from _software(comm)
    yield from _world(everyone)
    yield from _gpus(everyone)
    networks = dict(comm.gather((socket.gethostname(), ", ".join(interfaces()))))
    yield Finding("network", "; ".join(f"{host}: {network}" for host, network in networks.items()))
    yield _clocks(comm)
    yield from _all_reduces(comm, torch.device("cpu"))
    yield from _on_gpus(comm, bool(sharing(everyone)))
    if run is not None:
        yield from _folder(comm, run)
    if config is not None:
        yield _data(comm, config)


def _software(comm: Communicator) -> Iterator[Finding]:
    mine = {**versions(), "code": code_sha256()[:12]}
    everyone = comm.gather(mine)
    text = ", ".join(f"{name} {version}" for name, version in mine.items())
    differ = any(theirs != everyone[0] for theirs in everyone)
    yield Finding("versions", text, "ranks have different ones: install the same everywhere" if differ else "")
    try:
        import horovod.torch as hvd
    except ImportError as error:
        yield Finding("Horovod", "none", f"run {SET_UP} ({error})")
        return
    built = {"MPI": hvd.mpi_built(), "Gloo": hvd.gloo_built(), "NCCL": hvd.nccl_built(), "CUDA": hvd.cuda_built()}
    has = ", ".join(name for name, there in built.items() if there)
    missing = torch.cuda.is_available() and not built["NCCL"]
    yield Finding("Horovod", f"built with {has}", f"run {SET_UP} on a machine with CUDA and NCCL" if missing else "")
    if hvd.is_initialized() and hvd.mpi_enabled():
        from mpi4py import MPI

        yield Finding("MPI", MPI.Get_library_version().splitlines()[0].strip().split(", package")[0])


def _world(everyone: Sequence[Facts]) -> Iterator[Finding]:
    hosts: dict[str, list[Facts]] = {}
    for one in everyone:
        hosts.setdefault(one.host, []).append(one)
    where = ", ".join(f"{len(ranks)} on {host}" for host, ranks in hosts.items())
    advice = ""
    try:
        check_tasks(everyone)
    except ValueError as error:
        advice = str(error)
    yield Finding("ranks", f"{len(everyone)}: {where}", advice)
    crowded = []
    for host, ranks in hosts.items():
        wanted, cores = sum(one.threads for one in ranks), len({core for one in ranks for core in one.cores})
        if wanted > cores:
            crowded.append(f"{wanted} threads on {cores} cores of {host}")
    threads = f"{everyone[0].threads} per rank, {len(everyone[0].cores)} cores"
    yield Finding(
        "threads", threads, f"{'; '.join(crowded)}: set OMP_NUM_THREADS, or use fewer ranks" if crowded else ""
    )


def _gpus(everyone: Sequence[Facts]) -> Iterator[Finding]:
    if not any(one.gpus for one in everyone):
        yield Finding("GPUs", "none")
        return
    seen = ", ".join(f"rank {one.rank}: {one.gpu} of {','.join(one.gpus) or 'none'} on {one.host}" for one in everyone)
    shared = [f"ranks {', '.join(str(one.rank) for one in ranks)}" for ranks in sharing(everyone)]
    advice = (
        f"{'; '.join(shared)} share one: start as many ranks per node as GPUs, or set comm.share_gpus" if shared else ""
    )
    if not torch.cuda.is_available():
        advice = advice or "torch has no CUDA here, so training would be on the CPU"
    yield Finding("GPUs", seen, advice)


def _clocks(comm: Communicator) -> Finding:
    comm.gather(None)
    now = comm.gather(time.time())
    apart = max(now) - min(now)
    advice = "heartbeats and locks need equal clocks: let NTP set the hosts' clocks" if apart > LATE_S else ""
    return Finding("clocks", f"within {apart:.3f} s", advice)


def _on_gpus(comm: Communicator, shared: bool) -> Iterator[Finding]:
    """The averages that training on GPUs takes, if there are GPUs."""
    if not any(comm.gather(torch.cuda.is_available())):
        return
    device, mistake = torch.device("cpu"), ""
    try:
        device = choose_device("cuda", comm)
        comm.take_gpus(shared)
    except ValueError as error:
        mistake = str(error)
    wrong = next(filter(None, comm.gather(mistake)), "")
    yield Finding("GPUs average by", "nothing" if wrong else comm.gpus_go_by, wrong)
    if not wrong:
        yield from _all_reduces(comm, device)


def _all_reduces(comm: Communicator, device: torch.device) -> Iterator[Finding]:
    for name, floats in MESSAGES.items():
        message, took = torch.full((floats,), comm.rank + 1.0, device=device), []
        for _ in range(REPETITIONS):
            comm.gather(None)
            start = time.perf_counter()
            comm.average_([message], "doctor")
            ends = message[[0, -1]].tolist()  # this waits for a GPU
            took.append(time.perf_counter() - start)
        middle = statistics.median(took[1:])
        off = max(comm.gather(max(abs(end - (comm.size + 1) / 2) for end in ends)))
        wire = 2 * (comm.size - 1) / comm.size * 4 * floats
        rate = f", {8e-9 * wire / middle:.2f} Gbit/s on the wire of a ring" if floats > 1 and comm.size > 1 else ""
        where = "" if device.type == "cpu" else " of GPUs"
        advice = f"the mean is off by {off:g}: run {SET_UP} again" if off > 1e-5 * comm.size else ""
        yield Finding(f"all-reduce of {name}{where}", f"{1e3 * middle:.3g} ms{rate}", advice)


def _folder(comm: Communicator, run: Path) -> Iterator[Finding]:
    """Free space, and whether all hosts see what one of them writes."""
    place = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    free = min(comm.gather(shutil.disk_usage(place).free))
    yield Finding("free space", f"{free / 1e9:.1f} GB in {place}", "free some space" if free < LEAST_FREE else "")
    probe = Path(comm.gather(str(place / f".hvdclip-{uuid.uuid4().hex}"))[0])
    wrong = ""
    try:
        if comm.rank == 0:
            probe.write_text("")
    except OSError as error:
        wrong = f"cannot be written: {error.strerror}"
    wrong = comm.gather(wrong)[0]
    seen = comm.gather(wrong or probe.exists())
    if comm.rank == 0:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    blind = [rank for rank, sees in enumerate(seen) if not sees]
    advice = wrong or (f"ranks {', '.join(map(str, blind))} do not see what rank 0 writes there" if blind else "")
    yield Finding("run directory", str(run), advice and f"{advice}: choose one on a shared file system")


def _data(comm: Communicator, config: Config) -> Finding:
    """The checksum of the data on every host."""
    mine, mistake = "", ""
    try:
        mine = str(Job(config, comm).read[1])
    except (ValueError, OSError) as error:
        mistake = message_of(error)
    everyone = comm.gather((socket.gethostname(), mine, mistake))
    wrong = dict.fromkeys(f"{host}: {said}" for host, _, said in everyone if said)
    if wrong:
        return Finding(f"data of {config.data['name']}", "not read", "; ".join(wrong))
    found = {host: value for host, value, _ in everyone}
    alike = len(set(found.values())) == 1
    text = mine[:40] if alike else "; ".join(f"{host}: {value[:40]}" for host, value in found.items())
    return Finding(f"data of {config.data['name']}", text, "" if alike else "hosts differ: copy the data again")
