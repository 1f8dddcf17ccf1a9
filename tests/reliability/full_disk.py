# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Every way of writing, on a small disk that is really full or read-only.

    python -m tests.reliability.full_disk FOLDER

`test_disk.py` runs it in a process of its own. FOLDER is an empty disk that this process may mount anew. Prints a JSON
object: for each way and state of the disk, what came of it and whether the files there are as before.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.data.raw_trees import WRITERS
from tests.reliability.test_disk import WRITES, content


def fill(folder: Path, room: int) -> None:
    """Leave `room` bytes, to the page."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "filler").write_bytes(bytes(free - room))


def remount(folder: Path, how: str) -> None:
    """Mount a disk anew, `rw` or `ro`."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def main() -> None:
    disk = Path(sys.argv[1])
    raw = WRITERS["KolektorSDD"](disk.with_name("raw"))
    outcome = {}
    for what, write in WRITES.items():
        for room in ("full", "16 kB left", "read-only"):
            folder = disk / "results"
            folder.mkdir()
            (folder / "a.txt").write_bytes(b"old")
            if room == "read-only":
                remount(disk, "ro")
            else:
                fill(disk, 0 if room == "full" else 16_384)
            before = content(folder)
            try:
                write(folder, raw)
                found = "written"
            except OSError as error:
                found = os.strerror(error.errno)
            left = content(folder)
            outcome[f"{what}, {room}"] = [found, left == before]
            remount(disk, "rw")
            shutil.rmtree(folder)
            (disk / "filler").unlink(missing_ok=True)
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
