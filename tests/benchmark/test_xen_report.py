#!/usr/bin/python3 -B
"""What the report makes of a lab's logs."""

import json
import os
import tempfile
import unittest

import xen_report as report

CLOCKS = """play 1 backend=blkgated pattern=4k-randread depth=32 round=0
clock 1 before uptime_ticks=1000 dom0_ticks=100 dom0_switches=1000 daemon_ns=5000000 \
daemon_user_ticks=10 daemon_system_ticks=20 daemon_switches=7 server_ns=1000
clock 1 after uptime_ticks=1250 dom0_ticks=300 dom0_switches=4000 daemon_ns=105000000 \
daemon_user_ticks=15 daemon_system_ticks=35 daemon_switches=507 server_ns=50001000
play 2 backend=blkback+nbd.ko pattern=4k-randread depth=32 round=0
clock 2 before uptime_ticks=1 dom0_ticks=1 dom0_switches=1 daemon_ns=1 \
daemon_user_ticks=1 daemon_system_ticks=1 daemon_switches=1 server_ns=1
"""
FIO = {"usr_cpu": 10, "sys_cpu": 30,
       "read": {"iops": 400.0, "bw_bytes": 1638400, "runtime": 2000, "total_ios": 800,
                "io_bytes": 3276800,
                "lat_ns": {"percentile": {"50.000000": 80000, "99.000000": 90000,
                                          "99.900000": 100000}}},
       "write": {"iops": 0.0, "total_ios": 0}}
# 1000 requests of 4 KiB, in the ring 500.
STAT = [100, 0, 800, 0, 0, 0, 0, 0] + [600, 500, 8800, 0, 0, 0, 0, 0]
CONSOLE = ("GUEST: up after 3 s\nGUEST: disk xvda queues=1 segments=32\r\nGUEST: ready\nGUEST: played 1\n"
           "GUEST: stat 1 %s\r\nGUEST: fio 1 %s\r\n" % (" ".join(map(str, STAT)),
                                                      json.dumps({"jobs": [FIO]})))


class Report(unittest.TestCase):
    def setUp(self):
        with tempfile.TemporaryDirectory() as directory:
            os.mkdir(os.path.join(directory, "guests"))
            for name, content in (("bench.clocks", CLOCKS), ("guests/guest-bench.log", CONSOLE)):
                with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                    file.write(content)
            self.runs, self.disks = report.runs_read(directory)

    def test_a_run_that_was_not_ended_is_left_out(self):
        self.assertEqual([run.what["backend"] for run in self.runs], ["blkgated"])

    def test_disks(self):
        self.assertEqual(self.disks, {"xvda": {"queues": "1", "segments": "32"}})

    def test_sample(self):
        sample = self.runs[0].sample()
        self.assertEqual((sample["iops"], sample["p50_us"], sample["p999_us"]), (400, 80, 100))
        self.assertEqual((sample["pattern"], sample["depth"], sample["round"]), ("4k-randread", 32, 0))
        self.assertAlmostEqual(sample["player_cpu_us_per_request"], 1000)

    def test_what_was_spent_is_shared_by_all_requests(self):
        sample = self.runs[0].sample()
        self.assertAlmostEqual(sample["ring_requests"], 0.5)
        self.assertAlmostEqual(sample["dom0_cpu_us_per_request"], 2000)
        self.assertAlmostEqual(sample["cpu_us_per_request"], 100)
        self.assertAlmostEqual(sample["server_cpu_us_per_request"], 50)
        self.assertAlmostEqual(sample["dom0_switches"], 3)
        self.assertAlmostEqual(sample["dom0_busy"], 0.8)
        self.assertAlmostEqual(sample["cpu_user_part"], 0.25)

    def test_what_is_not_known_is_null(self):
        sample = self.runs[0].sample() | {"backend": report.PEER}
        del sample["cpu_us_per_request"]
        with tempfile.NamedTemporaryFile("w", suffix=".samples") as file:
            file.write(json.dumps(sample) + "\n")
            file.flush()
            samples = report.Samples(file.name)
        record = report.row_record(samples, samples.rows[0], report.PEER)
        self.assertIsNone(record["cpu_us_per_request"])
        self.assertEqual(record["iops"], 400)


if __name__ == "__main__":
    unittest.main()
