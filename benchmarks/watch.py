"""Time from a save of YOLO11n's file to its new summary on the screen: ``python benchmarks/watch.py [saves]``."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from netbuild.grammar.locate import packaged_architectures

FOOT = re.compile(r"^\d\d:\d\d:\d\d  .*?(\d+) ms$")
EDITS = ("[128, 3, 2]", "[192, 3, 2]")  # the row that makes p2, with two widths


def wait_for_redraw(stream) -> tuple[float, int]:
    """Wait for the next redraw: the time of its arrival, and the milliseconds that it reports."""
    for line in stream:
        if found := FOOT.match(line.rstrip()):
            return time.perf_counter(), int(found[1])
    raise SystemExit("the watch has ended")


def main() -> None:
    """Save edited copies of the file, and print the latencies."""
    saves = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "yolo11.yaml"
        text = packaged_architectures()["yolo11.yaml"].read_text(encoding="utf-8")
        assert text.count(EDITS[0]) >= 1
        file.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "netbuild", "watch", str(file), "--scale", "n"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
            wait_for_redraw(process.stdout)
            latencies, reported, before = [], [], cpu_seconds(process.pid)
            for i in range(saves):
                time.sleep(0.5 + 0.013 * i)  # so that saves do not keep step with the polling
                draft = file.with_suffix(".new")
                draft.write_text(text.replace(EDITS[0], EDITS[(i + 1) % 2], 1), encoding="utf-8")
                begin = time.perf_counter()
                os.replace(draft, file)
                end, milliseconds = wait_for_redraw(process.stdout)
                latencies.append((end - begin) * 1e3)
                reported.append(milliseconds)
            time.sleep(0.5)
            busy = cpu_seconds(process.pid)
            used = (busy - before) / saves
            time.sleep(5)
            idle = (cpu_seconds(process.pid) - busy) / 5
            process.terminate()
    latencies.sort()
    p95 = latencies[min(len(latencies) - 1, round(0.95 * len(latencies)))]
    print(f"{saves} saves: median {statistics.median(latencies):.0f} ms, p95 {p95:.0f} ms from save to summary")
    print(f"of these the summary itself {statistics.median(reported):.0f} ms; {1e3 * used:.0f} ms of CPU time per save")
    print(f"idle {100 * idle:.1f} % of a core")


def cpu_seconds(pid: int) -> float:
    """CPU time in seconds that a process has used (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
