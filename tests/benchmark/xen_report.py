#!/usr/bin/python3 -B
"""xen_report.py: what `tests/bench xen` has measured, as a table, as JSON and as a plot.

    xen_report.py --logs DIRECTORY --goals FILE --samples FILE --json FILE --plot FILE

DIRECTORY is that of a run of tests/xen: guests/guest-bench.log has fio's reports, bench.clocks what
dom0 has spent before and after each. How medians, ratios and intervals come about: peers_report.py."""

import argparse
import json
import os
import re
import sys
from statistics import median

import svg
from peers_report import Samples, goal_records, interval_ranks, machine, ratio, spread

OURS, PEER = "blkgated", "blkback+nbd.ko"
# For the goals' sake named as in peers: the costs of hypercalls are not made up, but Xen's.
SCENE = {"server": "nbdkit", "transport": "unix", "costs": "off", "guests": 1}
FIGURES = ("iops", "bytes_per_s", "p50_us", "p99_us", "p999_us")
SPENT = ("cpu_us_per_request", "dom0_cpu_us_per_request", "server_cpu_us_per_request",
         "player_cpu_us_per_request", "cpu_user_part", "ring_requests", "dom0_switches",
         "daemon_switches", "dom0_busy")
COMPARED = ("iops", "p50_us", "p99_us", "dom0_cpu_us_per_request", "server_cpu_us_per_request")
TICK_US = 10000
SECTOR = 512
EMULATED = ("The CPU is emulated (QEMU's TCG): a system call or a switch to the hypervisor costs there many\n"
            "times what it does on a real one, measured by the work around it. That punishes a backend in\n"
            "user space. These figures are reported and gate nothing; they do not say which backend is\n"
            "faster on a machine.")


# -- what a run of the lab has left ----------------------------------------------------------------
def words(text):
    return dict(word.split("=", 1) for word in text.split())


