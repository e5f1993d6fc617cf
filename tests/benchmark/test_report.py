#!/usr/bin/python3 -B
"""What the report makes of known samples."""

import json
import tempfile
import unittest

import peers_report as report

ROW = ("lean", "unix", "off", 1, "4k-randread", 32)


def sample(backend, number, iops, **more):
    figures = dict.fromkeys(report.FIGURES, 1.0) | {"iops": iops} | more
    return dict(zip(report.ROW, ROW)) | {"backend": backend, "round": number} | figures


def samples_of(lines):
    with tempfile.NamedTemporaryFile("w", suffix=".samples") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
        file.flush()
        return report.Samples(file.name)


def goals_of(text, samples):
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        return report.goal_records(samples, file.name)


class Report(unittest.TestCase):
    def test_interval_of_ten_leaves_out_one_at_either_end(self):
        out, covered = report.interval_ranks(10)
        self.assertEqual(out, 1)
        self.assertAlmostEqual(covered, 1 - 22 / 1024)

    def test_interval_of_few_is_all_of_them(self):
        self.assertEqual(report.interval_ranks(3), (0, 0.75))
        self.assertEqual(report.interval_ranks(1), (0, 0.0))

    def test_spread(self):
        self.assertEqual(report.spread([9, 1, 5]), (5, 1, 9))
        self.assertEqual(report.spread(list(range(10, 0, -1))), (5.5, 2, 9))

    def test_ratio_is_of_rounds_and_not_of_medians(self):
        lines = []
        for number, (ours, theirs) in enumerate(((10, 1), (20, 10), (300, 100))):
            lines += [sample("blkgated", number, ours), sample("qemu", number, theirs)]
        self.assertEqual(report.ratio(samples_of(lines), ROW, "qemu", "iops"), (3, 2, 10))

    def test_a_round_of_system_calls_is_not_timed(self):
        lines = [sample("blkgated", 0, 100), sample("blkgated", -1, 1, syscalls=3.2)]
        record = report.row_record(samples_of(lines), ROW, "blkgated")
        self.assertEqual((record["iops"], record["syscalls"], record["rounds"]), (100, 3.2, 1))

    def test_goals(self):
        lines = []
        for number in range(3):
            lines += [sample("blkgated", number, 150, cpu_us_per_request=6),
                      sample("qemu", number, 100, cpu_us_per_request=10)]
        goals = goals_of("qemu 4k-randread 32 lean,nbdkit iops >=1.5 # a remark\n"
                         "qemu 4k-randread 32 lean cpu_us_per_request <=0.5\n"
                         "fio 4k-randread 32 lean iops >=1\n", samples_of(lines))
        self.assertEqual([(goal["ratio"], goal["met"]) for goal in goals],
                         [(1.5, True), (0.6, False)])


if __name__ == "__main__":
    unittest.main()
