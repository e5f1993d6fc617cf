# What ctest runs. A level that is not there is no error: it is then not run.
include(tests/nbd/nbd.cmake OPTIONAL)
include(tests/unit/unit.cmake OPTIONAL)
include(tests/sim/sim.cmake OPTIONAL)
include(tests/system/system.cmake OPTIONAL)
include(tests/recovery/recovery.cmake OPTIONAL)
include(tests/benchmark/benchmark.cmake OPTIONAL)
include(tests/benchmark/counts.cmake OPTIONAL)
