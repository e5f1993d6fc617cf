#!/usr/bin/python3 -B
"""peers_report.py: what `tests/bench peers` has measured, as a table, as JSON and as a plot.

    peers_report.py --goals FILE --samples FILE --json FILE --plot FILE --costs TEXT

A figure is the median of the rounds. Two backends are compared round by round: the ratio is the
median of the rounds' ratios, and its interval lies between two of them, so chosen that it holds the
true median with the probability that is said, whatever the distribution (the sign test's
interval). Goals are compared with the median; nothing here fails."""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from statistics import median

import svg

SCENE = ("server", "transport", "costs", "guests")
ROW = SCENE + ("pattern", "depth")
FIGURES = ("iops", "bytes_per_s", "p50_us", "p99_us", "p999_us", "cpu_us_per_request")
COUNTS = ("server_cpu_us_per_request", "player_cpu_us_per_request", "ring_requests",
          "grant_copy_calls", "copy_batches", "copy_ops", "notifies", "guest_notifies")
COMPARED = ("iops", "bytes_per_s", "cpu_us_per_request", "p50_us", "p99_us")
UNITS = {"iops": "IOPS", "bytes_per_s": "bandwidth", "cpu_us_per_request": "CPU a request",
         "p50_us": "p50 latency"}
CONFIDENCE = 0.95
LEGEND = ("bar: the median, hypercalls' costs off (green: goal met); whisker: its interval; blue: the goal; "
          "diamond: costs on")


