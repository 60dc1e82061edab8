# SPDX-License-Identifier: Apache-2.0
# What ctest reads: every program of tests/run.py is a test, with its folder as label.
execute_process(COMMAND /usr/bin/python3 @CMAKE_CURRENT_SOURCE_DIR@/run.py @CMAKE_BINARY_DIR@ --list
  OUTPUT_VARIABLE programs OUTPUT_STRIP_TRAILING_WHITESPACE)
string(REPLACE "\n" ";" programs "${programs}")
foreach(program ${programs})
  string(REGEX MATCH "^[^ ]+" label "${program}")
  string(REGEX REPLACE "^[^ ]+ " "" name "${program}")
  add_test(${name} /usr/bin/python3 @CMAKE_CURRENT_SOURCE_DIR@/run.py @CMAKE_BINARY_DIR@ =${name})
  set_tests_properties(${name} PROPERTIES LABELS ${label} RUN_SERIAL TRUE)
endforeach()
