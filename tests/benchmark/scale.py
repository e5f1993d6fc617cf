"""scale.py BUILD OUT [--quick]: the measurements of scale.sh, their table, JSON and plot.

Memory is the daemon's resident memory (Rss of /proc/PID/smaps), told apart by what is mapped:
  kept    the kept files, by their path: pages that are the file's, whoever maps them
  rings   the guests' ring pages, one for each disk
  own     all that is anonymous: heap, stacks, buffers
  sim     what only the simulation has: domains' whole memory, grant tables, ports
  code    files: the program and its libraries
An idle disk's figure is what is own, less what that was before the first disk was attached (the base,
by the same configuration), divided by the number of disks. Kept files and rings are shown beside it:
a ring is its guest's memory, and on a real Xen the mapping of a grant is in nobody's Rss.

A kernel that has no page of zeros to map (Linux in a PVM guest) counts what was only read, too.

CPU is what the kernel's scheduler counts for all threads of the daemon, in ns (schedstat).
"""
import glob
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time

COUNTS, QUICK_COUNTS = (1, 10, 100, 1000), (1, 10, 100)
IDLE_S, QUICK_IDLE_S = 10, 5
PAIRS, QUICK_PAIRS = 10, 5
BUSY_S = 2
FAIR_DISKS, FAIR_S = 16, 5
SETTLE_S = 2
GOAL_KIB, GOAL_CPU_PERCENT = 32, 0.5
RING_BYTES_MAX = 16 * 4096
BENCHMARK = os.path.dirname(os.path.abspath(__file__))


