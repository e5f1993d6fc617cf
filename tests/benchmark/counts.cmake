# Programs of the suites counts and scale.
# lockstep: the gateway's library, a guest and an NBD server in one thread, for counts.sh.
set(BENCHMARK_DIR ${CMAKE_CURRENT_LIST_DIR})
set(BENCHMARK_BIN ${CMAKE_BINARY_DIR}/benchmark)

add_executable(lockstep ${BENCHMARK_DIR}/lockstep.c ${BENCHMARK_DIR}/lockstep-disk.c
    ${BENCHMARK_DIR}/lockstep-server.c tests/nbd/wire.c)
target_include_directories(lockstep PRIVATE tests/nbd)
target_link_libraries(lockstep PRIVATE gateway simguest-lib)
set_target_properties(lockstep PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${BENCHMARK_BIN})

# fair: likewise, two disks on one worker; a test.
add_executable(fair ${BENCHMARK_DIR}/fair.c ${BENCHMARK_DIR}/lockstep-disk.c
    ${BENCHMARK_DIR}/lockstep-server.c tests/nbd/wire.c)
target_include_directories(fair PRIVATE tests/nbd)
target_link_libraries(fair PRIVATE gateway simguest-lib)
set_target_properties(fair PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${BENCHMARK_BIN})
add_test(NAME lockstep-fair COMMAND ${CMAKE_SOURCE_DIR}/tests/sim/room.sh ${CMAKE_BINARY_DIR}
    env LD_LIBRARY_PATH=${CMAKE_BINARY_DIR}/sim/lib ${BENCHMARK_BIN}/fair)
set_tests_properties(lockstep-fair PROPERTIES LABELS unit TIMEOUT 120)

# many: a guest with a thousand disks, for scale.sh.
add_executable(many ${BENCHMARK_DIR}/many.c)
target_link_libraries(many PRIVATE simguest-lib)
set_target_properties(many PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${BENCHMARK_BIN})

# waits: likewise, one disk; a test.
add_executable(waits ${BENCHMARK_DIR}/waits.c ${BENCHMARK_DIR}/lockstep-disk.c
    ${BENCHMARK_DIR}/lockstep-server.c tests/nbd/wire.c)
target_include_directories(waits PRIVATE tests/nbd)
target_link_libraries(waits PRIVATE gateway simguest-lib)
set_target_properties(waits PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${BENCHMARK_BIN})
add_test(NAME lockstep-waits COMMAND ${CMAKE_SOURCE_DIR}/tests/sim/room.sh ${CMAKE_BINARY_DIR}
    env LD_LIBRARY_PATH=${CMAKE_BINARY_DIR}/sim/lib ${BENCHMARK_BIN}/waits)
set_tests_properties(lockstep-waits PROPERTIES LABELS unit TIMEOUT 120)
