# Programs of the suites counts and scale.
set(BENCHMARK_DIR ${CMAKE_CURRENT_LIST_DIR})
set(BENCHMARK_BIN ${CMAKE_BINARY_DIR}/benchmark)

# The gateway's library, guests and NBD servers in one thread (lockstep.h).
function(lockstep_program name)
    add_executable(${name} ${BENCHMARK_DIR}/${name}.c ${BENCHMARK_DIR}/lockstep-disk.c
        ${BENCHMARK_DIR}/lockstep-server.c tests/nbd/wire.c)
    target_include_directories(${name} PRIVATE tests/nbd)
    target_link_libraries(${name} PRIVATE gateway simguest-lib)
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${BENCHMARK_BIN})
endfunction()

lockstep_program(lockstep) # for counts.sh
foreach(name fair waits) # tests
    lockstep_program(${name})
    add_test(NAME lockstep-${name} COMMAND ${CMAKE_SOURCE_DIR}/tests/sim/room.sh ${CMAKE_BINARY_DIR}
        env LD_LIBRARY_PATH=${CMAKE_BINARY_DIR}/sim/lib ${BENCHMARK_BIN}/${name})
    set_tests_properties(lockstep-${name} PROPERTIES LABELS unit TIMEOUT 120)
endforeach()

# many: a guest with a thousand disks, for scale.sh.
add_executable(many ${BENCHMARK_DIR}/many.c)
target_link_libraries(many PRIVATE simguest-lib)
set_target_properties(many PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${BENCHMARK_BIN})
