# What is installed beside the daemon. A system's prefix is /usr (preset "release"), for which the
# system configuration is in /etc, where xl looks for scripts. DESTDIR works for all of it.
configure_file(${CMAKE_SOURCE_DIR}/etc/blkgated.service ${CMAKE_BINARY_DIR}/etc/blkgated.service
               @ONLY)

install(PROGRAMS ${CMAKE_SOURCE_DIR}/etc/block-blkgate
        DESTINATION ${CMAKE_INSTALL_FULL_SYSCONFDIR}/xen/scripts)
install(FILES ${CMAKE_BINARY_DIR}/etc/blkgated.service
              ${CMAKE_SOURCE_DIR}/etc/run-blkgate-keep.mount DESTINATION lib/systemd/system)
install(FILES ${CMAKE_SOURCE_DIR}/etc/blkgated.8 ${CMAKE_SOURCE_DIR}/etc/blkgate.8
        DESTINATION ${CMAKE_INSTALL_MANDIR}/man8)
install(FILES ${CMAKE_SOURCE_DIR}/etc/blkgate.conf.5 DESTINATION ${CMAKE_INSTALL_MANDIR}/man5)
install(FILES ${CMAKE_SOURCE_DIR}/etc/xl-disk.example ${CMAKE_SOURCE_DIR}/etc/blkgate.conf
        DESTINATION ${CMAKE_INSTALL_DOCDIR})

# The configuration is the operator's: only a missing one is installed.
install(CODE "
    set(conf_dir \"\$ENV{DESTDIR}${CMAKE_INSTALL_FULL_SYSCONFDIR}/blkgate\")
    if(NOT EXISTS \"\${conf_dir}/blkgate.conf\")
        file(INSTALL \"${CMAKE_SOURCE_DIR}/etc/blkgate.conf\" DESTINATION
             \"${CMAKE_INSTALL_FULL_SYSCONFDIR}/blkgate\")
    endif()
")
