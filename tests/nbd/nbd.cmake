# NBD servers of our own: evil breaks the protocol on request, late is late but correct, lean is
# quick. No sanitizers: they are not what is tested.
foreach(server evil late lean)
    add_executable(${server} tests/nbd/${server}.c tests/nbd/wire.c)
    target_compile_options(${server} PRIVATE -fno-sanitize=all)
    target_link_libraries(${server} PRIVATE Threads::Threads)
    set_target_properties(${server} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/nbd)
endforeach()
target_sources(late PRIVATE tests/nbd/store.c)
target_compile_options(lean PRIVATE -O2) # in every build: it must bound nothing
