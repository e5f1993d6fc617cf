"""counts.py OUT KEPT [--check | --keep]: counts.sh's table, its JSON file, its plot, and the comparison."""
import json
import re
import subprocess
import sys

import svg

# What --check lets pass: a tenth more, and no less than this for a figure that is near zero.
WORSE = 0.10
SLACK = {"syscalls": 0.02, "grant_copy_calls": 0.01, "copy_ops": 0.01, "nbd_commands": 0.01,
         "instructions": 50}
TITLES = {"syscalls": "system calls", "grant_copy_calls": "grant-copy calls", "copy_ops": "copies",
          "nbd_commands": "NBD commands", "instructions": "instructions"}
GOALS = [  # issue 5, "counts (lockstep)"; libnbd needs 3.0 system calls for a command
    ("4k-randread", 32, "syscalls", 3.4),
    ("4k-randread", 32, "grant_copy_calls", 0.1),
    ("4k-seqread", 32, "nbd_commands", 1 / 8),
    ("4k-seqread", 32, "syscalls", 0.8),
    ("4k-seqwrite", 32, "nbd_commands", 1 / 8),
    ("4k-seqwrite", 32, "syscalls", 0.8),
]
HOW_TO_KEEP = ("new figures are taken in by `tests/bench counts --keep` and a commit of "
               "tests/benchmark/counts.json that says why")
MARK_BEGIN, MARK_END = "close(-1000)", "close(-1001)"


def fail(text):
    sys.exit(f"counts: FAILED: {text}")


def system_calls(path):
    """Those between the marks, by name."""
    calls, counting = {}, False
    with open(path) as trace:
        for line in trace:
            if line.startswith((MARK_BEGIN, MARK_END)):
                counting = line.startswith(MARK_BEGIN)
                continue
            name = re.match(r"(\w+)\(", line)
            slept = line.startswith("epoll_wait(") and line.endswith("= 0\n")
            if counting and name and not slept:
                calls[name[1]] = calls.get(name[1], 0) + 1
    return calls


def instructions(path):
    with open(path) as profile:
        for line in profile:
            if line.startswith("summary: "):
                return int(line.split()[1])
    fail(f"{path} has no summary")


def row_read(out, pattern, depth):
    base = f"{out}/counts/{pattern}.{depth}"
    with open(f"{base}.traced") as traced, open(f"{base}.profiled") as profiled:
        line, again = traced.read(), profiled.read()
    if line != again:
        fail(f"{pattern}, depth {depth} did not come out the same twice:\n{line}{again}")
    words = line.split()
    counted = {name: int(number) for name, number in zip(words[::2], words[1::2])}
    calls = system_calls(f"{base}.strace")
    counted["syscalls"] = sum(calls.values())
    counted["instructions"] = instructions(f"{base}.callgrind")
    requests = counted.pop("requests")
    row = {"pattern": pattern, "depth": depth}
    row |= {name: round(number / requests, 4) for name, number in counted.items()}
    row["instructions"] = round(row["instructions"])
    row["by_name"] = {name: round(number / requests, 4) for name, number in sorted(calls.items())}
    return row


def versions():
    def first_line(*command):
        return subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[0]
    return {"compiler": first_line("cc", "--version"), "valgrind": first_line("valgrind", "--version"),
            "libnbd": first_line("pkg-config", "--modversion", "libnbd")}


def table_print(rows):
    print(f"  per guest request {'depth':>13}" + "".join(f"{t:>17}" for t in TITLES.values()))
    for row in rows:
        print(f"  {row['pattern']:<25}{row['depth']:>6}"
              + "".join(f"{row[name]:>17.{0 if name == 'instructions' else 3}f}" for name in TITLES))


def goals_print(rows):
    for pattern, depth, name, goal in GOALS:
        is_now = next(r[name] for r in rows if (r["pattern"], r["depth"]) == (pattern, depth))
        print(f"  goal: {pattern}, depth {depth}: {TITLES[name]} <= {goal:.3f}: {is_now:.3f} "
              + ("met" if is_now <= goal else "MISSED"))


def plot(path, rows, where):
    panels = []
    for name in ("syscalls", "nbd_commands", "grant_copy_calls"):
        goals = {(pattern, depth): goal for pattern, depth, measure, goal in GOALS if measure == name}
        bars = []
        for row in rows:
            goal, value = goals.get((row["pattern"], row["depth"])), row[name]
            bars.append(svg.Bar(f"{row['pattern']}, depth {row['depth']}", {
                "ratio": value, "lo": value, "hi": value, "goal": goal,
                "met": goal is None or value <= goal}, None))
        panels.append((f"{TITLES[name]} for one request: further left is better", bars))
    with open(path, "w", encoding="utf-8") as file:
        file.write(svg.draw("What a guest's request costs blkgated, in lockstep", [
            f"{where['compiler']}, {where['valgrind']}, libnbd {where['libnbd']}",
            "bars begin at one for each request; blue: the goal"], panels))


def compare(rows, kept_path):
    """True if nothing is worse."""
    try:
        with open(kept_path) as file:
            kept = {(r["pattern"], r["depth"]): r for r in json.load(file)["rows"]}
    except FileNotFoundError:
        fail(f"there is no {kept_path} to compare with: {HOW_TO_KEEP}")
    complaints, better = [], 0
    if kept.keys() != {(r["pattern"], r["depth"]) for r in rows}:
        complaints.append("the rows are others than those kept")
    for row in rows:
        for name in TITLES:
            old, new = kept.get((row["pattern"], row["depth"]), row)[name], row[name]
            slack = max(WORSE * old, SLACK[name])
            better += new < old - slack
            if new > old + slack:
                complaints.append(f"{row['pattern']}, depth {row['depth']}: {TITLES[name]} {new:g}, "
                                  f"kept {old:g}" + (f" ({new / old - 1:+.0%})" if old else ""))
    for complaint in complaints:
        print(f"counts: FAILED: {complaint}", file=sys.stderr)
    print(f"counts: {len(complaints)} worse, {better} better by more than a tenth, of "
          f"{len(rows) * len(TITLES)} figures")
    if complaints or better:
        print(f"counts: {HOW_TO_KEEP}")
    return not complaints


def main():
    out, kept_path, mode = (sys.argv + [""])[1:4]
    with open(f"{out}/counts/rows") as file:
        rows = [row_read(out, pattern, int(depth)) for pattern, depth in map(str.split, file)]
    with open(f"{out}/counts.json", "w") as file:
        json.dump({"with": versions(), "rows": rows}, file, indent=1)
    plot(f"{out}/counts.svg", rows, versions())
    table_print(rows)
    goals_print(rows)
    if mode == "--keep":
        with open(kept_path, "w") as file:
            lines = (json.dumps({k: v for k, v in row.items() if k != "by_name"}) for row in rows)
            file.write(f'{{"with": {json.dumps(versions())},\n "rows": [\n  '
                       + ",\n  ".join(lines) + "\n]}\n")
    if mode == "--check" and not compare(rows, kept_path):
        sys.exit(1)


main()