class Run:
    """One run of fio: what it was, what it said, the guest's and dom0's counters around it."""

    def __init__(self, what):
        self.what = words(what)
        self.clocks, self.fio, self.stat = {}, None, None

    def spent(self, what):
        return int(self.clocks["after"][what]) - int(self.clocks["before"][what])

    def sample(self):
        job = self.fio["jobs"][0]
        side = max(job["read"], job["write"], key=lambda side: side["total_ios"])
        latencies_ns = side["lat_ns"]["percentile"]
        sample = SCENE | {
            "backend": self.what["backend"], "pattern": self.what["pattern"],
            "depth": int(self.what["depth"]), "round": int(self.what["round"]),
            "seconds": side["runtime"] / 1000, "iops": side["iops"],
            "bytes_per_s": side["bw_bytes"], "p50_us": latencies_ns["50.000000"] / 1000,
            "p99_us": latencies_ns["99.000000"] / 1000,
            "p999_us": latencies_ns["99.900000"] / 1000,
            "player_cpu_us_per_request": (job["usr_cpu"] + job["sys_cpu"]) * 1e4 / side["iops"]}
        return sample | self.per_request(side["io_bytes"] / side["total_ios"])

    def per_request(self, request_bytes):
        """Clocks and counters include the time in which fio warms up, as do the requests here."""
        before, after = self.stat[:len(self.stat) // 2], self.stat[len(self.stat) // 2:]
        grown = [b - a for a, b in zip(before, after)]
        requests = (grown[2] + grown[6]) * SECTOR / request_bytes
        figures = {
            "ring_requests": (grown[0] + grown[4]) / requests,
            "dom0_cpu_us_per_request": self.spent("dom0_ticks") * TICK_US / requests,
            "dom0_switches": self.spent("dom0_switches") / requests,
            "dom0_busy": self.spent("dom0_ticks") / self.spent("uptime_ticks"),
            "server_cpu_us_per_request": self.spent("server_ns") / 1000 / requests}
        if self.what["backend"] == OURS:
            user, system = self.spent("daemon_user_ticks"), self.spent("daemon_system_ticks")
            figures |= {"cpu_us_per_request": self.spent("daemon_ns") / 1000 / requests,
                        "cpu_user_part": user / max(user + system, 1),
                        "daemon_switches": self.spent("daemon_switches") / requests}
        return figures


def runs_read(directory):
    """Only whole runs: the last one of a lab that failed is not."""
    runs = {}
    with open(os.path.join(directory, "bench.clocks"), encoding="utf-8") as file:
        for line in file:
            kind, number, rest = line.split(maxsplit=2)
            if kind == "play":
                runs[number] = Run(rest)
            else:
                when, figures = rest.split(maxsplit=1)
                runs[number].clocks[when] = words(figures)
    disks = {}
    with open(os.path.join(directory, "guests", "guest-bench.log"), encoding="utf-8",
              errors="replace") as file:
        for line in file:
            found = re.match(r"GUEST: (fio|stat|disk) (\S+) (.*)", line)
            if not found:
                continue
            kind, number, rest = found.groups()
            if kind == "disk":
                disks[number] = words(rest)
            elif kind == "fio":
                runs[number].fio = json.loads(rest)
            else:
                runs[number].stat = [int(word) for word in rest.split()]
    return [run for run in runs.values() if run.fio], disks


# -- what is written -------------------------------------------------------------------------------
def row_record(samples, row, backend):
    record = {"backend": backend, "server": row[0], "transport": row[1], "guests": row[3],
              "pattern": row[4], "depth": row[5], "rounds": len(samples.rounds[row, backend])}
    for figure in FIGURES:
        record[figure], record[figure + "_lo"], record[figure + "_hi"] = (
            round(value, 3) for value in spread(samples.values(row, backend, figure)))
    for figure in SPENT:
        values = samples.values(row, backend, figure)
        record[figure] = round(median(values), 4) if values else None
    return record


def ratio_record(samples, row):
    record = {"against": PEER, "pattern": row[4], "depth": row[5]}
    for figure in COMPARED:
        record[figure], record[figure + "_lo"], record[figure + "_hi"] = (
            round(value, 4) for value in ratio(samples, row, PEER, figure))
    return record


# -- what people read ------------------------------------------------------------------------------
HEAD = ("  %-13s %4s  %-14s %7s %7s %8s %8s %8s %6s %6s %6s %6s %6s %6s" % (
    "pattern", "deep", "backend", "IOPS", "MB/s", "p50 us", "p99", "p99.9", "ring", "dom0", "daemon",
    "server", "switch", "busy"))


def row_line(record):
    def figure(name, form="%6.0f"):
        return form % record[name] if record[name] is not None else "%6s" % "-"

    return "  %-13s %4d  %-14s %7.0f %7.1f %8.0f %8.0f %8.0f %s %s %s %s %s %s" % (
        record["pattern"], record["depth"], record["backend"], record["iops"],
        record["bytes_per_s"] / 1e6, record["p50_us"], record["p99_us"], record["p999_us"],
        figure("ring_requests", "%6.2f"), figure("dom0_cpu_us_per_request"),
        figure("cpu_us_per_request"), figure("server_cpu_us_per_request"),
        figure("dom0_switches", "%6.2f"), figure("dom0_busy", "%6.2f"))


def table_print(records):
    print("\n" + HEAD)
    for record in records:
        print(row_line(record))


def ratios_print(ratios, goals):
    def times(record, figure):
        return "%5.2f [%5.2f %5.2f]" % tuple(record[figure + end] for end in ("", "_lo", "_hi"))

    print("\n  blkgated's figures to those of %s, pair by pair\n  %-13s %4s  %-20s %-6s  %-20s %-20s %s" % (
        PEER, "pattern", "deep", "IOPS x", "hoped", "dom0's CPU x", "p50 x", "p99 x"))
    for record in ratios:
        goal = goal_of(goals, record)
        print("  %-13s %4d  %-20s %-6s  %-20s %-20s %s" % (
            record["pattern"], record["depth"], times(record, "iops"),
            ">= %.1f" % goal if goal else "", times(record, "dom0_cpu_us_per_request"),
            times(record, "p50_us"), times(record, "p99_us")))


def goal_of(goals, record):
    return next((goal["goal"] for goal in goals if goal["measure"] == "iops" and
                 all(goal[key] == record[key] for key in ("pattern", "depth"))), None)


def notes_print(rounds, covered):
    print("\nMedians of %d pairs: in each fio played on the one disk, then on the other of the same"
          "\nguest. [low high] holds the ratio's median with a probability of %.1f %%. ring: requests in"
          "\nthe ring for one of fio's. CPU in us and context switches of dom0 for one of fio's: dom0: all"
          "\nof it; daemon: blkgated's; server: nbdkit's. busy: how much of the time dom0's CPU was."
          "\n\n%s" % (rounds, 100 * covered, EMULATED))


def plot(path, ratios, goals, remarks):
    bars = []
    for record in ratios:
        goal = goal_of(goals, record)
        bars.append(svg.Bar("%s, depth %d" % (record["pattern"], record["depth"]), {
            "ratio": record["iops"], "lo": record["iops_lo"], "hi": record["iops_hi"],
            "goal": goal, "met": goal is None or record["iops"] >= goal}, None))
    with open(path, "w", encoding="utf-8") as file:
        file.write(svg.draw("blkgated and %s in an emulated Xen" % PEER, remarks,
                            [("IOPS, blkgated's to the kernel's: further right is better", bars)]))


def main():
    parser = argparse.ArgumentParser()
    for name in ("--logs", "--goals", "--samples", "--json", "--plot"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    runs, disks = runs_read(args.logs)
    if not runs:
        sys.exit("xen-report: no samples")
    with open(args.samples, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(run.sample()) + "\n" for run in runs)
    samples = Samples(args.samples)
    records = [row_record(samples, row, backend) for row in samples.rows
               for backend in samples.backends(row)]
    ratios = [ratio_record(samples, row) for row in samples.rows
              if {OURS, PEER} <= set(samples.backends(row))]
    goals = goal_records(samples, args.goals)
    rounds = max(record["rounds"] for record in records)
    _, covered = interval_ranks(rounds)
    table_print(records)
    ratios_print(ratios, goals)
    notes_print(rounds, covered)
    where = machine() | {"lab": "Xen 4.17 in QEMU (TCG), dom0 and guest: Linux 6.1 PV, one CPU each"}
    with open(args.json, "w", encoding="utf-8") as file:
        json.dump({"machine": where, "emulated": EMULATED.replace("\n", " "), "disks": disks,
                   "interval_probability": covered, "rows": records, "ratios": ratios,
                   "hoped_for": goals}, file, indent=1)
    plot(args.plot, ratios, goals, [
        "%(lab)s, on %(cpus)d x %(cpu)s, %(commit)s" % where,
        "An emulated CPU makes system calls and switches dear, which punishes user space: no figure of a real machine's.",
        "bar: the median (green: as hoped, or nothing was); whisker: its interval; blue: what was hoped for"])
    print("\nwritten: %s, %s" % (args.json, args.plot))


if __name__ == "__main__":
    main()
