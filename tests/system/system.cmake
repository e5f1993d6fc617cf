# Guests of tests/system that a script and simguest cannot be. sim.cmake comes before.
set(SYSTEM_DIR ${CMAKE_CURRENT_LIST_DIR})

function(system_program name)
    add_executable(${name} ${SYSTEM_DIR}/${name}.c ${SYSTEM_DIR}/probe.c ${ARGN})
    target_link_libraries(${name} PRIVATE simguest-lib)
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/system)
endfunction()

system_program(fault)
system_program(life)
system_program(stall)
system_program(deep)
system_program(merge)
system_program(overlap)
system_program(lives ${SYSTEM_DIR}/lives-rows.c)
