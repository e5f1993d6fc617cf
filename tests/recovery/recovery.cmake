# The daemon with switches for its protections (gateway/faults.h): with one off, the scenario that
# holds it must fail. Never installed.
add_executable(blkgated-faulty ${GATEWAY_SOURCES} gateway/main.c)
target_compile_definitions(blkgated-faulty PRIVATE BLKGATE_FAULTS)
target_link_libraries(blkgated-faulty PRIVATE proto PkgConfig::NBD PkgConfig::XENGNTTAB
    PkgConfig::XENEVTCHN PkgConfig::XENSTORE PkgConfig::INIH PkgConfig::SYSTEMD ${EV_LIBRARY}
    Threads::Threads)
# clang-tidy looks at each file once, as the daemon has it.
set_target_properties(blkgated-faulty PROPERTIES EXPORT_COMPILE_COMMANDS OFF)

# A guest that a script tells what to do.
add_executable(play ${CMAKE_CURRENT_LIST_DIR}/play.c)
target_link_libraries(play PRIVATE simguest-lib)
set_target_properties(play PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/recovery)
