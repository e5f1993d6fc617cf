# Load generators for tests/bench. No sanitizers and always optimised: they must bound nothing.
set(BENCHMARK_DIR ${CMAKE_SOURCE_DIR}/tests/benchmark)
function(benchmark_program name)
    add_executable(${name} ${ARGN})
    target_compile_options(${name} PRIVATE -fno-sanitize=all -O2)
    set_target_properties(${name} PROPERTIES
        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/benchmark)
endfunction()

set(PLAYER_SOURCES ${BENCHMARK_DIR}/player.c ${BENCHMARK_DIR}/pattern.c
    ${BENCHMARK_DIR}/histogram.c ${BENCHMARK_DIR}/window.c)
benchmark_program(benchguest ${BENCHMARK_DIR}/benchguest.c ${BENCHMARK_DIR}/benchdisk.c
    ${PLAYER_SOURCES})
target_link_libraries(benchguest PRIVATE simguest-lib)

# Loaded into QEMU, which no sanitizer has built.
add_library(qemu-shim SHARED ${BENCHMARK_DIR}/qemu-shim.c)
target_compile_options(qemu-shim PRIVATE -fno-sanitize=all)
target_link_options(qemu-shim PRIVATE -fno-sanitize=all)
set_target_properties(qemu-shim PROPERTIES PREFIX ""
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/benchmark)

benchmark_program(floor ${BENCHMARK_DIR}/floor.c ${PLAYER_SOURCES})
target_link_libraries(floor PRIVATE PkgConfig::NBD)

find_program(PYTHON3 python3 PATHS /usr/bin NO_DEFAULT_PATH)
if(PYTHON3)
    foreach(name report xen_report)
        add_test(NAME unit/${name} COMMAND ${PYTHON3} -B ${BENCHMARK_DIR}/test_${name}.py)
        set_tests_properties(unit/${name} PROPERTIES LABELS unit TIMEOUT 60)
    endforeach()
endif()