class Lab:
    """A simulation with a server, a daemon and its guests, with so many disks."""

    def __init__(self, build, disks):
        self.disks = disks
        self.process = subprocess.Popen([f"{BENCHMARK}/scale.sh", build, "--lab", str(disks)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        _, pid, self.kept_directory = self.reply("ready")
        self.pid = int(pid)

    def reply(self, expected):
        words = self.process.stdout.readline().split()
        if not words or words[0] != expected:
            sys.exit(f"scale: FAILED: {self.disks} disks: not {expected}, but {words}")
        return words

    def tell(self, command, expected):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.reply(expected)

    def attach_s(self):
        return float(self.tell("attach", "attached")[1])

    def answer_s(self):
        return float(self.tell("answer", "answered")[1])

    def kill_s(self):
        """From the kill until each disk has answered a read."""
        start_s = time.monotonic()
        self.pid = int(self.tell("kill", "started")[1])
        self.answer_s()
        return time.monotonic() - start_s

    def load(self, busy, seconds):
        """Requests, the slowest's, the fastest's, and CPU time of the daemon for each."""
        before_s = self.cpu_s()
        total, slowest, fastest = map(int, self.tell(f"load {busy} {seconds}", "loaded")[1:])
        return total, slowest, fastest, (self.cpu_s() - before_s) * 1e6 / total

    def end(self):
        self.process.stdin.close()
        if self.process.wait() != 0:
            sys.exit(f"scale: FAILED: {self.disks} disks: the daemon did not end well")

    def cpu_s(self):
        return sum(int(open(path).read().split()[0])
                   for path in glob.glob(f"/proc/{self.pid}/task/*/schedstat")) / 1e9

    def idle_cpu_percent(self, seconds):
        start_s, before_s = time.monotonic(), self.cpu_s()
        time.sleep(seconds)
        return (self.cpu_s() - before_s) / (time.monotonic() - start_s) * 100

    def category(self, name, mapped_bytes):
        if name.startswith(self.kept_directory):
            return "kept"
        if name.startswith("/memfd:domain-memory") and mapped_bytes <= RING_BYTES_MAX:
            return "rings"
        if name.startswith("/memfd:"):
            return "sim"
        return "code" if name.startswith("/") else "own"

    def memory_kib(self):
        sums = dict.fromkeys(("own", "rings", "kept", "sim", "code"), 0)
        with open(f"/proc/{self.pid}/smaps") as smaps:
            for line in smaps:
                mapping = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)\n", line)
                if mapping:
                    mapped_bytes = int(mapping[2], 16) - int(mapping[1], 16)
                    category = self.category(mapping[3], mapped_bytes)
                elif line.startswith("Rss:"):
                    sums[category] += int(line.split()[1])
        return sums

    def descriptors(self):
        return len(glob.glob(f"/proc/{self.pid}/fd/*"))

    def threads(self):
        return len(glob.glob(f"/proc/{self.pid}/task/*"))


def idle_kib(memory, base, disks):
    return (memory["own"] - base["own"]) / disks


def measure(lab, quick):
    """The rows of a lab's idle disks, and of 16 busy ones, in both lives of the daemon."""
    base, before_s = lab.memory_kib(), lab.cpu_s()
    row = {"disks": lab.disks, "base_kib": base["own"], "attach_s": lab.attach_s(),
           "attach_cpu_s": lab.cpu_s() - before_s}
    lab.answer_s()
    time.sleep(SETTLE_S)
    memory = lab.memory_kib()
    row |= {"idle_kib": idle_kib(memory, base, lab.disks), "ring_kib": memory["rings"] / lab.disks,
            "kept_kib": memory["kept"] / lab.disks, "descriptors": lab.descriptors(),
            "threads": lab.threads(),
            "idle_cpu_percent": lab.idle_cpu_percent(QUICK_IDLE_S if quick else IDLE_S)}
    fair = [fair_row(lab, "attached")] if lab.disks >= FAIR_DISKS else []
    row["reattach_s"] = lab.kill_s()
    row["reattach_cpu_s"] = lab.cpu_s()
    time.sleep(SETTLE_S)
    memory = lab.memory_kib()
    row |= {"idle_after_restart_kib": idle_kib(memory, base, lab.disks),
            "kept_after_restart_kib": memory["kept"] / lab.disks}
    if fair:
        fair.append(fair_row(lab, "after a restart"))
    return [{name: round(value, 3) for name, value in row.items()}] + fair


def busy_rows(alone, among, pairs):
    """One busy disk, alone and among idle ones, in turn: what drifts, drifts for both."""
    rows, ratios, cpu_ratios = {alone: [], among: []}, [], []
    for _ in range(pairs):
        for lab in (alone, among):
            total, _, _, cpu_us = lab.load(1, BUSY_S)
            rows[lab].append((total / BUSY_S, cpu_us))
        ratios.append(rows[among][-1][0] / rows[alone][-1][0])
        cpu_ratios.append(rows[among][-1][1] / rows[alone][-1][1])
    result = [{"disks": lab.disks, "busy": 1, "pairs": pairs,
               "iops": round(statistics.median(iops for iops, _ in rows[lab])),
               "cpu_us_per_request": round(statistics.median(cpu for _, cpu in rows[lab]), 2)}
              for lab in (alone, among)]
    for name, values in (("iops", ratios), ("cpu", cpu_ratios)):
        values.sort()
        result[1][f"{name}_ratio"] = round(statistics.median(values), 3)
        result[1][f"{name}_ratio_from"] = round(values[len(values) // 4], 3)
        result[1][f"{name}_ratio_to"] = round(values[-1 - len(values) // 4], 3)
    return result


def fair_row(lab, when):
    total, slowest, fastest, cpu_us = lab.load(FAIR_DISKS, FAIR_S)
    return {"disks": lab.disks, "busy": FAIR_DISKS, "when": when, "iops": round(total / FAIR_S),
            "cpu_us_per_request": round(cpu_us, 2), "slowest_over_fastest": round(slowest / fastest, 3)}


def table_print(rows):
    print(f"  {'':>6}{'resident KiB of an idle disk':>44}{'idle CPU':>10}{'attach all':>13}"
          f"{'all again after a kill':>24}\n"
          f"  {'disks':>6}{'ours':>8}{'restarted':>12}{'kept file':>12}{'its ring':>12}{'% of core':>10}"
          f"{'s':>7}{'CPU s':>7}{'s':>14}{'CPU s':>7}{'descriptors':>14}")
    for row in (row for row in rows if "attach_s" in row):
        print(f"  {row['disks']:>6}{row['idle_kib']:>8.1f}{row['idle_after_restart_kib']:>12.1f}"
              f"{row['kept_kib']:>12.1f}{row['ring_kib']:>12.1f}{row['idle_cpu_percent']:>10.3f}{row['attach_s']:>7.2f}"
              f"{row['attach_cpu_s']:>7.2f}{row['reattach_s']:>14.2f}{row['reattach_cpu_s']:>7.2f}"
              f"{row['descriptors']:>14}")
    for row in (row for row in rows if "busy" in row):
        when = f", {row['when']}" if "when" in row else ""
        text = f"  {row['busy']} busy of {row['disks']}{when}: {row['iops']} IOPS, " \
               f"{row['cpu_us_per_request']:.2f} us CPU a request"
        if "iops_ratio" in row:
            text += f"; over alone: IOPS {row['iops_ratio']:.2f} ({row['iops_ratio_from']:.2f} to " \
                    f"{row['iops_ratio_to']:.2f}), CPU {row['cpu_ratio']:.2f} " \
                    f"({row['cpu_ratio_from']:.2f} to {row['cpu_ratio_to']:.2f}), " \
                    f"medians and quartiles of {row['pairs']} pairs"
        if "slowest_over_fastest" in row:
            text += f"; slowest over fastest {row['slowest_over_fastest']:.2f}"
        print(text)


def goals_print(row):
    for what, value, goal in (("resident KiB of an idle disk", row["idle_kib"], GOAL_KIB),
                              ("the same, after a restart", row["idle_after_restart_kib"], GOAL_KIB),
                              ("idle CPU, % of a core", row["idle_cpu_percent"], GOAL_CPU_PERCENT)):
        print(f"  goal: {what}, {row['disks']} disks: <= {goal}: {value:.3f} "
              + ("met" if value <= goal else "MISSED"))


def panel(left, title, unit, counts, lines):
    """A chart with a logarithmic scale, as SVG; lines: name, colour, values. Every second line has its
    figures below it."""
    values = [value for _, _, line in lines for value in line]
    low, high = min(values) / 1.5, max(values) * 1.5
    xs = [left + 55 + i * 230 / max(len(counts) - 1, 1) for i in range(len(counts))]
    parts = [f'<text x="{left + 40}" y="20" font-weight="bold">{title}, {unit}</text>',
             f'<path d="M{left + 35},35 V200 H{left + 305}" stroke="#888" fill="none"/>']
    parts += [f'<text x="{x:.0f}" y="216" text-anchor="middle">{count}</text>'
              for x, count in zip(xs, counts)]
    for number, (name, colour, line) in enumerate(lines):
        ys = [190 - 140 * math.log(value / low) / math.log(high / low) for value in line]
        points = " ".join(f"{x:.0f},{y:.0f}" for x, y in zip(xs, ys))
        parts.append(f'<polyline points="{points}" stroke="{colour}" fill="none" stroke-width="2"/>')
        parts += [f'<text x="{x:.0f}" y="{y + (14 if number % 2 else -5):.0f}" text-anchor="middle" '
                  f'fill="{colour}">{value:.{0 if value >= 10 else 2}f}</text>'
                  for x, y, value in zip(xs, ys, line)]
        parts.append(f'<text x="{left + 40}" y="{234 + 15 * number}" fill="{colour}">{name}</text>')
    return "\n".join(parts)


def plot(path, rows):
    rows = [row for row in rows if "attach_s" in row]
    counts = [row["disks"] for row in rows]

    def line(name):
        return [max(row[name], 0.001) for row in rows]
    memory = [("after a restart of the daemon", "#c60", line("idle_after_restart_kib")),
              ("before one", "#06c", line("idle_kib")), ("goal", "#888", [GOAL_KIB] * len(rows))]
    times = [("attach all", "#06c", line("attach_s")),
             ("take all up again after a kill of the daemon", "#c60", line("reattach_s"))]
    with open(path, "w") as svg:
        svg.write('<svg xmlns="http://www.w3.org/2000/svg" width="680" height="275" '
                  'font-family="sans-serif" font-size="12">\n<rect width="680" height="275" fill="white"/>\n'
                  + panel(0, "Resident memory of an idle disk", "KiB", counts, memory) + "\n"
                  + panel(340, "Time for so many disks", "s", counts, times) + "\n</svg>\n")


def main():
    build, out = sys.argv[1:3]
    quick = "--quick" in sys.argv
    counts, rows = QUICK_COUNTS if quick else COUNTS, []
    labs = {}
    for disks in counts:
        labs[disks] = Lab(build, disks)
        rows += measure(labs[disks], quick)
        if disks not in (counts[0], counts[-1]):
            labs[disks].end()
    alone, among = labs[counts[0]], labs[counts[-1]]
    rows += busy_rows(alone, among, QUICK_PAIRS if quick else PAIRS)
    alone.end()
    among.end()
    os.makedirs(out, exist_ok=True)
    with open(f"{out}/scale.json", "w") as file:
        json.dump({"rows": rows}, file, indent=1)
    plot(f"{out}/scale.svg", rows)
    table_print(rows)
    goals_print(next(row for row in rows if row["disks"] == counts[-1] and "attach_s" in row))


main()
