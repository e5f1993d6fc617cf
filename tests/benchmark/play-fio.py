#!/usr/bin/python3 -B
"""play-fio.py URI FIRST_BYTE BYTES: a player (player.h) whose every run is one of fio's, by its
libnbd engine, on that part of the export. Not of scattered I/Os, which fio does not know."""

import json
import subprocess
import sys
import tempfile

PATTERNS = {
    "4k-randread": ("randread", "4k"),
    "4k-randwrite": ("randwrite", "4k"),
    "4k-rw70": ("randrw", "4k"),
    "4k-seqread": ("read", "4k"),
    "4k-seqwrite": ("write", "4k"),
    "64k-seqread": ("read", "64k"),
    "64k-seqwrite": ("write", "64k"),
    "1m-seqread": ("read", "1m"),
    "1m-seqwrite": ("write", "1m"),
}


def fio(uri, first_byte, length, pattern, depth, seconds):
    """The figures of one run: its job alone, without the second that fio takes to start."""
    rw, block = PATTERNS[pattern]
    with tempfile.NamedTemporaryFile("r") as output:
        subprocess.run(
            ["fio", "--name=peer", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", f"--bs={block}",
             "--rwmixread=70", f"--iodepth={depth}", f"--offset={first_byte}", f"--size={length}",
             "--time_based", f"--runtime={int(seconds * 1000)}ms",
             f"--ramp_time={int(seconds * 200)}ms", "--unified_rw_reporting=1",
             "--lat_percentiles=1", "--clat_percentiles=0", "--percentile_list=50:99:99.9",
             "--output-format=json", f"--output={output.name}"],
            check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        text = output.read()
    job = json.loads(text[text.index("{"):])["jobs"][0]  # before it fio says that it connected
    every = job["mixed"]
    percentile = every["lat_ns"]["percentile"]
    return {
        "pattern": pattern, "depth": depth, "ios": every["total_ios"], "errors": job["error"],
        "wrong": 0, "seconds": every["runtime"] / 1000, "iops": every["iops"],
        "bytes_per_s": every["bw_bytes"],
        "p50_us": percentile["50.000000"] / 1000, "p99_us": percentile["99.000000"] / 1000,
        "p999_us": percentile["99.900000"] / 1000, "max_us": every["lat_ns"]["max"] / 1000,
        "cpu_us_per_request": (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] * 1000
                              / every["total_ios"],
    }


def main():
    uri, first_byte, length = sys.argv[1:4]
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        _, pattern, depth, seconds = line.split()
        try:
            answer = fio(uri, first_byte, length, pattern, int(depth), float(seconds))
        except (subprocess.CalledProcessError, KeyError, ValueError) as error:
            answer = {"error": f"fio: {error!r}"}
        print(json.dumps(answer), flush=True)


main()
