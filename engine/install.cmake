# install.cmake - what `cmake --install build` puts where: program, library, headers, pkg-config file, documents; man
# pages and completion by cli/pages.cmake. Nothing of a sanitizer build is installed.
include(GNUInstallDirs)

if(plain)
  install(TARGETS bomsync bomsync_lib bomsync_shared)
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/bomsync DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")

  # GNUInstallDirs gives folders relative to the prefix, or absolute ones where the caller wants that
  foreach(dir libdir includedir)
    string(TOUPPER ${dir} upper)
    if(IS_ABSOLUTE ${CMAKE_INSTALL_${upper}})
      set(pc_${dir} ${CMAKE_INSTALL_${upper}})
    else()
      set(pc_${dir} "\${prefix}/${CMAKE_INSTALL_${upper}}")
    endif()
  endforeach()
  string(REPLACE ";" " " pc_packages "${packages}")
  # made when it is installed: `cmake --install build --prefix P` names another prefix than the one configured
  install(CODE "set(PROJECT_VERSION [==[${PROJECT_VERSION}]==])
    set(pc_libdir [==[${pc_libdir}]==])
    set(pc_includedir [==[${pc_includedir}]==])
    set(pc_packages [==[${pc_packages}]==])
    configure_file([==[${CMAKE_CURRENT_LIST_DIR}/bomsync.pc.in]==] [==[${CMAKE_BINARY_DIR}/bomsync.pc]==] @ONLY)")
  install(FILES ${CMAKE_BINARY_DIR}/bomsync.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

  install(FILES ${CMAKE_SOURCE_DIR}/README.md ${CMAKE_SOURCE_DIR}/LICENSE ${CMAKE_SOURCE_DIR}/engine/CHANGELOG.md
    DESTINATION ${CMAKE_INSTALL_DOCDIR})
  install(FILES ${CMAKE_SOURCE_DIR}/engine/README.md DESTINATION ${CMAKE_INSTALL_DOCDIR}/engine)
  file(GLOB formats CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}/engine ${CMAKE_SOURCE_DIR}/engine/*/FORMAT.md)
  foreach(format ${formats})
    cmake_path(GET format PARENT_PATH stage)
    install(FILES ${CMAKE_SOURCE_DIR}/engine/${format} DESTINATION ${CMAKE_INSTALL_DOCDIR}/engine/${stage})
  endforeach()
  if(NOT CMAKE_CROSSCOMPILING)
    include(${CMAKE_CURRENT_LIST_DIR}/cli/pages.cmake)
  endif()
endif()
