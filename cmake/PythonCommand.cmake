# The file `mlxterp` that pip puts on the PATH.
install(
  PROGRAMS ${PROJECT_SOURCE_DIR}/python/command.py
  DESTINATION ${SKBUILD_SCRIPTS_DIR}
  RENAME mlxterp
  COMPONENT python)
