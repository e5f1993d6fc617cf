# The simulation: a machine without Xen on which the unmodified daemon runs. See README.md.
set(SIM_DIR ${CMAKE_CURRENT_LIST_DIR})
set(SIM_BIN ${CMAKE_BINARY_DIR}/sim)
set(SIM_LIB ${SIM_BIN}/lib)

# What is loaded into other programs is built without their sanitizers: it must fit a daemon built
# with any of them, and xenstored, which is built with none.
function(sim_library name)
    cmake_parse_arguments(ARG "" "MAP" "SOURCES;LIBRARIES" ${ARGN})
    add_library(${name} SHARED ${ARG_SOURCES})
    target_include_directories(${name} PRIVATE ${SIM_DIR})
    target_compile_options(${name} PRIVATE -fno-sanitize=all -O2)
    target_link_options(${name} PRIVATE -fno-sanitize=all)
    target_link_libraries(${name} PRIVATE Threads::Threads ${ARG_LIBRARIES})
    set_target_properties(${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${SIM_LIB})
    if(ARG_MAP)
        target_link_options(${name} PRIVATE -Wl,--version-script=${SIM_DIR}/${ARG_MAP} -Wl,-z,defs)
        set_target_properties(${name} PROPERTIES LINK_DEPENDS ${SIM_DIR}/${ARG_MAP} SOVERSION 1)
    endif()
endfunction()

sim_library(sim-xengnttab MAP gnttab.map
    SOURCES ${SIM_DIR}/gnttab.c ${SIM_DIR}/gnttab-copy.c ${SIM_DIR}/simclient.c
            ${SIM_DIR}/simcost.c)
set_target_properties(sim-xengnttab PROPERTIES OUTPUT_NAME xengnttab)
sim_library(sim-xenevtchn MAP evtchn.map 
    SOURCES ${SIM_DIR}/evtchn.c ${SIM_DIR}/simclient.c ${SIM_DIR}/simcost.c)
set_target_properties(sim-xenevtchn PROPERTIES OUTPUT_NAME xenevtchn)
sim_library(xenstored-shim SOURCES ${SIM_DIR}/xenstored-shim.c LIBRARIES ${CMAKE_DL_LIBS})
# Xen's own headers want anonymous structs by their GNU name.
set_target_properties(xenstored-shim PROPERTIES PREFIX "" C_EXTENSIONS ON)

function(sim_program name)
    add_executable(${name} ${ARGN})
    target_include_directories(${name} PRIVATE ${SIM_DIR})
    target_link_libraries(${name} PRIVATE Threads::Threads)
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${SIM_BIN})
endfunction()

sim_program(simxen ${SIM_DIR}/simxen.c ${SIM_DIR}/simxen-domain.c ${SIM_DIR}/simxen-port.c)
sim_program(simxen-ctl ${SIM_DIR}/simxen-ctl.c ${SIM_DIR}/simclient.c)

# The guest: a library for test programs, and the program that loads and verifies one disk.
add_library(simguest-lib STATIC ${SIM_DIR}/guest.c ${SIM_DIR}/guest-abi.c ${SIM_DIR}/guest-front.c
    ${SIM_DIR}/guest-tool.c ${SIM_DIR}/simclient.c ${SIM_DIR}/simring.c)
target_include_directories(simguest-lib PUBLIC ${SIM_DIR})
target_link_libraries(simguest-lib PUBLIC PkgConfig::XENSTORE Threads::Threads)
sim_program(simguest ${SIM_DIR}/simguest.c ${SIM_DIR}/load.c ${SIM_DIR}/verify.c
    ${SIM_DIR}/hostile.c ${SIM_DIR}/hostile-nodes.c ${SIM_DIR}/case2005.c)
target_link_libraries(simguest PRIVATE simguest-lib)

sim_program(steadyguest ${SIM_DIR}/steadyguest.c ${SIM_DIR}/steady.c ${SIM_DIR}/steady-io.c)
target_link_libraries(steadyguest PRIVATE simguest-lib)

# Links the real libraries; which ones it runs with is LD_LIBRARY_PATH's matter.
sim_program(conform ${SIM_DIR}/conform.c)
target_link_libraries(conform PRIVATE PkgConfig::XENGNTTAB PkgConfig::XENEVTCHN)
add_test(NAME sim-conform COMMAND ${SIM_DIR}/conform.sh ${CMAKE_BINARY_DIR})
set_tests_properties(sim-conform PROPERTIES LABELS unit TIMEOUT 60)

sim_program(selftest ${SIM_DIR}/selftest.c)
target_link_libraries(selftest PRIVATE simguest-lib PkgConfig::XENGNTTAB PkgConfig::XENEVTCHN)
# Debian has two xenstoreds. What is tested on one is tested on both.
function(xenstore_test name timeout)
    foreach(store xenstored oxenstored)
        add_test(NAME ${name}-${store} COMMAND ${ARGN})
        set_tests_properties(${name}-${store} PROPERTIES LABELS unit TIMEOUT ${timeout}
            ENVIRONMENT XENSTORED=${store})
    endforeach()
endfunction()
xenstore_test(sim-selftest 120 ${SIM_DIR}/selftest.sh ${CMAKE_BINARY_DIR})

sim_program(unbound ${SIM_DIR}/unbound.c)
target_link_libraries(unbound PRIVATE gateway simguest-lib)
add_test(NAME sim-unbound COMMAND ${SIM_DIR}/room.sh ${CMAKE_BINARY_DIR}
    env LD_LIBRARY_PATH=${SIM_LIB} ${SIM_BIN}/unbound)
set_tests_properties(sim-unbound PROPERTIES LABELS unit TIMEOUT 60)

# backend and vbd against the real xenstored; the stub's symbols stand in for gateway/worker.c.
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
function(room_test name)
    sim_program(${name} ${SIM_DIR}/${name}.c ${SIM_DIR}/room.c ${SIM_DIR}/stub-worker.c
        ${SIM_DIR}/xsproxy.c)
    target_link_libraries(${name} PRIVATE gateway simguest-lib PkgConfig::CMOCKA)
    xenstore_test(sim-${name} 180 ${SIM_DIR}/room.sh ${CMAKE_BINARY_DIR} ${SIM_BIN}/${name})
endfunction()
room_test(handshake)
room_test(restart)
room_test(mischief)
room_test(toolstacks)
room_test(quota)
target_link_libraries(quota PRIVATE cli)
add_dependencies(quota blkgate)
