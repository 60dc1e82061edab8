# SPDX-License-Identifier: Apache-2.0
# Writes OUT with what a result must say of the program that made it; touches it only when something changed.
execute_process(COMMAND git -C ${SOURCE} rev-parse HEAD OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
execute_process(COMMAND git -C ${SOURCE} status --porcelain --untracked-files=no OUTPUT_VARIABLE changes ERROR_QUIET)
if(NOT commit)
  set(commit unknown)
endif()
set(dirty false)
if(changes)
  set(dirty true)
endif()
string(STRIP "${FLAGS}" FLAGS)
set(text "#pragma once
#define DSGD_COMMIT \"${commit}\"
#define DSGD_DIRTY ${dirty}
#define DSGD_COMPILER \"${COMPILER}\"
#define DSGD_BUILD_TYPE \"${TYPE}\"
#define DSGD_FLAGS \"${FLAGS}\"
")
set(old "")
if(EXISTS ${OUT})
  file(READ ${OUT} old)
endif()
if(NOT old STREQUAL text)
  file(WRITE ${OUT} "${text}")
endif()
