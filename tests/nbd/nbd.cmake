# An NBD server that misbehaves on request. No sanitizers: it is not what is tested.
add_executable(evil tests/nbd/evil.c tests/nbd/wire.c)
target_compile_options(evil PRIVATE -fno-sanitize=all)
target_link_libraries(evil PRIVATE Threads::Threads)
set_target_properties(evil PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/nbd)
