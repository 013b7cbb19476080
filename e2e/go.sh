#!/usr/bin/env bash
#
# The go command as everything here is built: always with the same flags, so that what one build compiled the next one
# finds in Go's cache. No debug information: nobody debugs these programs, and it is a tenth of the work.
#
#   e2e/go.sh build|install ARGUMENT...

set -euo pipefail
export PATH=$PATH:/usr/local/go/bin:$HOME/go/bin
export CGO_ENABLED=0
export GOGC=off GOMEMLIMIT=3GiB # the compiler does not collect garbage while there is room: up to a third less work
export GOFLAGS="-buildvcs=false -gcflags=all=-dwarf=false"

command=$1
shift
exec go "$command" -trimpath -ldflags "-s -w ${GO_LDFLAGS:-}" "$@"
