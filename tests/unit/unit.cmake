# Unit tests: one program for each tests/unit/test_*.c, by cmocka, run in a few seconds in all.
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)

# blkgate_unit_test(NAME [SOURCE...]): tests/unit/test_NAME.c and what else it needs. The test of a
# file of proto/ links nothing but proto: so it stays pure.
function(blkgate_unit_test name)
    add_executable(test_${name} ${CMAKE_SOURCE_DIR}/tests/unit/test_${name}.c ${ARGN})
    set_target_properties(test_${name} PROPERTIES
        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/unit)
    string(REGEX REPLACE "_model$" "" subject ${name})
    if(GATEWAY_SOURCES AND NOT EXISTS ${CMAKE_SOURCE_DIR}/proto/${subject}.c)
        target_link_libraries(test_${name} PRIVATE gateway PkgConfig::CMOCKA Threads::Threads)
    else()
        target_link_libraries(test_${name} PRIVATE proto PkgConfig::CMOCKA Threads::Threads)
    endif()
    target_compile_definitions(test_${name} PRIVATE
        BLKGATE_SOURCE_DIR="${CMAKE_SOURCE_DIR}" BLKGATE_BINARY_DIR="${CMAKE_BINARY_DIR}")
    add_test(NAME unit/${name} COMMAND test_${name})
    set_tests_properties(unit/${name} PROPERTIES LABELS unit TIMEOUT 300)
endfunction()

# A test that needs more than its own file is named here, before the rest: blkgate_unit_test(...).
blkgate_unit_test(histogram ${CMAKE_SOURCE_DIR}/tests/benchmark/histogram.c)

file(GLOB UNIT_TESTS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/unit/test_*.c)
foreach(source IN LISTS UNIT_TESTS)
    string(REGEX REPLACE "^.*/test_(.*)\\.c$" "\\1" name ${source})
    if(NOT TARGET test_${name})
        blkgate_unit_test(${name})
    endif()
endforeach()

add_dependencies(test_target evil) # the server it is tried against
add_dependencies(test_target_sessions evil late)
add_dependencies(test_late evil late)
add_dependencies(test_lean lean)
