# pages.cmake - man pages and shell completion, printed by the program that was just built, so that they cannot differ
# from it. Include it after the target `bomsync`; not when cross-compiling, where the program cannot run.
set(pages ${CMAKE_BINARY_DIR}/pages)
set(commands diff apply init sync export log show cat get history diff-generations revert exceptions holds approve decline
    audit verify backup restore gc stats status doctor pack gen bench help version)
set(print COMMAND ${CMAKE_COMMAND} -E make_directory ${pages} COMMAND bomsync help --man -o ${pages}/bomsync.1)
foreach(c ${commands})
  list(APPEND print COMMAND bomsync help --man ${c} -o ${pages}/bomsync-${c}.1)
endforeach()
list(APPEND print
  COMMAND bomsync help --completion bash -o ${pages}/bomsync
  COMMAND bomsync help --completion zsh -o ${pages}/_bomsync
  COMMAND bomsync help --completion fish -o ${pages}/bomsync.fish)
add_custom_command(OUTPUT ${pages}/bomsync.1 ${print} DEPENDS bomsync COMMENT "man pages and completion" VERBATIM)
add_custom_target(bomsync_pages ALL DEPENDS ${pages}/bomsync.1)

include(GNUInstallDirs)
set(readable OWNER_READ OWNER_WRITE GROUP_READ WORLD_READ) # -o makes private files
install(DIRECTORY ${pages}/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 FILE_PERMISSIONS ${readable} FILES_MATCHING PATTERN "*.1")
install(FILES ${pages}/bomsync PERMISSIONS ${readable} DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES ${pages}/_bomsync PERMISSIONS ${readable} DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES ${pages}/bomsync.fish PERMISSIONS ${readable} DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
