#!/usr/bin/env bash
#
# The go command as everything here is built: always with the same flags, so that what one build compiled the next one
# finds in Go's cache. No debug information: nobody debugs these programs, and it is a tenth of the work.
#
#   e2e/go.sh build|install ARGUMENT...

set -euo pipefail
export PATH=$PATH:/usr/local/go/bin:$HOME/go/bin
export CGO_ENABLED=0
export GOGC=400 # the compiler collects garbage less often: a fifth less work for a few hundred MiB more
export GOFLAGS="-buildvcs=false -gcflags=all=-dwarf=false"

command=$1
shift
exec go "$command" -trimpath -ldflags "-s -w ${GO_LDFLAGS:-}" "$@"
