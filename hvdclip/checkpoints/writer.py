"""The writer: checkpoints in the background, one at a time; each rank writes its own file."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hvdclip.checkpoints import durable, tensors
from hvdclip.checkpoints.manifest import Manifest
from hvdclip.checkpoints.store import Store
from hvdclip.comm import Communicator
from hvdclip.errors import message_of

POLL_S = 0.05
PATIENCE_S = 600.0
Note = dict[str, Any]  # what a rank has written: {"files": {name: (bytes, SHA-256)}}, or {"error": why not}


@dataclass
class Contents:
    """What a rank gives the writer: tensors by the name of their file; rank 0 also texts, and files to keep."""

    step: int
    round: int
    tensors: Mapping[str, Any]
    texts: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, Path] = field(default_factory=dict)
    lines: Mapping[Path, int] = field(default_factory=dict)  # files that grow, and their current sizes
    versions: Mapping[str, str] = field(default_factory=dict)


class Writer:
    """Writes what the ranks give it, while they train.

    A rank's thread writes its files and then a note of them. Rank 0's thread waits for all notes, writes the manifest,
    renames the folder and removes old ones. Nothing is communicated meanwhile. A failure is one line from rank 0; older
    checkpoints stay complete, and training continues.
    """

    def __init__(self, store: Store, comm: Communicator, keep: int, say: Callable[[str], None]):
        self.store, self.comm, self.keep, self.say = store, comm, keep, say
        self.saved = self.failed = 0  # counted on rank 0
        self._thread: threading.Thread | None = None
        self._abandoned = False

    def start(self, contents: Contents) -> None:
        """Start to write; the previous checkpoint has been settled."""
        self._contents, self._part = contents, self.store.part(contents.step)
        self._note: Note = {}
        self._everyones: list[Note] = []
        self._written = threading.Event()
        try:
            self._part.mkdir(parents=True, exist_ok=True)
            for name, source in contents.links.items():
                _link(source, self._part / name)  # now, because another file may soon have its name
        except OSError as error:
            self._note = self._error(error)
        self._thread = threading.Thread(target=self._work, name="checkpoint", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait until what was started is on the disk, or has failed; all ranks must call it."""
        if self._thread is None:
            return
        if self.comm.rank == 0:
            self._written.wait()
        else:
            self._thread.join()  # no rank writes in the folder once the ranks have met
        # so rank 0 hears of every rank, even if notes cannot be written or appear late
        self._everyones = self.comm.gather(self._note, "checkpoint")
        self._thread.join()
        self._thread = None
        if self.comm.rank == 0:
            shutil.rmtree(self._part, ignore_errors=True)  # the folder of a checkpoint that has failed

    def finish(self) -> None:
        """Like settle; no rank continues before rank 0 has done its part."""
        self.settle()
        self.comm.gather(None, "checkpoint")

    def abandon(self) -> None:
        """Do not wait for other ranks, and leave none of this rank's threads running."""
        self._abandoned = True
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        if not self._note:
            try:
                self._note = {"files": self._write()}
            except Exception as error:  # whatever it is, training continues
                self._note = self._error(error)
        self._written.set()
        if self.comm.rank == 0:
            self._complete()
        else:
            with suppress(OSError):  # rank 0 then learns of it when the ranks settle
                durable.write_text(self._note_of(self.comm.rank), json.dumps(self._note))

    def _write(self) -> dict[str, durable.Checksum]:
        contents, part = self._contents, self._part
        files = {name: tensors.save(part / name, of) for name, of in contents.tensors.items()}
        files |= {name: durable.write_text(part / name, text) for name, text in contents.texts.items()}
        files |= {name: durable.checksum_of(part / name) for name in contents.links}
        for path, size in contents.lines.items():
            there = path.stat().st_size if path.exists() else 0
            if there < size:
                raise RuntimeError(f"{path} has {there} bytes; {size - there} more could not be written yet")
            if there:
                durable.sync(path)
        return files

    def _complete(self) -> None:
        """Rank 0's part, when its own files are written."""
        step = self._contents.step
        try:
            self._commit(self._notes())
        except Exception as error:  # as above
            self.failed += 1
            shutil.rmtree(self._part, ignore_errors=True)
            newest = self.store.newest()
            whole = "there is no complete one" if newest is None else f"the newest complete one is of step {newest}"
            self.say(f"the checkpoint of step {step} is not saved: {message_of(error)}; {whole}; training continues")
            return
        self.saved += 1
        try:
            self.store.prune(self.keep)
        except OSError as error:
            self.say(f"old checkpoints cannot be removed: {message_of(error)}")

    def _notes(self) -> list[Note]:
        """The notes of all ranks in order, or up to the first that has failed."""
        notes, until = [self._note], time.monotonic() + PATIENCE_S
        while len(notes) < self.comm.size and "error" not in notes[-1] and not self._everyones:
            note = self._note_of(len(notes))
            if note.exists():
                notes.append(json.loads(note.read_text()))
                note.unlink()
            elif self._abandoned:
                raise RuntimeError("ranks are gone")
            elif time.monotonic() > until:
                raise TimeoutError(f"rank {len(notes)} has not written its part in {PATIENCE_S:.0f} s")
            else:
                time.sleep(POLL_S)
        return self._everyones or notes

    def _commit(self, notes: list[Note]) -> None:
        for note in notes:
            if "error" in note:
                raise RuntimeError(note["error"])
        contents, part = self._contents, self._part
        files = {name: tuple(printed) for note in notes for name, printed in note["files"].items()}
        for rank in range(1, self.comm.size):
            self._note_of(rank).unlink(missing_ok=True)
        for name, (size, _) in files.items():
            if (part / name).stat().st_size != size:
                raise RuntimeError(
                    f"{name} is not on this host as it was written: the run directory must be on a shared file system"
                )
        manifest = Manifest(
            step=contents.step,
            round=contents.round,
            ranks=self.comm.size,
            versions=dict(contents.versions),
            lines={path.name: size for path, size in contents.lines.items()},
            files=files,
        )
        manifest.write(part)
        self.store.commit(contents.step)

    def _note_of(self, rank: int) -> Path:
        return self._part / f"rank-{rank:05d}.json"

    def _error(self, error: Exception) -> Note:
        return {"error": f"rank {self.comm.rank} on {socket.gethostname()}: {message_of(error)}"}


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:  # not all file systems have links
        shutil.copyfile(source, place)
