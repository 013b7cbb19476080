#!/bin/sh
# Stands in for runsc. For a slot and call that a test has armed it misbehaves, once; else it is the real one.
faults=@FAULTS@ slots=@SLOTS@ real=@REAL@
for word; do
  case $word in
    --root=*) executor=${word#--root=} ;;
    -*) ;;
    *) call=$word && break ;;
  esac
done
executor=${executor%/gvisor/root} executor=${executor##*/}
for armed in "$faults"/*/"$call" "$faults"/*/"$call.always"; do
  [ -e "$armed" ] || continue
  slot=${armed%/*} slot=${slot##*/}
  grep -qs "$executor" "$slots/default:$slot/slot.json" || continue
  read -r fault <"$armed" || continue
  case $armed in *.always) break ;; esac
  mv "$armed" "$faults/$slot/met.$call" && break
  fault=
done 2>/dev/null

ulimit -c 0
case ${fault:-} in
  refuses) echo "the flux is out of phase" >&2; exit 1 ;;
  hangs) exec sleep 1000 ;;
  lies) echo "}{ no answer"; exit 0 ;;
  dies) kill -KILL $$ ;;
  crashes) printf 'panic: the flux is out of phase\n\ngoroutine 1 [running]:\nmain.main()\n' >&2; kill -SEGV $$ ;;
  lingers) "$real" "$@"; exec sleep 1000 ;;
  denies) "$real" "$@"; echo "the flux is out of phase" >&2; exit 1 ;;
esac
exec "$real" "$@"
