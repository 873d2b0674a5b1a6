#!/usr/bin/env bash
# The old name of `syncdata-archiver setup`: prepares production for the archiver.
#
# Does what it may, prints as SQL statements what somebody else has to run, and may be run again at any time.
# Arguments are those of setup: without any, the slot and the role syncdata_user are made.
set -euo pipefail

if ! command -v syncdata-archiver >/dev/null; then
  printf 'error: syncdata-archiver is not in PATH\nhint: install it first, for example into /usr/local/bin\n' >&2
  exit 2
fi
if [ $# = 0 ]; then set -- --create-slot --create-user; fi
exec syncdata-archiver setup "$@"
