#!/usr/bin/python3 -B
"""conduct.py: lets players (player.h) play the rows of one scene in turn, and keeps what they say.

    conduct.py --rows FILE --scene "SERVER VIA COSTS GUESTS" --rounds N --seconds S [--quick]
               --samples FILE NAME=COMMAND...

Each row is played in rounds, A B C A B C ..., so that what the machine does besides hits all alike
and each round can be compared in itself. All players stay connected; only one at a time plays. Each
first writes a while for nothing: what a backend does only once, such as to grow, is over then.
Where the kernel counts system calls there is one more round for that, which is not timed. Appends
a line of JSON to the samples for each time that one played."""

import argparse
import json
import select
import shlex
import signal
import subprocess
import sys

ANSWER_SECONDS = 60  # beyond the run itself
REHEARSAL = {"pattern": "64k-seqwrite", "depth": 32}
REHEARSAL_BYTES = 128 << 20  # of each guest: twice what blkgated keeps of a disk before it flushes
REHEARSAL_RUNS = 20          # but no more than these
COUNTED = ("blkgated", "qemu", "libnbd", "libnbd-merged")  # whose system calls can be counted


class Failure(Exception):
    pass


class Player:
    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def answer(self, seconds):
        """One line; only one is ever on its way, so that none hides in a buffer."""
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            raise Failure(f"{self.name} does not answer")
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"{self.name} ended")
        answer = json.loads(line)
        if "error" in answer:
            raise Failure(f"{self.name}: {answer['error']}")
        if answer.get("errors") or answer.get("wrong"):
            raise Failure(f"{self.name}: {answer['errors']} errors, {answer['wrong']} wrong reads")
        return answer

    def say(self, line, seconds=0.0):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.answer(seconds + ANSWER_SECONDS)

    def end(self):
        self.process.stdin.close()
        try:
            return self.process.wait(ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            return self.process.wait()


def rows_read(path, scene, quick):
    rows = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            words = line.split("#")[0].split()
            if words and words[:4] == scene.split() and (words[7] == "quick" or not quick):
                rows.append({"pattern": words[4], "depth": int(words[5]),
                             "backends": words[6].split(",")})
    return rows


def play(players, backend, row, seconds, more=""):
    """What a backend does in a row; libnbd-merged is libnbd, told so."""
    player = players[backend.removesuffix("-merged")]
    if backend.endswith("-merged"):
        more += " merged"
    return player.say(f"run {row['pattern']} {row['depth']} {seconds}{more}", seconds)


def rehearse(players, backend, args):
    """Memory that is used for the first time is slow: by bytes, since by time it would be too few."""
    left = REHEARSAL_BYTES * int(args.scene.split()[3])
    for _ in range(REHEARSAL_RUNS):
        figures = play(players, backend, REHEARSAL, args.seconds)
        left -= figures["bytes_per_s"] * figures["seconds"]
        if left <= 0:
            break


def row_play(players, row, args, samples):
    server, via, costs, guests = args.scene.split()
    scene = {"server": server, "transport": via, "costs": costs, "guests": int(guests)}
    said = {}
    for number in range(args.rounds):
        for backend in row["backends"]:
            figures = play(players, backend, row, args.seconds)
            samples.write(json.dumps(scene | {"backend": backend, "round": number} | figures) + "\n")
            said.setdefault(backend, []).append(figures["iops"])
    for backend in row["backends"]:
        if backend not in COUNTED:
            continue
        figures = play(players, backend, row, args.seconds / 2, " syscalls")
        samples.write(json.dumps(scene | {"backend": backend, "round": -1} | figures) + "\n")
    samples.flush()
    medians = ", ".join(f"{name} {sorted(iops)[len(iops) // 2]:.0f}" for name, iops in said.items())
    print(f"  {row['pattern']:<14} depth {row['depth']:>3}   IOPS: {medians}", flush=True)


def stop(number, _frame):
    raise Failure(f"ended by signal {number}")


def main():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    parser = argparse.ArgumentParser()
    for name in ("--rows", "--scene", "--samples"):
        parser.add_argument(name, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("players", nargs="+")
    args = parser.parse_args()
    rows = rows_read(args.rows, args.scene, args.quick)
    needed = {backend.removesuffix("-merged") for row in rows for backend in row["backends"]}
    needed.add("libnbd")  # it fills the disk
    players, status = {}, 0
    try:
        for name, command in (player.split("=", 1) for player in args.players):
            if name in needed:
                players[name] = Player(name, command)
                players[name].answer(ANSWER_SECONDS)
        players["libnbd"].say("fill")
        for backend in needed - {"fio"}:
            rehearse(players, backend, args)
        with open(args.samples, "a", encoding="utf-8") as samples:
            for row in rows:
                row_play(players, row, args, samples)
    except Failure as failure:
        print(f"conduct: {failure}", file=sys.stderr)
        status = 1
    for player in players.values():
        if player.end() != 0:
            print(f"conduct: {player.name} did not end well", file=sys.stderr)
            status = 1
    sys.exit(status)


main()