def lines(path):
    """Those of a file that are neither empty nor a remark, without remarks."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            line = line.split("#")[0].strip()
            if line:
                yield line


# -- samples ---------------------------------------------------------------------------------------
class Samples:
    """The rounds of each backend in each row, and the system calls counted beside them."""

    def __init__(self, path):
        self.rounds, self.syscalls, self.rows = {}, {}, []
        for line in lines(path):
            sample = json.loads(line)
            row = tuple(sample[key] for key in ROW)
            if row not in self.rows:
                self.rows.append(row)
            if sample["round"] < 0:
                if "syscalls" in sample:
                    self.syscalls[row, sample["backend"]] = sample["syscalls"]
                continue
            self.rounds.setdefault((row, sample["backend"]), []).append(sample)

    def backends(self, row):
        return [backend for of_row, backend in self.rounds if of_row == row]

    def values(self, row, backend, figure):
        rounds = self.rounds.get((row, backend), [])
        return [sample[figure] for sample in rounds if figure in sample]


def interval_ranks(count):
    """How many values to leave out at either end, and the probability that the true median lies
    between those that stay."""
    best, covered = 0, 1 - 2 * 0.5 ** count
    for out in range(1, (count + 1) // 2):
        inside = 1 - 2 * sum(math.comb(count, k) for k in range(out + 1)) * 0.5 ** count
        if inside < CONFIDENCE:
            break
        best, covered = out, inside
    return best, covered


def spread(values):
    """Median, and the interval of it."""
    values = sorted(values)
    out, _ = interval_ranks(len(values))
    return median(values), values[out], values[len(values) - 1 - out]


def ratio(samples, row, other, figure):
    """blkgated's figure to another's, or None."""
    ours = samples.values(row, "blkgated", figure)
    theirs = samples.values(row, other, figure)
    pairs = [a / b for a, b in zip(ours, theirs) if b > 0]
    return spread(pairs) if pairs else None


# -- what is written -------------------------------------------------------------------------------
def row_record(samples, row, backend):
    record = {"backend": backend} | dict(zip(ROW, row))
    record["rounds"] = len(samples.rounds[row, backend])
    for figure in FIGURES:
        record[figure], low, high = (round(value, 3) for value in
                                     spread(samples.values(row, backend, figure)))
        record[figure + "_lo"], record[figure + "_hi"] = low, high
    for count in COUNTS:
        values = samples.values(row, backend, count)
        if values:
            record[count] = round(median(values), 4)
    if (row, backend) in samples.syscalls:
        record["syscalls"] = round(samples.syscalls[row, backend], 3)
    return record


def ratio_records(samples, row):
    records = []
    for other in samples.backends(row):
        if other == "blkgated" or "blkgated" not in samples.backends(row):
            continue
        record = {"against": other} | dict(zip(ROW, row))
        for figure in COMPARED:
            middle, low, high = (round(value, 4) for value in ratio(samples, row, other, figure))
            record[figure], record[figure + "_lo"], record[figure + "_hi"] = middle, low, high
        records.append(record)
    return records


def goals_read(path):
    for line in lines(path):
        against, pattern, depth, servers, measure, goal = line.split()
        yield {"against": against, "pattern": pattern, "depth": int(depth),
               "servers": servers.split(","), "measure": measure,
               "least": goal.startswith(">"), "goal": float(goal[2:])}


def goal_records(samples, path):
    """Each goal on each server, with costs off and on, as far as it was measured."""
    records = []
    for goal in goals_read(path):
        for server in goal["servers"]:
            for costs in ("off", "on"):
                row = (server, "unix", costs, 1, goal["pattern"], goal["depth"])
                seen = ratio(samples, row, goal["against"], goal["measure"])
                if not seen:
                    continue
                middle, low, high = seen
                met = middle >= goal["goal"] if goal["least"] else middle <= goal["goal"]
                record = {key: goal[key] for key in ("against", "pattern", "depth", "measure",
                                                     "least", "goal")}
                records.append(record | {"server": server, "costs": costs,
                                         "ratio": round(middle, 4), "lo": round(low, 4),
                                         "hi": round(high, 4), "met": met})
    return records


def machine():
    models = [line.split(":", 1)[1].strip() for line in lines("/proc/cpuinfo")
              if line.startswith("model name")]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True,
                            text=True, check=False).stdout.strip()
    return {"cpu": models[0] if models else platform.machine(), "cpus": os.cpu_count(),
            "kernel": platform.release(), "commit": commit}


# -- what people read ------------------------------------------------------------------------------
def times(seen):
    return "%5.2f [%5.2f %5.2f]" % seen if seen else ""


def row_line(samples, row, record):
    def count(name, form="%6.2f"):
        return form % record[name] if name in record else "-"

    against = {}
    if record["backend"] in ("qemu", "fio", "libnbd", "libnbd-merged"):
        against = {figure: ratio(samples, row, record["backend"], figure) for figure in COMPARED}
    return "  %-14s %4d  %-13s %8.0f %7.0f %8.0f %8.0f %8.0f %7.2f %7s %6s %6s %6s %6s  %s  %s" % (
        record["pattern"], record["depth"], record["backend"], record["iops"],
        record["bytes_per_s"] / 1e6, record["p50_us"], record["p99_us"], record["p999_us"],
        record["cpu_us_per_request"], count("server_cpu_us_per_request", "%7.2f"),
        count("syscalls"), count("grant_copy_calls"), count("copy_ops"), count("notifies"),
        times(against.get("iops")), times(against.get("cpu_us_per_request")))


def table_print(samples, records):
    head = "  %-14s %4s  %-13s %8s %7s %8s %8s %8s %7s %7s %6s %6s %6s %6s  %-19s  %s" % (
        "pattern", "deep", "backend", "IOPS", "MB/s", "p50 us", "p99", "p99.9", "CPU us", "server",
        "sysc", "copies", "ops", "notify", "blkgated: IOPS x", "CPU x")
    scene = None
    for record in records:
        row = tuple(record[key] for key in ROW)
        if row[:len(SCENE)] != scene:
            scene = row[:len(SCENE)]
            print("\n%s over %s, hypercalls' costs %s, guests: %d\n%s" % (*scene, head))
        print(row_line(samples, row, record))


def goal_text(goal):
    return "%s of %s, depth %d, against %s" % (UNITS[goal["measure"]], goal["pattern"],
                                               goal["depth"], goal["against"])


def goals_print(goals):
    print("\nGoals, where one guest is served over a unix socket:")
    for goal in goals:
        sign = ">=" if goal["least"] else "<="
        part = goal["ratio"] / goal["goal"]
        missed = 1 - part if goal["least"] else part - 1
        verdict = "met" if goal["met"] else "missed by %.0f %%" % (100 * missed)
        print("  %-58s %-7s costs %-3s %6.2f [%.2f %.2f]  goal %s %.2f  %s" % (
            goal_text(goal), goal["server"], goal["costs"], goal["ratio"], goal["lo"], goal["hi"],
            sign, goal["goal"], verdict))
    met = sum(goal["met"] for goal in goals)
    print("  %d of %d met" % (met, len(goals)))


def notes_print(samples, costs):
    rounds = max(len(values) for values in samples.rounds.values())
    out, covered = interval_ranks(rounds)
    print("\nMedians of %d rounds, each of which all backends of a row played in turn. Ratios are"
          "\nblkgated's figure to the other's, round by round; [low high] holds their median with a"
          "\nprobability of %.1f %%. CPU us, system calls (sysc), grant-copy calls (copies), their"
          "\noperations (ops) and notifications are the backend's, for each of the application's"
          "\nrequests; server: the NBD server's CPU us. Costs on: %s." % (rounds, 100 * covered,
                                                                       costs))
    return covered


def plot(path, goals, where):
    """Bars for costs off, and a mark for costs on where there is one."""
    groups = {}
    for goal in goals:
        text = goal_text(goal) + (" (%s)" % goal["server"])
        groups.setdefault((goal["least"], text), {})[goal["costs"]] = goal
    panels = []
    for least, title in ((True, "throughput, times the peer's: further right is better"),
                         (False, "CPU and latency, times the peer's: further left is better")):
        bars = [svg.Bar(text, group.get("off"), group.get("on"))
                for (is_least, text), group in groups.items() if is_least == least]
        panels.append((title, [bar for bar in bars if bar.off or bar.on]))
    with open(path, "w", encoding="utf-8") as file:
        file.write(svg.draw("blkgated against its peers, ratio in one run", [where, LEGEND], panels))


def main():
    parser = argparse.ArgumentParser()
    for name in ("--goals", "--samples", "--json", "--plot", "--costs"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    samples = Samples(args.samples)
    if not samples.rounds:
        sys.exit("peers-report: no samples")
    records = [row_record(samples, row, backend) for row in samples.rows
               for backend in samples.backends(row)]
    goals = goal_records(samples, args.goals)
    table_print(samples, records)
    goals_print(goals)
    covered = notes_print(samples, args.costs)
    where = machine()
    with open(args.json, "w", encoding="utf-8") as file:
        json.dump({"machine": where, "costs_on": args.costs, "interval_probability": covered,
                   "rows": records, "goals": goals,
                   "ratios": [record for row in samples.rows
                              for record in ratio_records(samples, row)]}, file, indent=1)
    plot(args.plot, goals, "%(cpus)d x %(cpu)s, Linux %(kernel)s, %(commit)s" % where)
    print("\nwritten: %s, %s" % (args.json, args.plot))


if __name__ == "__main__":
    main()
